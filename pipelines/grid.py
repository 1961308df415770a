"""The grid of a named sweep: its file and the command line -> the overrides of every run.

conf/sweep/NAME.yaml holds `about` (one line), `base` (overrides that all runs share) and `grid`: a
list of parts, each a
table of key -> values in Hydra's grammar (`2,4,6`, `range(0,11,2)`), whose combinations are the
runs.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from luq.errors import ConfigError, brief, unknown
from pipelines import console
from pipelines.conf_folder import CONF, SWEEPS, allow_modules, files
from pipelines.schema import (
    SEARCH_PATH,
    check_choices,
    composition_error,
    register,
    with_own_model,
)
from pipelines.sheet import Sheet, text_column


class Definition(NamedTuple):
    """A sweep as its file says it."""

    name: str
    about: str
    base: list[str]
    grid: list[dict[str, str]]


def names(config_dir: Path | None = None) -> list[str]:
    """The named sweeps, those of a user's folder of configs too."""
    return sorted(files(SWEEPS, config_dir))


def read(name: str, config_dir: Path | None = None) -> Definition:
    """A named sweep.

    Args:
        name: of a sweep that ships, or of the user's own.
        config_dir: a user's folder of configs.

    Raises:
        ConfigError: there is none, with the nearest names; or its file says no sweep.
    """
    by_name = files(SWEEPS, config_dir)
    if name not in by_name:
        raise unknown("sweep", name, by_name)
    return _definition(by_name[name])


def _definition(file: Path) -> Definition:
    """What a sweep's file says.

    Raises:
        ConfigError: it says which part of the file is missing, or of another form.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read ({brief(error)}): correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no table: a sweep needs about, grid and perhaps base")
    surplus = sorted(str(name) for name in set(content) - {"about", "base", "grid"})
    if surplus:
        raise unknown(f"entry of {file}", surplus[0], ["about", "base", "grid"])
    about = content.get("about")
    if not isinstance(about, str) or not about.strip():
        raise ConfigError(f"{file}: about={about!r}; it must be a line that says what it asks")
    base = content.get("base", [])
    if not isinstance(base, list) or not all(isinstance(item, str) for item in base):
        raise ConfigError(f"{file}: base={base!r}; it must be a list of overrides, key=value")
    for item in base:
        if "=" not in item:
            raise ConfigError(f"{file}: base holds {item!r}, which is no override (key=value)")
    return Definition(file.stem, about, base, _parts(file, content.get("grid")))


def _parts(file: Path, grid: Any) -> list[dict[str, str]]:
    """The parts of a grid: tables of keys and values in Hydra's grammar."""
    if not isinstance(grid, list) or not grid:
        raise ConfigError(f"{file}: grid={grid!r}; it must be a list of tables, key: values")
    parts: list[dict[str, str]] = []
    for part in grid:
        if not isinstance(part, dict) or not part:
            raise ConfigError(f"{file}: grid holds {part!r}; its parts are tables, key: values")
        for key, values in part.items():
            if isinstance(values, dict | list) or values is None:
                raise ConfigError(
                    f"{file}: {key}: {values!r} in the grid; give values in Hydra's grammar, as "
                    f'"2,4,6" or "range(0,11,2)"'
                )
        parts.append({str(key): _word(value) for key, value in part.items()})
    return parts


def _word(value: object) -> str:
    """A value of YAML as it is written in an override."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def show_names(config_dir: Path | None = None) -> None:
    """List the named sweeps; a file that cannot be used is one line, and the others are listed."""
    table = Sheet("named sweeps", [text_column("name"), text_column("what it asks")])
    problems: list[str] = []
    for name in names(config_dir):
        try:
            table.add_row(name, read(name, config_dir).about)
        except ConfigError as error:
            problems.append(str(error))
    console.out.print(table)
    for problem in problems:
        console.fail(problem)
    usage = "luq sweep NAME [--plan] [override ...]; luq status NAME [override ...]"
    console.out.print(usage)


def all_combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """The words of every combination of values; of several overrides of one key the last counts.

    Raises:
        ConfigError: a setting is given an interval, which has no end of values.
    """
    words_by_key: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_discrete_sweep():
            values = list(override.sweep_string_iterator())
        elif override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: a grid needs single values, as 1,2 or range(1,9); "
                "luq run -m hydra/sweeper=optuna searches intervals"
            )
        else:
            values = [override.get_value_element_as_str()]
        words_by_key[key] = [f"{key}={value}" for value in values]
    return [list(words) for words in itertools.product(*words_by_key.values())]


@dataclass
class Grid:
    """A definition with the overrides of a command line.

    `luq sweep pareto seed=0,1 hydra/launcher=joblib`.
    """

    definition: Definition
    overrides: list[str]
    own: Path | None = None  # a user's folder of configs
    parser: OverridesParser = field(init=False)

    def __post_init__(self) -> None:
        register()
        if any(override.startswith(SEARCH_PATH) for override in self.overrides):
            raise ConfigError(
                f"{SEARCH_PATH} is for single runs: name the folder by --config-dir DIR"
            )
        self.overrides = with_own_model(self.overrides, self.definition.base)
        check_choices(self.task, self.own)
        allow_modules(self.own)
        self.parser = OverridesParser.create()

    @cached_property
    def base(self) -> list[str]:
        """What all runs share, in the words of their overrides: they are not named after it."""
        single = [o for o in self.extra if not self.parser.parse_override(o).is_sweep_override()]
        return [f"group={self.definition.name}", *self.definition.base, *single]

    @property
    def extra(self) -> list[str]:
        """Overrides of the command line for what is no axis of the file."""
        axes = {key for part in self.definition.grid for key in part}
        return [o for o in self.task if self._key(o) not in axes]

    @property
    def search_path(self) -> list[str]:
        """The override with which Hydra finds the user's own configs; none if there are none."""
        if self.own is None:
            return []
        return [f"hydra.searchpath=['file://{self.own.resolve()}']"]

    @property
    def task(self) -> list[str]:
        """The overrides for the runs: all but those for Hydra itself (`hydra/launcher=ray`,
        `+hydra.launcher.x=2`).
        """
        return [o for o in self.overrides if not o.lstrip("+~").startswith("hydra")]

    def _parts(self) -> list[dict[str, str]]:
        """The parts of the grid after the command line.

        For an axis of some parts: the choices of a config group (`order=entropy`) keep only those
        runs that have them; values (`allocation.k=2,4`) replace the file's in the parts that have
        the axis.
        """
        parts = [dict(part) for part in self.definition.grid]
        for key, value in self.given.items():
            affected = [part for part in parts if key in part]
            if not affected:
                continue
            if not (CONF / key).is_dir():
                for part in affected:
                    part[key] = value
                continue
            choices = self._values(key, value)
            narrowed: list[dict[str, str]] = []
            for part in affected:
                common = [choice for choice in self._values(key, part[key]) if choice in choices]
                if common:
                    narrowed.append(part | {key: ",".join(common)})
            parts = narrowed or [part | {key: value} for part in affected]
        return parts

    def _values(self, key: str, value: str) -> list[str]:
        """The single values of an axis."""
        parsed = self.parser.parse_overrides([f"{key}={value}"])
        return [run[0].partition("=")[2] for run in all_combinations(parsed)]

    @cached_property
    def given(self) -> dict[str, str]:
        """Key -> value of the command line's overrides for the runs."""
        return {self._key(o): o.partition("=")[2] for o in self.task}

    def combinations(self) -> list[list[str]]:
        """The overrides of every run."""
        fixed = [
            o
            for o in (f"group={self.definition.name}", *self.definition.base)
            if self._key(o) not in self.given
        ]
        unique_runs: dict[tuple[str, ...], None] = {}
        try:
            for part in self._parts():
                parsed = self.parser.parse_overrides(
                    [*fixed, *self.extra, *(f"{key}={value}" for key, value in part.items())]
                )
                unique_runs |= {tuple(run): None for run in all_combinations(parsed)}
        except HydraException as error:
            raise ConfigError(
                f"sweep {self.definition.name}: {composition_error(error)}"
            ) from error
        return [list(run) for run in unique_runs]

    @staticmethod
    def _key(override: str) -> str:
        return override.lstrip("+").partition("=")[0]
