"""The numbers of a pocket model's card, after the sweep it asks for.

    python benchmarks/pocket_card.py [pocket_qwen]
    python benchmarks/pocket_card.py smol_llava --text test.txt

Scores and retentions come from the records of `luq sweep card`; the baseline is the best constant
answer per benchmark; effective ranks are of the 16-bit model's calibration Hessians. With a text
(WikiText-2's), it says how far the perplexity of smol_llava's decoder is from SmolLM2's own.
"""

import argparse
import math
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from language_model import detokenized
from pocket_calibration import pocket_samples
from rich.console import Console
from smollm2 import packaged_file, write_folder

from luq.config import CalibrationConfig, ModelConfig
from luq.evaluation.measures import bootstrap, perplexity
from luq.evaluation.perplexity import text_losses, text_tokens
from luq.evaluation.scorers import SCORERS
from luq.models.vlm import load_vlm
from luq.pocket import benchmarks
from luq.quantization.hessian import effective_rank
from luq.quantization.layer import hessians
from luq.quantization.layer_calls import shared_inputs
from luq.quantization.states import first_inputs, pass_through
from luq.questions.prompts import TARGETS
from luq.questions.text import text_source
from pipelines import runs_folder
from pipelines.record import RunRecord

SWEEP = "card"
RUNS = ("float16", "gptq4", "gptq3", "gptq2", "billm_faithful")  # the table's columns, in order
ALPHAS = (0.5, 0.0)  # shares of multimodal tokens in the calibration that ranks are measured on
WINDOWS = 24  # sequences of a text, for perplexity
WINDOW_LENGTH = 512  # tokens

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


def effective_ranks(model: ModelConfig, alpha: float) -> dict[str, list[float]]:
    """Effective rank of every layer's Hessians, by the first linear of each group.

    Linears of one group read the same input and so share their Hessian.
    """
    vlm = load_vlm(replace(model, device="cpu"))
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


def losses_on_text(model: ModelConfig, text: Path) -> list[float]:
    """Mean negative log-likelihood (nats per token) of the first windows of a text."""
    vlm = load_vlm(model)
    with tempfile.TemporaryDirectory() as folder:
        source = text_source(str(detokenized(text, Path(folder))), "report")
        tokens = WINDOWS * WINDOW_LENGTH
        sequences = text_tokens(vlm.processor.tokenizer, source, tokens, WINDOW_LENGTH)
    return text_losses(vlm, sequences)


def print_perplexity(model: ModelConfig, text: Path) -> None:
    """Perplexity of a grafted model on a text, beside that of the language model it came from."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(packaged_file(), Path(folder) / "model")
        language_model = ModelConfig("smollm2", str(Path(folder) / "model"), device="cpu")
        losses_before = losses_on_text(language_model, text)
    losses = losses_on_text(replace(model, device="cpu"), text)
    differences = [loss - before for loss, before in zip(losses, losses_before, strict=True)]
    ratio, lowest, highest = (math.exp(nats) for nats in bootstrap(differences))
    out.print(
        f"\nperplexity on {text.name}, {len(losses)} windows of {WINDOW_LENGTH} tokens: "
        f"{perplexity(losses, WINDOW_LENGTH).value:.2f}; SmolLM2's own "
        f"{perplexity(losses_before, WINDOW_LENGTH).value:.2f}; ratio {ratio:.3f} "
        f"[{lowest:.3f}, {highest:.3f}]"
    )


def print_ranks(model: ModelConfig, alpha: float) -> None:
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="pocket_llava")
    parser.add_argument("--text", type=Path, help="of smol_llava: a text for perplexity")
    arguments = parser.parse_args()
    outputs = Path(os.environ.get("LUQ_OUTPUTS", "outputs"))
    runs = latest_runs(outputs, arguments.model)
    if "float16" not in runs:
        out.print(f"first: luq sweep card model={arguments.model}")
        sys.exit(1)
    print_scores(runs)
    model = runs["float16"].config.model
    for alpha in ALPHAS:
        print_ranks(model, alpha)
    if arguments.text is not None:
        print_perplexity(model, arguments.text)


if __name__ == "__main__":
    main()
