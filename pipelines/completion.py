"""Tab completion: commands, sweeps, runs, config groups with their choices, and settings.

Reads folders and dataclasses only, so that a person does not wait.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

from luq.config import RunConfig

CONF = Path(__file__).parent.parent / "conf"
TAKES_OVERRIDES = ("run", "profile", "quantize", "evaluate")
TAKES_SWEEP = ("sweep", "status", "report")
TAKES_RUN = ("compare", "export")
SCRIPT = """\
_luq() {
    local line="${COMP_LINE:0:COMP_POINT}" words
    read -ra words <<< "$line"
    [[ "$line" == *" " ]] && words+=("")
    local IFS=$'\\n'
    COMPREPLY=($(luq complete -- "${words[@]:1}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
    # bash takes a "=" for the end of a word: what stands before it must not be repeated
    local last="${words[-1]}"
    [[ "$last" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${last%"${last##*=}"}"}")
}
complete -o default -F _luq luq"""


def candidates(words: list[str], commands: list[str]) -> list[str]:
    """What the last word can become, given the words before it."""
    typed = words[-1] if words else ""
    before = words[:-1]
    if not before:
        return sorted(name for name in commands if name.startswith(typed) and name != "complete")
    return sorted({word for word in _after(before, typed) if word.startswith(typed)})


def _after(before: list[str], typed: str) -> Iterator[str]:
    command = before[0]
    if command in TAKES_SWEEP and (len(before) == 1 or command == "report"):
        yield from (file.stem for file in (CONF / "sweep").glob("*.yaml"))
    elif command in TAKES_OVERRIDES or command in TAKES_SWEEP:
        yield from overrides(typed)
    elif command in TAKES_RUN:
        yield from _runs(Path("outputs"))


def overrides(typed: str) -> Iterator[str]:
    """`group=choice` and `dotted.setting=`."""
    group, equals, _ = typed.partition("=")
    if equals:
        for file in (CONF / group).glob("*.yaml"):
            yield f"{group}={file.stem}"
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


def _runs(outputs: Path) -> Iterator[str]:
    """SWEEP/NAME of finished runs."""
    import json

    for note in (outputs / "sweeps").glob("*/*.json"):
        try:
            name = json.loads(note.read_text(encoding="utf-8"))["name"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield f"{note.parent.name}/{name}"
