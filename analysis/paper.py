"""What the LUQ paper (arXiv 2509.23729 v3, its project page) published, to lay under our points."""

import pandas as pd

LLAVA, QWEN = "LLaVA-1.5-7B", "Qwen2.5-VL-7B"
LAYERS = {LLAVA: 32, QWEN: 28}
BENCHMARKS = (
    "mme_p",
    "mme_c",
    "mmbench",
    "textvqa",
    "vqav2",
    "gqa",
    "pope",
    "chartqa",
    "docvqa",
    "mathvista",
)
NA = None
# model, method, nominal bits, then the scores in the order of BENCHMARKS
MAIN = [
    (LLAVA, "FP16", 16.0, 1510, 350, 63.4, 58.2, 78.5, 62.0, 83.2, NA, NA, 23.6),
    (LLAVA, "GPTQ", 4.0, 1450, 347, 58.2, 56.8, 76.3, 61.4, 76.0, NA, NA, 20.1),
    (LLAVA, "GPTQ", 3.0, 1346, 273, 31.2, 54.1, 73.5, 58.8, 70.5, NA, NA, 16.4),
    (LLAVA, "BiLLM", 1.08, 561, 39, 7.4, 15.6, 37.2, 22.7, 25.5, NA, NA, 3.5),
    (LLAVA, "LUQ, 16 layers", 2.54, 1365, 257, 46.7, 53.4, 74.9, 58.2, 74.5, NA, NA, 18.7),
    (QWEN, "FP16", 16.0, 1695, 640, 82.6, 84.9, 83.5, 60.5, 86.1, 87.3, 95.7, 68.2),
    (QWEN, "GPTQ", 4.0, 1638, 610, 80.2, 84.2, 82.6, 60.1, 84.8, 84.1, 93.4, 44.8),
    (QWEN, "GPTQ", 3.0, 319, 131, 34.7, 79.5, 81.5, 53.4, 82.9, 61.0, 89.2, 21.0),
    (QWEN, "BiLLM", 1.08, 638, 42, 9.7, 26.3, 39.5, 4.3, 70.7, 3.7, 20.3, 15.1),
    (QWEN, "LUQ, 12 layers", 2.75, 1640, 600, 63.7, 81.9, 79.7, 52.9, 84.7, 68.6, 90.5, 41.7),
]
# LLaVA-1.5-7B, MME total by number of 1-bit layers, read off a figure: good to about 10 points
TRADEOFF = {
    0: 1800,
    3: 1740,
    6: 1700,
    9: 1660,
    12: 1650,
    15: 1605,
    18: 1540,
    21: 1420,
    24: 1090,
    27: 880,
    30: 710,
    32: 595,
}
TRADEOFF_FLOAT = 1860
CAVEATS = (
    "The paper counts code bits only (BiLLM 1.08, about 2.9 with its flags and scales), chose k on the benchmark that it "
    "reports, and mixes protocols in its 16-bit row (TextVQA with OCR tokens, VQAv2 from the test server). So only ratios "
    "to the 16-bit score are laid beside ours, and its models are not this one."
)


def nominal_bits(k: int, layers: int) -> float:
    """The paper's average: k layers at 1.08 bits, the others at 4."""
    return (1.08 * k + 4 * (layers - k)) / layers


def published() -> pd.DataFrame:
    """series, x (nominal bits), y (% of the 16-bit MME total), label: the trade-off curve, and Qwen's rows of the main table."""
    rows = [
        {
            "series": f"published: {LLAVA}",
            "x": nominal_bits(k, 32),
            "y": 100 * total / TRADEOFF_FLOAT,
            "label": f"k = {k}",
        }
        for k, total in TRADEOFF.items()
    ]
    total = {
        (model, method, bits): perception + cognition
        for model, method, bits, perception, cognition, *_ in MAIN
    }
    for (model, method, bits), score in total.items():
        if model == QWEN and bits < 16:
            share = 100 * score / total[QWEN, "FP16", 16.0]
            rows.append(
                {
                    "series": f"published: {QWEN}",
                    "x": bits,
                    "y": share,
                    "label": f"{method} {bits:g}",
                }
            )
    return pd.DataFrame(rows)
