"""What the commands of `luq` are made of: their help with examples, and options that they share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from luq.errors import unknown
from pipelines.conf_folder import CONF, SWEEPS, default_outputs
from pipelines.examples import EXAMPLES
from pipelines.screen import WIDE

# Words that no option of ours names are Hydra's: a=1, +a=1, --info, hydra/launcher=joblib.
OVERRIDES: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}


class Command(click.Command):
    """A command whose help ends with its examples.

    Args:
        takes_overrides: whether its help lists the groups of settings and their choices, too.
    """

    def __init__(self, *arguments: Any, takes_overrides: bool = False, **options: Any):
        super().__init__(*arguments, **options)
        self.takes_overrides = takes_overrides

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, then the groups."""
        write_examples(formatter, self.name)
        if self.takes_overrides:
            with formatter.section("Groups of settings (luq run --cfg job shows every setting)"):
                formatter.write_dl(list(_groups()))


def write_examples(formatter: click.HelpFormatter, name: str | None) -> None:
    """The examples of a command: a command line, and below it what it does."""
    examples = EXAMPLES.get(name or "", ())
    if not examples:
        return
    with formatter.section("Examples"):
        for line, meaning in examples:
            indent = " " * formatter.current_indent
            formatter.write(f"{indent}{line}\n{indent}    {meaning}\n")


def _groups() -> list[tuple[str, str]]:
    """Every group of settings with its choices, as overrides name them."""
    folders = sorted(folder for folder in CONF.iterdir() if folder.is_dir())
    groups: list[tuple[str, str]] = []
    for folder in folders:
        if folder.name != SWEEPS:
            choices = sorted(file.stem for file in folder.glob("*.yaml"))
            groups.append((f"{folder.name}=", ", ".join(choices)))
    return groups


class Commands(click.Group):
    """A group whose unknown commands are answered with the nearest ones."""

    command_class = Command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(context, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples."""
        write_examples(formatter, self.name)


def outputs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--outputs: where records and artefacts are."""
    return click.option(
        "--outputs",
        type=click.Path(path_type=Path),
        metavar="DIR",
        default=default_outputs,
        help="Where records and artefacts are: LUQ_OUTPUTS, or outputs.",
    )(command)


def config_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config-dir: a folder with configs of the user's own."""
    return click.option(
        "--config-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="A folder with own configs: DIR/model/NAME.yaml, DIR/sweep/NAME.yaml, ...",
    )(command)


def wide_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--wide: all columns of tables."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[WIDE] = value

    return click.option(
        "--wide",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="All columns of tables, however narrow the terminal.",
    )(command)


def hydra_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `luq run` and its like take beside overrides. `hydra_words` gives it back to Hydra."""
    options = (
        click.argument(
            "overrides", nargs=-1, type=click.UNPROCESSED, metavar="[SETTING=VALUE ...]"
        ),
        click.option(
            "-m",
            "--multirun",
            is_flag=True,
            help="A run for every combination of values that commas separate: allocation.k=2,4.",
        ),
        click.option(
            "-c",
            "--cfg",
            type=click.Choice(["job", "hydra", "all"]),
            help="Only show the settings, as YAML: the run's, Hydra's, or both.",
        ),
        click.option("--resolve", is_flag=True, help="With --cfg: references as their values."),
        config_dir_option,
        wide_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def hydra_words(
    overrides: Sequence[str],
    multirun: bool,
    cfg: str | None,
    resolve: bool,
    config_dir: Path | None,
) -> list[str]:
    """The words of a command line as Hydra reads them."""
    words = list(overrides)
    if multirun:
        words.append("--multirun")
    if cfg is not None:
        words += ["--cfg", cfg]
    if resolve:
        words.append("--resolve")
    if config_dir is not None:
        words += ["--config-dir", str(config_dir)]
    return words
