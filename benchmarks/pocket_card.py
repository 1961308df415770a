"""The numbers of a pocket model's card, after the sweep it asks for.

    python benchmarks/pocket_card.py [pocket_qwen]

Scores and retentions come from the records of `luq sweep card`; the baseline is the best constant
answer per benchmark; effective ranks are of the 16-bit model's calibration Hessians.
"""

import os
import sys
from pathlib import Path
from statistics import median

from pocket_calibration import pocket_samples
from rich.console import Console

from luq.config import CalibrationConfig, ModelConfig
from luq.evaluation.scorers import SCORERS
from luq.models.vlm import load_vlm
from luq.pocket import benchmarks
from luq.quantization.hessian import effective_rank
from luq.quantization.layer import hessians
from luq.quantization.layer_calls import shared_inputs
from luq.quantization.states import first_inputs, pass_through
from luq.questions.prompts import TARGETS
from pipelines import runs_folder
from pipelines.record import RunRecord

SWEEP = "card"
RUNS = ("float16", "gptq4", "gptq3", "gptq2", "billm_faithful")  # the table's columns, in order
ALPHAS = (0.5, 0.0)  # shares of multimodal tokens in the calibration that ranks are measured on

out = Console(highlight=False, width=120)


def best_constant_answer(benchmark: str) -> tuple[float, str]:
    """Score in percent of the best constant answer on the report split, and that answer."""
    rows = benchmarks.build(benchmark, "report")
    scorer = SCORERS[benchmark]
    candidates = []
    for answer in sorted({TARGETS[benchmark](row) for row in rows}):
        results_of_rows = [(row, scorer.process(row, [answer])) for row in rows]
        candidates.append((scorer.summarise(results_of_rows).score, answer))
    return max(candidates)


def effective_ranks(model: str, alpha: float) -> dict[str, list[float]]:
    """Effective rank of every layer's Hessians, by the first linear of each group.

    Linears of one group read the same input and so share their Hessian.
    """
    vlm = load_vlm(ModelConfig(model, f"pocket:{model}", device="cpu"))
    states = first_inputs(vlm, pocket_samples(vlm, CalibrationConfig("card", alpha)))
    ranks: dict[str, list[float]] = {}
    for layer in vlm.layers:
        groups = shared_inputs(layer, states)
        layer_hessians = hessians(layer, states, groups)
        for linear, *_ in groups:
            ranks.setdefault(linear, []).append(effective_rank(layer_hessians[linear]))
        pass_through(layer, states)
    return ranks


def latest_runs(outputs: Path, model: str) -> dict[str, RunRecord]:
    """Name of a run -> the latest of its records for a model."""
    records = []
    for record in runs_folder.iterate(outputs, SWEEP):
        if record.config.model.name == model:
            records.append(record)
    records.sort(key=lambda record: record.finished)
    return {record.name: record for record in records}


def print_row(*cells: str) -> None:
    out.print(f"| {' | '.join(cells)} |")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def print_scores(runs: dict[str, RunRecord]) -> None:
    """The table: a row per benchmark, a column per run, then means, retention and bits."""
    names = [name for name in RUNS if name in runs]
    columns = [runs[name] for name in names]
    print_row("benchmark", "best constant answer", *names)
    out.print("|---" * (2 + len(names)) + "|")
    for benchmark in runs["float16"].scores:
        constant_score, answer = best_constant_answer(benchmark)
        cells = []
        for run in columns:
            score = run.scores[benchmark]
            cells.append(f"{score.score:.1f} ± {score.stderr:.1f}")
        print_row(benchmark, f"{constant_score:.1f} ({answer})", *cells)
    print_row("**mean**", "", *(f"**{run.mean_score:.1f}**" for run in columns))
    print_row("retention %", "", *(_percent(run.mean_retention) for run in columns))
    print_row("stored bits", "", *(f"{run.memory.stored_bits:.3f}" for run in columns))


def print_ranks(model: str, alpha: float) -> None:
    ranks = effective_ranks(model, alpha)
    all_ranks = [rank for layer_ranks in ranks.values() for rank in layer_ranks]
    parts = []
    for linear, layer_ranks in ranks.items():
        short_name = linear.split(".")[1]
        parts.append(f"{short_name} {median(layer_ranks):.1f}")
    out.print(
        f"\neffective rank at alpha={alpha}: median of all {median(all_ranks):.1f}; "
        + ", ".join(parts)
    )


def main() -> None:
    outputs = Path(os.environ.get("LUQ_OUTPUTS", "outputs"))
    model = sys.argv[1] if len(sys.argv) > 1 else "pocket_llava"
    runs = latest_runs(outputs, model)
    if "float16" not in runs:
        out.print(f"first: luq sweep card model={model}")
        sys.exit(1)
    print_scores(runs)
    for alpha in ALPHAS:
        print_ranks(model, alpha)


if __name__ == "__main__":
    main()
