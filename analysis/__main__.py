"""`luq report [SWEEP ...]`, also `python -m analysis`: one HTML file, the same in Markdown, figures and tables."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from analysis import frame, terminal
from luq.errors import LuqError


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


def run(arguments: argparse.Namespace, out: Console) -> None:
    """Load, build, say where it is."""
    outputs, sweeps = arguments.outputs, arguments.sweeps
    if arguments.wandb:
        from analysis import wandb_records

        outputs = wandb_records.fetch(
            arguments.wandb, arguments.outputs / "wandb" / "records", sweeps
        )
    loaded = frame.load(outputs, sweeps)
    from analysis import report  # matplotlib: not before there is something to draw

    title = ", ".join(sweeps) if sweeps else "all runs"
    folder = arguments.to or arguments.outputs / "report" / ("+".join(sweeps) if sweeps else "all")
    built = report.build(outputs, title, loaded, folder)
    for chapter in built.chapters:
        table = next(
            t for section in chapter.sections for t in section.tables if t.name == "overview"
        )
        out.print(terminal.shown(table))
        out.print(table.note)
        for line in chapter.findings:
            out.print(f"- {line}", markup=False)
    for entry in built.failures:
        out.print(
            f"[red]failed[/red] {escape(entry['sweep'])}, {escape(entry['name'])}: {escape(entry['message'])}"
        )
    for line in built.problems:
        out.print(f"[yellow]left out[/yellow] {escape(line)}")
    if arguments.tracking:
        from luq.config import TrackingConfig
        from pipelines.tracking import make_tracker

        config = TrackingConfig(arguments.tracking, arguments.project, arguments.entity)
        make_tracker(config, arguments.outputs).track_report(
            title, built.summary(), built.rows(), built.figures
        )
    out.print(
        f"report: [bold]{built.html}[/bold] (report.md, figures/, runs.csv, scores.csv and scores.parquet beside it)"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; LuqErrors are one line and exit code 1."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        run(arguments, terminal.console())
    except LuqError as error:
        Console(stderr=True, highlight=False).print(
            f"[bold red]error[/bold red] {escape(str(error))}", soft_wrap=True
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
