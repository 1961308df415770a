"""The `luq` command.

Commands are imported when they are called: `luq --help` needs none of them.
"""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from luq import __version__
from luq.errors import LuqError, system_message, unknown
from luq.escaping import VisibleFormatter
from pipelines.conf_folder import default_outputs

OVERRIDES = {"ignore_unknown_options": True, "allow_extra_args": True}  # -m and +x=y are Hydra's
EPILOG = """\b
run, profile, quantize and evaluate take Hydra overrides, -m for combinations:
  luq run allocation=count allocation.k=4
  luq run -m allocation.k=0,2,4,6 calibration=text,multimodal
sweep and status take a name and Hydra overrides:
  luq sweep pareto --plan
  luq sweep pareto model=pocket_llava seed=0,1 hydra/launcher=joblib
tab completion: eval "$(luq completion bash)"
"""


class Commands(click.Group):
    """A group whose unknown commands are answered with the nearest ones."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(context, args)


def outputs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--outputs: where records and artefacts are."""
    return click.option(
        "--outputs",
        type=click.Path(path_type=Path),
        default=default_outputs,
        help="Where records and artefacts are (LUQ_OUTPUTS, or outputs).",
    )(command)


def config_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config-dir: a folder with configs of the user's own."""
    return click.option(
        "--config-dir",
        type=click.Path(path_type=Path),
        help="A folder with own configs: DIR/model/NAME.yaml, DIR/sweep/NAME.yaml, ...",
    )(command)


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, message="luq %(version)s")
def luq() -> None:
    """Layerwise ultra-low-bit quantization of multimodal LLMs."""


def _hydra(stage: str, overrides: Sequence[str]) -> int:
    from pipelines.hydra_jobs import run_jobs

    return run_jobs(stage, overrides)


@luq.command(context_settings=OVERRIDES)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def run(overrides: tuple[str, ...]) -> int:
    """The whole chain: calibrate, profile, allocate, quantize, evaluate, record."""
    return _hydra("run", overrides)


@luq.command(context_settings=OVERRIDES)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def evaluate(overrides: tuple[str, ...]) -> int:
    """The same chain as run: what the store has is not made again."""
    return _hydra("evaluate", overrides)


@luq.command(context_settings=OVERRIDES)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def profile(overrides: tuple[str, ...]) -> int:
    """Up to the layers' activation entropies."""
    return _hydra("profile", overrides)


@luq.command(context_settings=OVERRIDES)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def quantize(overrides: tuple[str, ...]) -> int:
    """Up to the packed layers."""
    return _hydra("quantize", overrides)


@luq.command(context_settings=OVERRIDES)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAME [OVERRIDE ...]")
@click.option("--plan", is_flag=True, help="Only say what it will cost.")
@config_dir_option
def sweep(words: tuple[str, ...], plan: bool, config_dir: Path | None) -> int:
    """A named sweep: run what is missing or failed. Without a name: list them."""
    from pipelines import console

    chosen = _sweep(words, config_dir)
    if chosen is None:
        return 0
    console.log_warnings()
    if plan:
        from pipelines.cost import show_plan

        show_plan(chosen)
        return 0
    return 0 if chosen.run() else 1


@luq.command(context_settings=OVERRIDES)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAME [OVERRIDE ...]")
@config_dir_option
def status(words: tuple[str, ...], config_dir: Path | None) -> int:
    """Which runs of a named sweep are done, running, failed or missing."""
    from pipelines.sweep import show_status

    chosen = _sweep(words, config_dir)
    if chosen is not None:
        show_status(chosen)
    return 0


def _sweep(words: tuple[str, ...], own: Path | None) -> Any:
    """The sweep that the words name; None, after a list of all, if they name none."""
    from pipelines import grid

    if not words or "=" in words[0] or words[0].startswith("-"):
        grid.show_names(own)
        return None
    from pipelines.sweep import Sweep

    return Sweep(grid.read(words[0], own), list(words[1:]), own)


@luq.command(context_settings={**OVERRIDES, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def report(arguments: tuple[str, ...]) -> int:
    """One HTML file over sweeps (or all runs), the same in Markdown, figures and tables."""
    from analysis.__main__ import main as report_main

    return report_main(list(arguments))


@luq.command()
@click.argument("a")
@click.argument("b", required=False)
@click.option("--axis", help="A row per value of it: order, calibration, profile.clusters, ...")
@click.option("--base", help="The value that the others are compared with.")
@outputs_option
def compare(a: str, b: str | None, axis: str | None, base: str | None, outputs: Path) -> None:
    """Two runs question by question: `luq compare SWEEP/NAME SWEEP/NAME`; or a sweep's axis.

    A and B are SWEEP/NAME, or the beginning of a run's key; with --axis A is a sweep.
    """
    from analysis import terminal
    from luq.errors import ConfigError

    if axis:
        terminal.compare_axis(outputs, a, axis, base)
    elif b is None:
        raise ConfigError("luq compare needs two runs, or one sweep and --axis")
    else:
        terminal.compare_runs(outputs, a, b)


@luq.command()
@click.argument("sweep", required=False)
@outputs_option
def rescore(sweep: str | None, outputs: Path) -> None:
    """Score kept answers again, after a scorer changed; nothing is generated."""
    from pipelines import rescore as rescoring

    rescoring.rescore(outputs, sweep)


@luq.command()
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["luq", "compressed-tensors", "dequantized"]),
    default="luq",
    show_default=True,
    help="How packed linears stand in the folder.",
)
@outputs_option
def export(run: str, folder: Path, layout: str, outputs: Path) -> None:
    """A run's packed model as a Hugging Face folder: `luq export demo/luq_k4 DIR`."""
    from pipelines import checkpoints

    checkpoints.export_run(outputs, run, folder, layout)


@luq.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Compare all bytes of its files with their checksums.")
def info(folder: Path, verify: bool) -> None:
    """Ledger, allocation and scores of an exported folder."""
    from pipelines import checkpoints

    checkpoints.info(folder, verify)


@luq.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--image", type=click.Path(path_type=Path), required=True, help="A picture's file.")
@click.option("--question", help="Without it: question after question, until an empty line.")
def chat(folder: Path, image: Path, question: str | None) -> None:
    """Ask an exported folder about an image."""
    from pipelines import chat as chatting

    chatting.chat(folder, image, question)


@luq.group()
def store() -> None:
    """What the store holds: sizes, what no record needs, damage."""


@store.command()
@outputs_option
def du(outputs: Path) -> None:
    """Bytes by stage and by sweep."""
    from pipelines import store_commands

    store_commands.show_usage(outputs)


@store.command()
@click.option("--sweep", help="What only this sweep's records need, instead of what none needs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@outputs_option
def clean(sweep: str | None, yes: bool, outputs: Path) -> int:
    """Delete artefacts that no record needs: says what, and asks."""
    from pipelines import store_commands

    return store_commands.clean(outputs, sweep, yes)


@store.command()
@outputs_option
def verify(outputs: Path) -> int:
    """Compare every file with its manifest; name what is damaged."""
    from pipelines import store_commands

    return store_commands.verify(outputs)


@luq.group()
def pocket() -> None:
    """The pocket testbed: its questions, and the training of its models."""


@pocket.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["report", "selection"]), default="report")
def data(folder: Path, split: str) -> None:
    """Write the nine miniature benchmarks as parquet files."""
    from luq.pocket.benchmarks import write
    from pipelines.console import out

    for name, rows in write(folder, split).items():
        out.print(f"{folder / name}.parquet  {rows} rows")


@pocket.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--model", help="pocket_llava (default) or pocket_qwen, which starts from its decoder."
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
def train(folder: Path, **options: Any) -> None:
    """Train a pocket model, or continue the training in FOLDER."""
    from rich.progress import Progress

    from luq.pocket.train import TrainConfig
    from luq.pocket.train import train as train_model
    from pipelines.console import out

    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])  # losses, and the tower's accuracy
    logging.getLogger("luq").setLevel(logging.INFO)
    settings = {name: value for name, value in options.items() if value is not None}
    with Progress(console=out, disable=not sys.stdout.isatty()) as progress:
        checkpoint = train_model(folder, TrainConfig(**settings), progress)
    out.print(f"checkpoint: {checkpoint}")


@luq.command()
@click.argument("shell", type=click.Choice(["bash"]), default="bash")
def completion(shell: str) -> None:
    """The script for tab completion: eval "$(luq completion bash)"."""
    from pipelines import completion as completing

    click.echo(completing.SCRIPT)


@luq.command(hidden=True, context_settings=OVERRIDES, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def complete(words: tuple[str, ...]) -> None:
    """What can follow the words of a command line; the last of them is being typed."""
    from pipelines import completion as completing

    for word in completing.candidates(list(words), luq):
        click.echo(word)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; what went wrong is one line, and no traceback.

    Args:
        argv: its words; those of the process by default.

    Returns:
        The exit code: 0; 1 after an error, or if nobody reads the output any more; 2 for words
        that are no command; 130 after Ctrl-C.
    """
    _open_closed_streams()
    _print_what_can_be_printed()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["-sc", "install=bash"]:  # Hydra's way to say it, in people's start-up files
        arguments = ["completion", "bash"]
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `luq status NAME | head -1`
        _discard_output()
        return 1
    except OSError as error:
        message = system_message(error)
        if message is None:
            raise
        _fail(message)
        return 1
    return code


def _run(arguments: list[str]) -> int:
    """The exit code of a command. Errors of the system come through."""
    try:
        code = luq.main(arguments, prog_name="luq", standalone_mode=False)
    except LuqError as error:
        _fail(str(error))
        return 1
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except SystemExit as finished:  # argparse, in `luq report`; rich and click, of a closed pipe
        return finished.code if isinstance(finished.code, int) else 1
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        _fail(error.format_message())
        return 2
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted: what was finished is kept, the same command continues from there")
        return 130
    return code if isinstance(code, int) else 0


def _open_closed_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr empty ones.

    Otherwise the next file that is opened takes their place, and what is printed goes into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the closed one
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))


def _print_what_can_be_printed() -> None:
    """A stream that has no sign for a character shows its number, whatever the locale.

    Warnings of commands without a log hold nothing that commands a terminal, either.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter("%(message)s"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Send what is still to be printed nowhere: the end of the process would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _fail(message: str) -> None:
    from pipelines import console

    console.fail(message)


if __name__ == "__main__":
    sys.exit(main())
