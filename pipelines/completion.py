"""Tab completion: commands, sweeps, runs, config groups with their choices, and settings.

Reads folders and dataclasses only, so that a person does not wait.
"""

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import click

from luq.config import RunConfig
from luq.escaping import visible
from luq.store.sealed import read_table
from pipelines.conf_folder import CONF

TAKES_OVERRIDES = ("run", "profile", "quantize", "evaluate", "sweep", "status")
TAKES_SWEEP = ("sweep", "status", "rescore")
TAKES_SWEEPS = ("report",)
TAKES_RUN = ("compare", "export")
SCRIPT = """\
_luq() {
    local line="${COMP_LINE:0:COMP_POINT}" words word
    read -a words <<< "$line"  # without -r: "\\ " is a space within a word
    [[ "$line" == *" " && "$line" != *"\\\\ " ]] && words+=("")
    local last="${words[-1]}" replies=()
    COMPREPLY=()
    mapfile -t replies < <(luq complete -- "${words[@]:1}" 2>/dev/null)
    for word in "${replies[@]}"; do
        # bash takes a "=" for the end of a word: what stands before it must not be repeated
        [[ "$last" == *=* ]] && word="${word#"${last%"${last##*=}"}"}"
        [[ "$word" == *" "* ]] && printf -v word %q "$word"
        COMPREPLY+=("$word")
    done
    [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _luq luq"""


def candidates(words: list[str], luq: click.Group) -> list[str]:
    """What the last word can become.

    Args:
        words: the words after `luq`; the last one is being typed, and may be empty.
        luq: the command with its subcommands.

    Returns:
        Candidates for the last word, in order.
    """
    typed = words[-1] if words else ""
    before = words[:-1]
    command: click.Command = luq
    while before and isinstance(command, click.Group):
        if before[0] not in command.commands:
            return []
        command = command.commands[before.pop(0)]
    words_that_fit: set[str] = set()
    for word in _words(command, before, typed):
        can_be_typed = visible(word) == word and "\n" not in word
        if word.startswith(typed) and can_be_typed:
            words_that_fit.add(word)
    return sorted(words_that_fit)


def _words(command: click.Command, before: list[str], typed: str) -> Iterator[str]:
    """What can stand after a command and the words `before`."""
    if isinstance(command, click.Group):
        yield from (name for name, entry in command.commands.items() if not entry.hidden)
    elif before and before[-1] == "--sweep":
        yield from _sweeps()
    elif typed.startswith("-"):
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from parameter.opts
    elif command.name in TAKES_SWEEPS or (command.name in TAKES_SWEEP and not before):
        yield from _sweeps()
    elif command.name in TAKES_OVERRIDES:
        yield from overrides(typed)
    elif command.name in TAKES_RUN:
        yield from _runs(Path(os.environ.get("LUQ_OUTPUTS", "outputs")))


def overrides(typed: str) -> Iterator[str]:
    """`group=choice`, also after other choices (`order=depth,entropy`), and `dotted.setting=`."""
    group, equals, value = typed.partition("=")
    if equals:
        earlier, comma, _ = value.rpartition(",")
        for file in (CONF / group).glob("*.yaml"):
            yield f"{group}={earlier}{comma}{file.stem}"
        return
    for folder in CONF.iterdir():
        if folder.is_dir() and folder.name != "sweep":
            yield f"{folder.name}="
    yield from _settings(RunConfig, "")


def _settings(kind: type, prefix: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _settings(hint, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}="


def _sweeps() -> Iterator[str]:
    return (file.stem for file in (CONF / "sweep").glob("*.yaml"))


def _runs(outputs: Path) -> Iterator[str]:
    """SWEEP/NAME of finished runs."""
    for note in (outputs / "sweeps").glob("*/*.json"):
        try:
            name = read_table(note)["name"]
        except (OSError, ValueError, KeyError):
            continue
        yield f"{note.parent.name}/{name}"
