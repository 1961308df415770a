"""Tables for a terminal, and `luq compare`: two runs, or a sweep along an axis, question by question."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Drawn

from analysis import compare, frame, tables
from analysis.tables import Table
from luq.errors import ConfigError
from pipelines import results


def console() -> Console:
    """Standard output, wide where nobody looks on."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 160
    return out


def shown(table: Table) -> Drawn:
    """A table for a terminal; the words of a column's title below each other."""
    made = Drawn(title=escape(table.title), title_justify="left")
    for i, name in enumerate(table.columns):
        made.add_column(
            escape(name).replace("95 % ", "95\u00a0%\n").replace(" ", "\n"),
            justify="left" if i < table.words else "right",
            no_wrap=i >= table.words,
        )
    for row in table.rows:
        made.add_row(*(escape(tables.text(cell)) for cell in row))
    return made


def compare_runs(outputs: Path, a: str, b: str) -> None:
    """Print the paired comparison of two runs."""
    out, (left, right) = console(), (results.find(outputs, name) for name in (a, b))
    if left["model_fingerprint"] != right["model_fingerprint"]:
        out.print("[yellow]the two runs are of different models[/yellow]")
    if frame.questions(left) != frame.questions(right):
        out.print(
            "[yellow]the two runs were not asked the same: only what both answered counts[/yellow]"
        )
    found = compare.against("run", "A", {"": [left]}, "B", {"": [right]}, compare.Reader(outputs))
    if not found.scores:
        raise ConfigError(f"{a} and {b} share no question: run both with the same evaluation")
    table = tables.differences(found)
    out.print(f"A: {a}\nB: {b}", markup=False, soft_wrap=True)
    out.print(shown(table))
    out.print(table.note)


def compare_axis(outputs: Path, sweep: str, axis: str, base: str | None) -> None:
    """Print one row per value of an axis, against one of them, over the settings that both ran with."""
    out, some = console(), False
    for study in frame.studies(frame.load(outputs, [sweep])):
        found = compare.along(study, axis, compare.Reader(outputs), base)
        if found:
            some = True
            table = tables.ranking(found)
            out.print(shown(table))
            out.print(f"{study.name}, n = {found[0].pooled.n}. {table.note}")
    if not some:
        raise ConfigError(
            f"the mixed plans of sweep {sweep!r} do not differ in {axis!r} alone: nothing to compare"
        )
