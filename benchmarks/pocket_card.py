"""The numbers of a pocket model's card: `python benchmarks/pocket_card.py [pocket_qwen]`, after the sweep it asks for.

Scores and retentions come from the records of `luq sweep card`; the
baseline is the best constant answer per benchmark; effective ranks are of the 16-bit model's calibration Hessians.
"""

import os
import sys
from pathlib import Path
from statistics import median

from rich.console import Console

from luq import registry
from luq.calibration.mixing import build
from luq.config import CalibrationConfig, ModelConfig
from luq.models.families import GROUPS
from luq.models.vlm import load_vlm
from luq.pocket import benchmarks
from luq.quantization.hessian import effective_rank
from luq.quantization.walk import first_inputs, forward, hessians
from luq.questions.prompts import TARGETS
from pipelines import results

out = Console(highlight=False, width=120)


def majority(benchmark: str) -> tuple[float, str]:
    """Score in percent of the best constant answer on the report split, and that answer."""
    rows = benchmarks.build(benchmark, "report")
    module = registry.load("benchmark", benchmark)
    process = getattr(module, benchmark, None) or module.process
    answers = sorted({TARGETS[benchmark](row) for row in rows})
    return max(
        (module.summarise([(row, process(row, [a])) for row in rows]).score, a) for a in answers
    )


def ranks(model: str, alpha: float) -> dict[str, list[float]]:
    """Effective rank of every layer's Hessians, by the first linear of each group."""
    vlm = load_vlm(ModelConfig(model, f"pocket:{model}", device="cpu"))
    states = first_inputs(vlm, build(vlm, CalibrationConfig("card", alpha)))
    found: dict[str, list[float]] = {group[0]: [] for group in GROUPS}
    for layer in vlm.layers:
        made = hessians(layer, states, GROUPS)
        for name in found:
            found[name].append(effective_rank(made[name]))
        forward(layer, states, keep=True)
    return found


def main() -> None:
    outputs, model = (
        Path(os.environ.get("LUQ_OUTPUTS", "outputs")),
        sys.argv[1] if len(sys.argv) > 1 else "pocket_llava",
    )
    records = [r for r in results.iterate(outputs, "card") if r["config"]["model"]["name"] == model]
    runs = {
        record["name"]: record for record in sorted(records, key=lambda r: r["finished"])
    }  # the latest of a name
    if "float16" not in runs:
        out.print(f"first: luq sweep card model={model}")
        sys.exit(1)
    names = [n for n in ("float16", "gptq4", "gptq3", "gptq2", "billm_faithful") if n in runs]
    out.print("| benchmark | best constant answer | " + " | ".join(names) + " |")
    out.print("|---" * (2 + len(names)) + "|")
    for benchmark in runs["float16"]["scores"]:
        score, answer = majority(benchmark)
        cells = [runs[n]["scores"][benchmark] for n in names]
        out.print(
            f"| {benchmark} | {score:.1f} ({answer}) | "
            + " | ".join(f"{c['score']:.1f} ± {c['stderr']:.1f}" for c in cells)
            + " |"
        )
    out.print(
        "| **mean** | | " + " | ".join(f"**{runs[n]['mean_score']:.1f}**" for n in names) + " |"
    )
    out.print(
        "| retention % | | "
        + " | ".join(f"{100 * runs[n]['mean_retention']:.1f}" for n in names)
        + " |"
    )
    out.print(
        "| stored bits | | "
        + " | ".join(f"{runs[n]['memory']['stored_bits']:.3f}" for n in names)
        + " |"
    )
    for alpha in (0.5, 0.0):
        found = ranks(model, alpha)
        every = [r for values in found.values() for r in values]
        parts = ", ".join(
            f"{name.split('.')[1]} {median(values):.1f}" for name, values in found.items()
        )
        out.print(f"\neffective rank at alpha={alpha}: median of all {median(every):.1f}; {parts}")


if __name__ == "__main__":
    main()
