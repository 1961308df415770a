"""Commands that work on what finished runs left: `luq compare` and `luq rescore`. No model is loaded."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from luq import registry, results
from luq.errors import ConfigError
from luq.evaluation import harness
from luq.evaluation.compare import Difference, Units, paired
from luq.evaluation.predictions import read_rows
from luq.results import Record
from luq.store import Store, write_json
from pipelines import console
from pipelines.evaluation import ANSWERS, Scored
from pipelines.run import score_part


def find(outputs: Path, name: str) -> Record:
    """The record of SWEEP/NAME, or whose key begins with `name`; a ConfigError with the nearest names if there is none."""
    sweep, _, run = name.partition("/")
    if run:
        named = {record["name"]: record for record in results.iterate(outputs, sweep)}
        if run not in named:
            raise registry.unknown(f"run of sweep {sweep!r}", run, named)
        return named[run]
    files = sorted((outputs / "runs").glob(f"{name}*/{results.FILE}"))
    if len(files) != 1:
        raise ConfigError(f"{len(files)} runs in {outputs} have a key that begins with {name!r}: give SWEEP/NAME or a longer key")
    return results.read(files[0])


def units(store: Store, record: Record) -> dict[str, Units]:
    """Benchmark -> unit -> its value and its weight in the score, from the kept answers."""
    found: dict[str, Units] = {}
    for benchmark, key in record["artefacts"]["evaluate"].items():
        rows = read_rows(store.verify("evaluation", key) / ANSWERS)
        summary = harness.summarise(benchmark, rows)
        named = harness.units(benchmark, rows, summary)
        found[benchmark] = {unit: (v, w) for (unit, v), w in zip(named.items(), summary.weights, strict=True)}
    return found


def table(differences: list[Difference], a: str, b: str) -> Table:
    """One row per benchmark: both scores, their difference with its interval, and who won how often."""
    shown = Table(title=escape(f"A: {a}   B: {b}   (n: units that both answered)"), title_justify="left")
    shown.add_column("benchmark")
    for name in ("A", "B", "B - A", "95 % interval", "n", "B better", "equal", "A better", "verdict"):
        shown.add_column(name, justify="right")
    for d in differences:
        if d.name == "mean":
            shown.add_section()
        interval = f"{d.low:+.1f} .. {d.high:+.1f}"
        verdict = {"better": "B", "worse": "A", "tie": "tie"}[d.verdict]
        counts = (str(d.n), str(d.wins), str(d.ties), str(d.losses))
        shown.add_row(d.name, f"{d.a:.1f}", f"{d.b:.1f}", f"{d.mean:+.1f}", interval, *counts, verdict)
    return shown


def compare(outputs: Path, a: str, b: str) -> None:
    """Print the paired comparison of two runs."""
    store = Store(outputs / "store")
    left, right = find(outputs, a), find(outputs, b)
    if left["model_fingerprint"] != right["model_fingerprint"]:
        console.out.print("[yellow]the two runs are of different models[/yellow]")
    differences = paired(units(store, left), units(store, right))
    if not differences:
        raise ConfigError(f"{a} and {b} share no question: run both with the same evaluation")
    console.out.print(table(differences, a, b))
    console.out.print("Paired by question, bootstrap over units; a difference whose interval holds 0 is a tie.")


def rescore(outputs: Path, sweep: str | None) -> int:
    """Score the kept answers of a sweep's runs (or of all) again; returns how many records changed."""
    store, changed, seen = Store(outputs / "store"), 0, 0
    for record in results.iterate(outputs, sweep):
        parts: list[dict[str, Scored]] = [
            {benchmark: Scored.read(store, benchmark, key) for benchmark, key in record["artefacts"][stage].items()}
            for stage in ("evaluate", "evaluate 16-bit")
        ]
        fresh: dict[str, Any] = score_part(*parts)
        seen += 1
        if any(record[name] != value for name, value in fresh.items()):
            changed += 1
            console.out.print(f"{record['name']}: mean {record['mean_score']:.2f} -> {fresh['mean_score']:.2f}")
            file = outputs / "runs" / record["key"] / results.FILE
            write_json(file, results.read(file) | fresh)
    console.out.print(f"{seen} records scored again from kept answers, {changed} changed")
    return changed
