"""Tables for a terminal, and `luq compare`: two runs, or a sweep along an axis."""

import os
from pathlib import Path

from analysis import compare, tables
from analysis.frame import studies
from analysis.loading import load, questions
from analysis.tables import Table
from luq.errors import ConfigError
from pipelines import runs_folder, shipped
from pipelines.screen import Screen
from pipelines.sheet import Column, Sheet

WIDTH = 160  # columns of output that goes to a file or another program
# the interval stands in one line of a column's title, the other words below each other
INTERVAL = "95 % "
INTERVAL_LINE = "95\u00a0% "
# What stays on a narrow terminal; of the other columns the last leave first.
LASTING = (
    "stored bits",
    "whole checkpoint",
    "mean score",
    "retention %",
    "collapsed",
    "score",
    "difference",
    "95 % interval",
    "verdict",
)


# What leaves before them: bits that no file has.
LEAVING = ("nominal bits",)


def console() -> Screen:
    """Standard output, wide where nobody looks on."""
    out = Screen()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = WIDTH
    return out


def printable(table: Table) -> Sheet:
    """A table for a terminal of any width."""
    columns: list[Column] = []
    for index, name in enumerate(table.columns):
        is_text = index < table.words
        # of two columns with one name the first is the one about scores
        is_lasting = name in LASTING and name not in table.columns[:index]
        rank = len(table.columns) if name in LEAVING else index
        if is_text or is_lasting:
            rank = 0
        columns.append(Column(name.replace(INTERVAL, INTERVAL_LINE), rank, is_text))
    sheet = Sheet(table.title, columns)
    for row in table.rows:
        sheet.add_row(*(tables.text(cell) for cell in row))
    return sheet


def compare_runs(outputs: Path, a: str, b: str) -> None:
    """Print the paired comparison of two runs.

    Args:
        outputs: the folder of runs.
        a: SWEEP/NAME, or the beginning of a key.
        b: of the run that it is compared with; or a folder for llama.cpp that was asked.

    Raises:
        ConfigError: there is no such run, or the two share no question.
    """
    out = console()
    left = runs_folder.find(outputs, a)
    folder = Path(b)
    asked = shipped.find(outputs, folder) if shipped.is_gguf_folder(folder) else None
    if asked is None:
        right = runs_folder.find(outputs, b)
    else:
        run = runs_folder.read(runs_folder.record_file(outputs, asked.run))
        right = shipped.as_run(asked, run)
    if left.model_fingerprint != right.model_fingerprint:
        out.print("the two runs are of different models", style="yellow")
    if questions(left) != questions(right):
        out.print(
            "the two runs were not asked the same: only what both answered counts", style="yellow"
        )
    reader = compare.Reader(outputs)
    comparison = compare.against("run", "A", {"": [left]}, "B", {"": [right]}, reader)
    if not comparison.scores:
        raise ConfigError(f"{a} and {b} share no question: run both with the same evaluation")
    table = tables.differences(comparison)
    out.print(f"A: {a}\nB: {b}", soft_wrap=True)
    out.print(printable(table))
    out.print(table.note)
    if asked is not None:
        shipped.show(asked, run)


def compare_axis(outputs: Path, sweep: str, axis: str, base: str | None) -> None:
    """Print one row per value of an axis, over the settings that both ran with.

    Args:
        outputs: the folder of runs.
        sweep: whose runs are compared.
        axis: one of `compare.LABELS`, or a setting by its dotted name.
        base: the value that the others are compared with; None: the usual one.

    Raises:
        ConfigError: there is nothing to compare.
    """
    out = console()
    nothing = True
    for study in studies(load(outputs, [sweep])):
        comparisons = compare.along(study, axis, compare.Reader(outputs), base)
        if comparisons:
            nothing = False
            table = tables.ranking(comparisons)
            out.print(printable(table))
            n = comparisons[0].pooled.n
            out.print(f"{study.name}, n = {n}. {table.note}")
    if nothing:
        raise ConfigError(
            f"the mixed plans of sweep {sweep!r} do not differ in {axis!r} alone: "
            "nothing to compare"
        )
