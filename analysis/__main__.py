"""`luq report [SWEEP ...]`, also `python -m analysis`.

One HTML file, the same in Markdown, figures and tables.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import report, terminal, wandb_records
from analysis.loading import load
from analysis.report import Report
from luq.config import TrackingConfig
from luq.errors import LuqError, system_message
from pipelines.console import fail, log_warnings
from pipelines.screen import Screen, styled
from pipelines.tracking import make_tracker


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("luq report", description=__doc__)
    parser.add_argument(
        "sweeps",
        nargs="*",
        metavar="SWEEP",
        help="`luq sweep NAME`, or group=NAME of `luq run`; none: all runs",
    )
    parser.add_argument(
        "--outputs", type=Path, default=Path(os.environ.get("LUQ_OUTPUTS", "outputs"))
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="where the report goes (OUTPUTS/report/SWEEPS)"
    )
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="take the records from W&B, where `tracking=wandb` put them",
    )
    parser.add_argument(
        "--tracking",
        choices=("wandb", "wandb_offline"),
        help="log the report as a W&B run of its own",
    )
    parser.add_argument("--project", default="luq", help="W&B project of --tracking")
    parser.add_argument("--entity", help="W&B entity of --tracking")
    return parser


def run(arguments: argparse.Namespace, out: Screen) -> None:
    """Load the records, build the report, print what it says and where it is."""
    sweeps: list[str] = arguments.sweeps
    outputs: Path = arguments.outputs
    records_folder = outputs
    if arguments.wandb:
        brought = outputs / "wandb" / "records"
        records_folder = wandb_records.fetch(arguments.wandb, brought, sweeps)
    loaded = load(records_folder, sweeps)
    title = ", ".join(sweeps) if sweeps else "all runs"
    name = "+".join(sweeps) if sweeps else "all"
    folder = arguments.to or outputs / "report" / name
    built = report.build(records_folder, title, loaded, folder)
    _print(built, out)
    if arguments.tracking:
        config = TrackingConfig(arguments.tracking, arguments.project, arguments.entity)
        tracker = make_tracker(config, outputs)
        tracker.track_report(title, built.summary(), built.rows(), built.figures)
    beside = " (report.md, figures/, runs.csv, scores.csv and scores.parquet beside it)"
    out.print(styled("report: ", (str(built.html), "bold"), beside))


def _print(built: Report, out: Screen) -> None:
    """The overview and the findings of each model, and what is not in the report."""
    for chapter in built.chapters:
        out.print(terminal.printable(chapter.overview))
        out.print(chapter.overview.note)
        for line in chapter.findings:
            out.print(f"- {line}")
    for failure in built.failures:
        place = f"{failure.sweep}, {failure.name}"
        out.print(styled(("failed", "red"), f" {place}: {failure.message}"))
    for line in built.problems:
        out.print(styled(("left out", "yellow"), f" {line}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; a LuqError is one line on stderr.

    Args:
        argv: the words after the command; None: those of the process.

    Returns:
        The exit code: 0, or 1 if there is no report.
    """
    arguments = _parser().parse_args(argv)
    log_warnings()
    try:
        run(arguments, terminal.console())
    except LuqError as error:
        fail(str(error))
        return 1
    except OSError as error:
        message = system_message(error)
        if message is None:
            raise
        fail(message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
