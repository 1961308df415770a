"""Tab completion: commands, sweeps, runs, config groups with their choices, and settings.

Reads folders and dataclasses only, so that a person does not wait.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import click
import yaml

from luq.config import RunConfig
from luq.config.allocation import ERRORS, UNITS
from luq.config.calibration import WEIGHTINGS
from luq.config.checks import COMPUTES
from luq.config.evaluation import PROTOCOLS, SPLITS
from luq.config.order import MODALITIES
from luq.config.quantizer import PARTS, PROPAGATIONS, TOKEN_WEIGHTS
from luq.config.run import OBJECTIVES
from luq.escaping import visible
from luq.store.sealed import read_table
from pipelines.conf_folder import CONF, SWEEPS, default_outputs, files
from pipelines.run_names import labels

TAKES_OVERRIDES = ("run", "profile", "quantize", "evaluate", "sweep", "status")
TAKES_SWEEP = ("sweep", "status", "rescore")
TAKES_SWEEPS = ("report",)
TAKES_RUN = ("compare", "export")
# What Hydra itself is given, and what is installed of it or with it.
HYDRA = {
    "hydra/launcher": ("basic", "joblib", "submitit_local", "submitit_slurm"),
    "hydra/sweeper": ("basic", "optuna"),
}
# Settings that have a list of values.
CHOICES = {
    "allocation.error": ERRORS,
    "allocation.unit": UNITS,
    "calibration.compute": COMPUTES,
    "calibration.weighting": WEIGHTINGS,
    "evaluation.compute": COMPUTES,
    "evaluation.protocol": PROTOCOLS,
    "evaluation.split": SPLITS,
    "objective": OBJECTIVES,
    "order.modality": MODALITIES,
    "quantizer.propagation": PROPAGATIONS,
    "quantizer.token_weights": TOKEN_WEIGHTS,
    **HYDRA,
}
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
    outputs = Path(_value_of("--outputs", before) or default_outputs())
    config_dir = _value_of("--config-dir", before)
    own_folder = None if config_dir is None else Path(config_dir)
    if isinstance(command, click.Group):
        yield from (name for name, entry in command.commands.items() if not entry.hidden)
    elif before and before[-1].startswith("-"):
        yield from _values_of_option(command, before[-1], outputs)
        if _is_flag(command, before[-1]):
            yield from _arguments(command, before, typed, outputs, own_folder)
    elif typed.startswith("-"):
        yield from (name for option in _options(command) for name in option.opts)
    else:
        yield from _arguments(command, before, typed, outputs, own_folder)


def _arguments(
    command: click.Command, before: list[str], typed: str, outputs: Path, config_dir: Path | None
) -> Iterator[str]:
    """What a command takes that is no option."""
    is_first = all(word.startswith("-") for word in before)
    if command.name in TAKES_SWEEPS or (command.name in TAKES_SWEEP and is_first):
        yield from files(SWEEPS, config_dir)
        if command.name not in ("sweep", "status"):
            yield from _groups_with_runs(outputs)
    elif command.name in TAKES_OVERRIDES:
        yield from overrides(typed, config_dir)
    elif command.name in TAKES_RUN:
        yield from _runs(outputs, typed)


def _options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def _is_flag(command: click.Command, name: str) -> bool:
    return any(name in option.opts and option.is_flag for option in _options(command))


def _values_of_option(command: click.Command, name: str, outputs: Path) -> Iterator[str]:
    """The values of an option that has a list of them, or that takes a sweep."""
    if name == "--sweep":
        yield from files(SWEEPS)
        yield from _groups_with_runs(outputs)
    for option in _options(command):
        if name in option.opts and isinstance(option.type, click.Choice):
            yield from (str(choice) for choice in option.type.choices)


def _value_of(option: str, words: list[str]) -> str | None:
    """What a command line gives an option; None if it does not."""
    for word, following in pairwise(words):
        if word == option:
            return following
    return None


def overrides(typed: str, config_dir: Path | None = None) -> Iterator[str]:
    """`group=choice`, also after other choices (`order=depth,entropy`); `dotted.setting=value`."""
    setting, equals, value = typed.partition("=")
    if equals:
        earlier, comma, _ = value.rpartition(",")
        for choice in (*files(setting, config_dir), *_values(setting)):
            yield f"{setting}={earlier}{comma}{choice}"
        return
    for folder in CONF.iterdir():
        if folder.is_dir() and folder.name != SWEEPS:
            yield f"{folder.name}="
    yield from (f"{name}=" for name in HYDRA)
    yield from (f"{name}=" for name, _ in _settings(RunConfig, ""))


def _values(setting: str) -> Iterable[str]:
    """The values of a setting that has a list of them."""
    group, _, name = setting.partition(".")
    if group == "quantizer" and name in ("low", "high", *PARTS):
        return _tiers()
    if setting in CHOICES:
        return CHOICES[setting]
    is_switch = any(name == setting and hint is bool for name, hint in _settings(RunConfig, ""))
    return ("true", "false") if is_switch else ()


def _tiers() -> list[str]:
    """The names of the tiers that ship."""
    content = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text(encoding="utf-8"))
    return list(content["tiers"])


def _settings(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
    """The dotted names of settings, and their types."""
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _settings(hint, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", hint


def _groups_with_runs(outputs: Path) -> Iterator[str]:
    """The groups and sweeps that have finished runs."""
    return (folder.name for folder in (outputs / "sweeps").glob("*") if folder.is_dir())


def _runs(outputs: Path, typed: str) -> Iterator[str]:
    """SWEEP/NAME of finished runs, named by what differs within the sweep.

    Of many sweeps only their names, until one is typed.
    """
    sweep = typed.partition("/")[0] if "/" in typed else ""
    by_sweep: dict[str, list[str]] = {}
    for note in (outputs / "sweeps").glob("*/*.json"):
        if sweep and note.parent.name != sweep:
            continue
        try:
            name = str(read_table(note)["name"])
        except (OSError, ValueError, KeyError):
            continue
        by_sweep.setdefault(note.parent.name, []).append(name)
    for name_of_sweep, names in by_sweep.items():
        for label in labels(names):
            yield f"{name_of_sweep}/{label}"
