"""What the LUQ paper (arXiv 2509.23729 v3, its project page) published, to lay under our points."""

from typing import NamedTuple

import pandas as pd

LLAVA = "LLaVA-1.5-7B"
QWEN = "Qwen2.5-VL-7B"
LLAVA_LAYERS = 32
LOW_BITS = 1.08  # of BiLLM, as the paper counts: codes only
HIGH_BITS = 4.0


class MainRow(NamedTuple):
    """A row of the paper's main table: code bits per weight, and the two parts of MME."""

    model: str
    method: str
    bits: float
    perception: int
    cognition: int

    @property
    def total(self) -> int:
        return self.perception + self.cognition


MAIN = (
    MainRow(QWEN, "FP16", 16.0, 1695, 640),
    MainRow(QWEN, "GPTQ", 4.0, 1638, 610),
    MainRow(QWEN, "GPTQ", 3.0, 319, 131),
    MainRow(QWEN, "BiLLM", 1.08, 638, 42),
    MainRow(QWEN, "LUQ, 12 layers", 2.75, 1640, 600),
)
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
    "The paper counts code bits only (BiLLM 1.08, about 2.9 with its flags and scales), chose k on "
    "the benchmark that it reports, and mixes protocols in its 16-bit row (TextVQA with OCR "
    "tokens, VQAv2 from the test server). So only ratios to the 16-bit score are laid beside ours, "
    "and its models are not this one."
)


def nominal_bits(k: int, layers: int) -> float:
    """The paper's average: k layers at 1.08 bits, the others at 4."""
    return (LOW_BITS * k + HIGH_BITS * (layers - k)) / layers


def published() -> pd.DataFrame:
    """LLaVA's trade-off curve, and Qwen's rows of the main table.

    Returns:
        Columns series, x (nominal bits), y (percent of the 16-bit MME total), label.
    """
    rows = []
    for k, total in TRADEOFF.items():
        rows.append(
            {
                "series": f"published: {LLAVA}",
                "x": nominal_bits(k, LLAVA_LAYERS),
                "y": 100 * total / TRADEOFF_FLOAT,
                "label": f"k = {k}",
            }
        )
    float_row, *quantized = MAIN
    for row in quantized:
        rows.append(
            {
                "series": f"published: {QWEN}",
                "x": row.bits,
                "y": 100 * row.total / float_row.total,
                "label": f"{row.method} {row.bits:g}",
            }
        )
    return pd.DataFrame(rows)
