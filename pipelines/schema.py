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
from luq.plugins import plugin
from pipelines.conf_folder import CONF, files

# What Hydra says of overrides -> the same for people who do not know it.
_SEVERAL = "{0}: several values are several runs: `luq run -m`, or one list in brackets, [a,b]"
_CHOSEN = "{0} is there anyway: write {0}=NAME, without the +"
PLAIN_WORDS = {
    r"Ambiguous value for argument '(.+?)'\n": _SEVERAL,
    r"Sweep parameters '(.+)' requires --multirun": _SEVERAL,
    r"(\S+) appears more than once in the final defaults list": _CHOSEN,
    r"Multiple values for (\S+)\. To override": _CHOSEN,
    r"Could not find '(\S+)'.*Available options in '\S+':(.*?)Config search path": (
        "there is no {0}: known are {1}"
    ),
    r"Interpolation key '([^']+)' not found": (
        "${{{0}}} is not possible: there is no setting {0} that it could be taken from"
    ),
    r"Environment variable '([^']+)' not found": (
        "the environment has no variable {0}: set it, or give the value itself"
    ),
}
OPTIONAL = ("experiment",)  # groups of which a run may have none
SEARCH_PATH = "hydra.searchpath"  # Hydra's own setting for more folders of configs


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
        raise composition_error(error) from error
    if isinstance(plain, dict):
        plain.pop("experiment", None)
        _name_own_model(plain)
        seed = plain.get("seed")
        if isinstance(seed, int):  # here under the name that people give; the groups have copies
            require_seed("seed", seed)
    config = build(RunConfig, plain)
    # A folder of this name is made beside those of other groups.
    require(is_plain_name(config.group), "group", config.group, "a plain name, without folders")
    return config


def _name_own_model(plain: dict[Any, Any]) -> None:
    """Give a model without a name that of its folder or repository."""
    model = plain.get("model")
    if not isinstance(model, dict) or model.get("name") is not None:
        return
    path = model.get("path")
    if path == "???":
        raise ConfigError("model.path is not set: give a checkpoint's folder, model.path=DIR")
    if isinstance(path, str):
        model["name"] = Path(path).expanduser().resolve().name or path


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
    if unknown_setting and unknown_setting[1].startswith("hydra"):
        return ConfigError(
            f"Hydra has no setting {unknown_setting[1]!r}: see `luq run --cfg hydra`"
        )
    if unknown_setting:
        return unknown("setting", unknown_setting[1], _names(defaults(RunConfig)))
    for pattern, words in PLAIN_WORDS.items():
        match = re.search(pattern, message, re.DOTALL)
        if match:
            return ConfigError(words.format(*(" ".join(g.split()) for g in match.groups())))
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


def _searched(overrides: Sequence[str]) -> list[Path]:
    """The folders that hydra.searchpath names; those of packages (pkg://) are left to Hydra."""
    folders: list[Path] = []
    for override in overrides:
        if not override.lstrip("+").startswith(f"{SEARCH_PATH}="):
            continue
        try:
            value = OverridesParser.create().parse_override(override).value()
        except HydraException:
            continue  # it is refused with the others that cannot be read
        for path in value if isinstance(value, list) else [value]:
            if "://" not in str(path) or str(path).startswith("file://"):
                folders.append(Path(str(path).removeprefix("file://")))
    return folders


def with_own_model(overrides: Sequence[str], base: Sequence[str] = ()) -> list[str]:
    """Overrides that name a checkpoint by its path alone, with what such a one is asked.

    The shipped model that a run has without them has a name and questions of its own, which are
    not those of another checkpoint.

    Args:
        overrides: of a command line.
        base: overrides of a sweep, which may choose a model.
    """
    settings = settings_of([*base, *overrides])
    if "model.path" not in settings or "model" in settings:
        return list(overrides)
    for override in overrides:
        name, _, path = override.lstrip("+").partition("=")
        if name == "model.path" and plugin(path.strip("'\"").partition(":")[0]) is not None:
            return list(overrides)  # it is a shipped one
    choices = ["model=own"]
    if "evaluation" not in settings:
        choices.append("evaluation=quick")
    return [*choices, *overrides]


def check_choices(overrides: Sequence[str], config_dir: Path | None = None) -> None:
    """Refuse overrides that cannot be read, and choices of config groups that do not exist.

    Args:
        overrides: as they are given.
        config_dir: a user's folder of configs.

    Raises:
        ConfigError: it names the override, and the nearest choices.
    """
    parser = OverridesParser.create()
    folders = [config_dir, *_searched(overrides)]
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
        choices: dict[str, Path] = {}
        for own_folder in folders:
            choices |= files(group, own_folder)
        none = ("null", "") if group in OPTIONAL else ()
        names = list(parsed.sweep_string_iterator()) if parsed.is_choice_sweep() else [value]
        for name in names:
            if name not in (*choices, *none) and "(" not in name:
                raise unknown(group, name, choices)
