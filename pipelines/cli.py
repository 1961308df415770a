"""The `luq` command.

Commands are imported when they are called: `luq --help` needs none of them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from luq import __version__
from luq.errors import ConfigError, LuqError, system_message
from pipelines import streams
from pipelines.cli_parts import (
    OVERRIDES,
    Commands,
    config_dir_option,
    hydra_options,
    hydra_words,
    outputs_option,
    wide_option,
)
from pipelines.cli_pocket import pocket


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, message="luq %(version)s")
def luq() -> None:
    """Layerwise ultra-low-bit quantization of multimodal LLMs."""


luq.add_command(pocket)


def _hydra(stage: str, options: dict[str, Any]) -> int:
    from pipelines.hydra_jobs import run_jobs

    return run_jobs(stage, hydra_words(**options))


@luq.command(
    context_settings=OVERRIDES,
    takes_overrides=True,
    short_help="Quantize and score a model: the whole chain, and its record.",
)
@click.option("--plan", is_flag=True, help="Only say what it will cost: hours, memory, disk.")
@hydra_options
def run(plan: bool, **options: Any) -> int:
    """Quantize and score a model: calibrate, profile, allocate, quantize, evaluate, record.

    Settings are given as overrides, in Hydra's grammar. What the store has is not made again; a run
    that was stopped goes on where it was.
    """
    if not plan:
        return _hydra("run", options)
    if options["cfg"] is not None:
        raise ConfigError("--plan and --cfg exclude each other: leave one out")
    from pipelines import console
    from pipelines.plan import show_run_plan

    console.log_warnings()
    show_run_plan(options["overrides"], options["multirun"], options["config_dir"])
    return 0


@luq.command(context_settings=OVERRIDES, takes_overrides=True)
@click.option(
    "--gguf",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Ask what `luq export --format gguf` wrote, in llama.cpp, what its run was asked.",
)
@outputs_option
@hydra_options
def evaluate(gguf: Path | None, outputs: Path, **options: Any) -> int:
    """The same chain as run, under the name of its last step.

    With --gguf DIR instead: an exported folder, asked in llama.cpp what its run was asked.
    """
    if gguf is None:
        from pipelines.conf_folder import default_outputs

        if outputs != default_outputs():
            raise ConfigError("--outputs goes with --gguf: say paths.outputs=DIR")
        return _hydra("evaluate", options)
    words = hydra_words(**options)
    if words:
        raise ConfigError(f"--gguf asks what the run was asked: leave {words[0]} out")
    from pipelines import ask_gguf

    ask_gguf.evaluate(outputs, gguf)
    return 0


@luq.command(context_settings=OVERRIDES, takes_overrides=True)
@hydra_options
def profile(**options: Any) -> int:
    """Only measure the layers: their entropies, and the orders."""
    return _hydra("profile", options)


@luq.command(context_settings=OVERRIDES, takes_overrides=True)
@hydra_options
def quantize(**options: Any) -> int:
    """Only pack the layers; no question is asked.

    Prints where they are and what they weigh.
    """
    return _hydra("quantize", options)


@luq.command(context_settings=OVERRIDES, takes_overrides=True)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAME [SETTING=VALUE ...]")
@click.option("--plan", is_flag=True, help="Only say what is done and what the rest will cost.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Have what the runs share made by N processes of this machine.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Have it made by the workers of a dask scheduler, as in tcp://host:8786.",
)
@config_dir_option
@wide_option
def sweep(
    words: tuple[str, ...],
    plan: bool,
    workers: int | None,
    scheduler: str | None,
    config_dir: Path | None,
) -> int:
    """A named sweep: run what is missing or failed.

    Without a name: list them.
    """
    if workers is not None and scheduler is not None:
        raise ConfigError("--workers and --scheduler exclude each other: leave one out")
    from pipelines import console

    chosen = _sweep(words, config_dir)
    if chosen is None:
        return 0
    console.log_warnings()
    if plan:
        from pipelines.plan import show_sweep_plan

        show_sweep_plan(chosen)
        return 0
    if workers is None and scheduler is None:
        return 0 if chosen.run() else 1
    from pipelines.cluster import run_with

    return 0 if run_with(chosen, workers, scheduler) else 1


@luq.command(context_settings=OVERRIDES)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAME [SETTING=VALUE ...]")
@config_dir_option
@wide_option
def status(words: tuple[str, ...], config_dir: Path | None) -> int:
    """Which runs of a sweep are done, running, failed or missing."""
    from pipelines.sweep import show_status

    chosen = _sweep(words, config_dir)
    if chosen is not None:
        show_status(chosen)
    return 0


def _sweep(words: tuple[str, ...], config_dir: Path | None) -> Any:
    """The sweep that the words name; None, after a list of all, if they name none."""
    from pipelines import grid

    if not words or "=" in words[0] or words[0].startswith("-"):
        grid.show_names(config_dir)
        return None
    from pipelines.sweep import Sweep

    return Sweep(grid.read(words[0], config_dir), list(words[1:]), config_dir)


@luq.command(short_help="One page over sweeps: figures, comparisons, every run.")
@click.argument("sweeps", nargs=-1, metavar="[SWEEP ...]")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the report goes; OUTPUTS/report/SWEEPS by default.",
)
@click.option(
    "--wandb",
    "wandb_project",
    metavar="ENTITY/PROJECT",
    help="Take the records from W&B, where tracking=wandb put them.",
)
@click.option(
    "--tracking",
    type=click.Choice(["wandb", "wandb_offline"]),
    help="Log the report as a W&B run of its own.",
)
@click.option("--project", default="luq", show_default=True, help="W&B project of --tracking.")
@click.option("--entity", metavar="NAME", help="W&B user or team of --tracking.")
@outputs_option
@wide_option
def report(**options: Any) -> None:
    """One HTML file over sweeps (all runs, if none is named), the same in Markdown, and tables.

    A SWEEP is a name of `luq sweep`, or the group=NAME of `luq run`.
    """
    from analysis.__main__ import Request, write_report

    write_report(Request(**options))


@luq.command()
@click.argument("a")
@click.argument("b", required=False)
@click.option(
    "--axis",
    metavar="SETTING",
    help="A row for each of its values: order, calibration, profile.clusters, ...",
)
@click.option("--base", metavar="VALUE", help="With --axis: what the others are compared with.")
@outputs_option
@wide_option
def compare(a: str, b: str | None, axis: str | None, base: str | None, outputs: Path) -> None:
    """Two runs question by question, or a sweep along an axis.

    With 95 % intervals, paired by question.

    A and B are SWEEP/NAME, or the beginning of a run's key; with --axis A is a sweep. B may be a
    folder that `luq evaluate --gguf` asked.
    """
    from analysis import terminal

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
    """Score kept answers again, after a scorer changed.

    Nothing is generated. SWEEP: all runs without one.
    """
    from pipelines import rescore as rescoring

    rescoring.rescore(outputs, sweep)


@luq.command()
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["luq", "compressed-tensors", "dequantized", "gguf"]),
    default="luq",
    show_default=True,
    help="How packed linears stand in the folder.",
)
@click.option(
    "--recode",
    metavar="TYPE",
    help="With gguf: code weights that no GGUF type holds again, as q4_k. The scores are then not "
    "those of the file.",
)
@outputs_option
def export(run: str, folder: Path, layout: str, recode: str | None, outputs: Path) -> None:
    """A run's packed model as a Hugging Face folder, or for llama.cpp.

    RUN is SWEEP/NAME, or the beginning of a run's key.
    """
    from pipelines import checkpoints

    checkpoints.export_run(outputs, run, folder, layout, recode)


@luq.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Compare all bytes of its files with their checksums.")
@wide_option
def info(folder: Path, verify: bool) -> None:
    """What an exported folder holds: bytes, bits, scores."""
    from pipelines import checkpoints

    checkpoints.info(folder, verify)


@luq.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A picture's file; without one the question is about none.",
)
@click.option(
    "--question",
    metavar="TEXT",
    help="Without it: question after question, until an empty line.",
)
def chat(folder: Path, image: Path | None, question: str | None) -> None:
    """Ask an exported folder, about an image or about none."""
    from pipelines import chat as chatting

    chatting.chat(folder, image, question)


@luq.group(cls=Commands)
def store() -> None:
    """What the store holds, what can go, what is damaged."""


@store.command()
@outputs_option
@wide_option
def du(outputs: Path) -> None:
    """Bytes by stage and by sweep."""
    from pipelines import store_commands

    store_commands.show_usage(outputs)


@store.command()
@click.option(
    "--sweep",
    metavar="NAME",
    help="What only this sweep's records need, instead of what none needs.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@outputs_option
@wide_option
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


@luq.command()
@click.argument("shell", type=click.Choice(["bash"]), default="bash")
def completion(shell: str) -> None:
    """The script that lets tab complete words in bash."""
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
    streams.open_closed()
    streams.print_what_can_be_printed()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["-sc", "install=bash"]:  # Hydra's way to say it, in people's start-up files
        arguments = ["completion", "bash"]
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `luq status NAME | head -1`
        streams.discard_output()
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


def _fail(message: str) -> None:
    from pipelines import console

    console.fail(message)


if __name__ == "__main__":
    sys.exit(main())
