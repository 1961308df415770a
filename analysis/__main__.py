"""`luq report [SWEEP ...]`, also `python -m analysis`.

One HTML file, the same in Markdown, figures and tables.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import report, terminal, wandb_records
from analysis.loading import load
from analysis.report import Report
from luq.config import TrackingConfig
from pipelines import cli
from pipelines.console import log_warnings
from pipelines.screen import Screen, styled
from pipelines.tracking import make_tracker


@dataclass(frozen=True)
class Request:
    """What `luq report` is asked for; its options in words are in `pipelines/cli.py`."""

    sweeps: Sequence[str]  # empty for all runs
    outputs: Path
    to: Path | None = None
    wandb_project: str | None = None  # ENTITY/PROJECT that the records are taken from
    tracking: str | None = None
    project: str = "luq"
    entity: str | None = None


def write_report(request: Request) -> None:
    """Load the records, build the report, print what it says and where it is."""
    log_warnings()
    out = terminal.console()
    sweeps = list(request.sweeps)
    records_folder = request.outputs
    if request.wandb_project:
        brought = request.outputs / "wandb" / "records"
        records_folder = wandb_records.fetch(request.wandb_project, brought, sweeps)
    loaded = load(records_folder, sweeps)
    title = ", ".join(sweeps) if sweeps else "all runs"
    name = "+".join(sweeps) if sweeps else "all"
    folder = request.to or request.outputs / "report" / name
    built = report.build(records_folder, title, loaded, folder)
    _print(built, out)
    if request.tracking:
        config = TrackingConfig(request.tracking, request.project, request.entity)
        tracker = make_tracker(config, request.outputs)
        tracker.track_report(title, built.summary(), built.rows(), built.figures)
    beside = " (report.md, figures/, runs.csv, scores.csv and scores.parquet beside it)"
    out.print(styled("report: ", (str(built.html), "bold"), beside))


def _print(built: Report, out: Screen) -> None:
    """The overview and the findings of each model, the claims, and what is not in the report."""
    for chapter in built.chapters:
        out.print(terminal.printable(chapter.overview))
        out.print(chapter.overview.note)
        for line in chapter.findings:
            out.print(f"- {line}")
    for table in built.claims.tables[:1]:
        out.print(terminal.printable(table))
        out.print(table.note)
    for failure in built.failures:
        place = f"{failure.sweep}, {failure.name}"
        out.print(styled(("failed", "red"), f" {place}: {failure.message}"))
    for line in built.problems:
        out.print(styled(("left out", "yellow"), f" {line}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the words after the command; None: those of the process.

    Returns:
        The exit code: 0, or 1 if there is no report.
    """
    return cli.main(["report", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
