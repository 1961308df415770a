"""Commands that work on what finished runs left: `luq compare` and `luq rescore`. No model is loaded."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from luq import keys, registry, results
from luq.errors import ConfigError
from luq.evaluation import answers
from luq.evaluation.compare import Difference, average, paired
from luq.results import Record
from luq.store import Store, write_json
from pipelines import console
from pipelines.evaluation import Scored
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


def groups(outputs: Path, sweep: str, axis: str) -> dict[str, list[Record]]:
    """The runs of a sweep by what their names say of an axis: `order=lim`, whatever k and seed."""
    found: dict[str, list[Record]] = {}
    for record in results.iterate(outputs, sweep):
        words = [w for w in record["name"].split() if w.partition("=")[0] == axis or w.startswith(f"{axis}.")]
        label = " ".join(w for w in words if not w.partition("=")[0].endswith("seed"))
        if label:
            found.setdefault(label, []).append(record)
    if not found:
        raise ConfigError(f"no run of sweep {sweep!r} has {axis!r} in its name: `luq status {sweep}` lists them")
    return found


def by_axis(outputs: Path, sweep: str, axis: str, base: str | None) -> None:
    """Print one row per value of an axis, each question averaged over the runs that have it, against one of them."""
    store, found = Store(outputs / "store"), groups(outputs, sweep, axis)
    base = base or next(iter(found))
    if base not in found:
        raise registry.unknown(f"value of {axis}", base, found)
    scores, kls = (
        {label: average([read(store, r) for r in runs]) for label, runs in found.items()}
        for read in (answers.scores, answers.divergences)
    )
    shown = Table(title=escape(f"sweep {sweep} by {axis}, against {base}"), title_justify="left")
    shown.add_column(axis)
    for name in ("runs", "n", "score", "difference", "95 % interval", "verdict", "KL", "difference", "95 % interval", "verdict"):
        shown.add_column(name, justify="right")
    rows = []
    for label, runs in found.items():
        points, nats = paired(scores[base], scores[label])[-1], paired(kls[base], kls[label], scale=1)[-1:]
        cells = [label, str(len(runs)), str(points.n), f"{points.b:.1f}"]
        cells += [f"{points.mean:+.1f}", f"{points.low:+.1f} .. {points.high:+.1f}", points.verdict]
        for d in nats:
            fewer = {"better": "worse", "worse": "better", "tie": "tie"}[d.verdict]  # less divergence is better
            cells += [f"{d.b:.3f}", f"{d.mean:+.3f}", f"{d.low:+.3f} .. {d.high:+.3f}", fewer]
        rows.append((points.b, [escape(c) for c in cells] if label != base else [*map(escape, cells[:4]), *[""] * 3, cells[7]]))
    for _, row in sorted(rows, key=lambda r: -r[0]):
        shown.add_row(*row)
    if not console.out.is_terminal:
        console.out.width = 150
    console.out.print(shown)
    console.out.print("Questions averaged over the runs of a row, then paired; a difference whose interval holds 0 is a tie.")


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
    differences = paired(answers.scores(store, left), answers.scores(store, right))
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
            for stage in (answers.REPORT, answers.FLOAT)
        ]
        fresh: dict[str, Any] = score_part(*parts)
        seen += 1
        if any(record[name] != value for name, value in fresh.items()):
            changed += 1
            console.out.print(f"{record['name']}: mean {record['mean_score']:.2f} -> {fresh['mean_score']:.2f}")
            file = outputs / "runs" / record["key"] / results.FILE
            with store.lock(f"run-{keys.key(record['config'])}", f"the run {record['name']}"):
                write_json(file, results.read(file) | fresh)
    console.out.print(f"{seen} records scored again from kept answers, {changed} changed")
    return changed
