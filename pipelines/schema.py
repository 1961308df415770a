"""The only place that knows both Hydra and luq.config.

It registers the schema, and turns a composed config into dataclasses.
"""

import re
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from luq.config import RunConfig
from luq.config.building import build
from luq.config.checks import is_plain_name, require, require_seed
from luq.config.unread import with_what_is_read
from luq.errors import ConfigError, unknown
from pipelines.conf_folder import CONF, files

OPTIONAL = ("experiment",)  # groups of which a run may have none


def defaults(kind: type) -> dict[str, Any]:
    """A dataclass as nested plain values: its defaults, and `???` where a value must be given."""
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        entry = next(f for f in fields(kind) if f.name == name)
        if isinstance(hint, type) and is_dataclass(hint):
            values[name] = defaults(hint)
        elif entry.default_factory is not MISSING:
            values[name] = entry.default_factory()
        else:
            values[name] = "???" if entry.default is MISSING else entry.default
    return values


def register() -> None:
    """Make `schema` the base of every composed config.

    It has plain values, since frozen dataclasses would be read-only.
    """
    node = OmegaConf.create(defaults(RunConfig))
    # A tier's YAML names only what differs from the defaults, and yet every parameter can be
    # overridden by its plain name.
    node.quantizer.tiers = OmegaConf.create({}, flags={"struct": False})
    # Any benchmark may have a source of its own; the dataclass knows which there are.
    node.evaluation.sources = OmegaConf.create({}, flags={"struct": False})
    ConfigStore.instance().store(name="schema", node=node)


def as_asked(composed: DictConfig) -> RunConfig:
    """The frozen dataclasses of a composed config, with settings that its run may not read.

    Raises:
        ConfigError: a value does not fit.
    """
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    if isinstance(plain, dict):
        plain.pop("experiment", None)
        seed = plain.get("seed")
        if isinstance(seed, int):  # here under the name that people give; the groups have copies
            require_seed("seed", seed)
    config = build(RunConfig, plain)
    # A folder of this name is made beside those of other groups.
    require(is_plain_name(config.group), "group", config.group, "a plain name, without folders")
    return config


def to_config(composed: DictConfig, shared: Sequence[str] = ()) -> RunConfig:
    """The settings of a run as it reads them.

    Args:
        composed: what Hydra made of a command line.
        shared: of its overrides those that were given for a whole sweep. A run that does not read
            one of them leaves it out.

    Raises:
        ConfigError: a value does not fit, or the plan ignores a setting of the allocation.
    """
    return with_what_is_read(as_asked(composed), settings_of(shared))


def composition_error(error: HydraException | OmegaConfBaseException) -> ConfigError:
    """What Hydra says of overrides, as an error of ours; the nearest names for an unknown one."""
    message = str(error)
    unknown_setting = re.search(r"Could not override '([^']+)'", message)
    if unknown_setting:
        return unknown("setting", unknown_setting[1], _names(defaults(RunConfig)))
    if isinstance(error.__cause__, OmegaConfBaseException):
        message = f"{message}\n{error.__cause__}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return ConfigError(" ".join(line for line in lines if not line.startswith("See http")))


def _names(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of nested settings."""
    names: list[str] = []
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            names += _names(value, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def settings_of(overrides: Sequence[str]) -> list[str]:
    """The settings and groups that overrides name."""
    return [override.lstrip("+~").partition("=")[0] for override in overrides]


def check_choices(overrides: Sequence[str], own: Path | None = None) -> None:
    """Refuse overrides that cannot be read, and choices of config groups that do not exist.

    Args:
        overrides: as they are given.
        own: a user's folder of configs.

    Raises:
        ConfigError: it names the override, and the nearest choices.
    """
    parser = OverridesParser.create()
    for override in overrides:
        group, equals, value = override.lstrip("+").partition("=")
        try:
            parsed = parser.parse_override(override)
            is_readable = bool(group)
        except HydraException:
            is_readable = False
        if not is_readable:
            raise ConfigError(
                f"{override!r} cannot be read: it must be setting=value, and a value with "
                "brackets, commas, quotes or spaces needs quotes of its own, as in "
                "\"group='a, b'\""
            )
        if group == "sweep" and equals:
            raise ConfigError(
                f"sweep={value}: start a named sweep with `luq sweep {value}`, group runs with "
                f"group={value}"
            )
        folder = CONF / group
        if not equals or "." in group or not folder.is_dir():
            continue
        known = files(group, own)
        none = ("null", "") if group in OPTIONAL else ()
        names = list(parsed.sweep_string_iterator()) if parsed.is_choice_sweep() else [value]
        for name in names:
            if name not in (*known, *none) and "(" not in name:
                raise unknown(group, name, known)
