"""The only place that knows both Hydra and luq.config: registers the schema, turns a composed config into dataclasses."""

import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from luq.config import RunConfig
from luq.errors import ConfigError, unknown

CONF = Path(__file__).parent.parent / "conf"


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
    """Make `schema` the base of every composed config (plain values: frozen dataclasses would be read-only)."""
    node = OmegaConf.create(defaults(RunConfig))
    # a tier's YAML names only what differs from the defaults, and yet every parameter can be overridden by its plain name
    node.quantizer.tiers = OmegaConf.create({}, flags={"struct": False})
    ConfigStore.instance().store(name="schema", node=node)


def _fit(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or a ConfigError that names the key."""
    origin, arguments = get_origin(hint), get_args(hint)
    if value == "???":
        raise ConfigError(f"{where} is not set: give it a value, {where}=...")
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _fit(next(a for a in arguments if a is not type(None)), value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if origin is dict and isinstance(value, dict):
        return {str(k): _fit(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is list and isinstance(value, list):
        return [_fit(arguments[0], v, where) for v in value]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(hint, type)
        and isinstance(value, hint)
        and not (hint is int and isinstance(value, bool))
    ):
        return value
    raise ConfigError(
        f"{where}={value!r} is not possible: it must be of type {getattr(hint, '__name__', hint)}"
    )


def _build(kind: type, values: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where}={values!r} is not possible: it must be a group of {', '.join(hints)}"
        )
    for name in values:
        if name not in hints:
            raise unknown(f"setting in {where or 'the config'}", name, hints)
    prefix = f"{where}." if where else ""
    return kind(**{name: _fit(hints[name], value, prefix + name) for name, value in values.items()})


def to_config(composed: DictConfig) -> RunConfig:
    """The frozen dataclasses of a composed config; a value that does not fit is a ConfigError."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    plain.pop("experiment", None)
    config = _build(RunConfig, plain, "")
    assert isinstance(config, RunConfig)
    return config


def check_choices(overrides: list[str]) -> None:
    """A ConfigError with the nearest names for a config group's choice that does not exist."""
    for override in overrides:
        group, equals, value = override.lstrip("+").partition("=")
        if group == "sweep" and equals:
            raise ConfigError(
                f"sweep={value}: start a named sweep with `luq sweep {value}`, group runs with group={value}"
            )
        folder = CONF / group
        if not equals or "." in group or not folder.is_dir():
            continue
        known = [file.stem for file in folder.glob("*.yaml")]
        for name in value.split(","):
            if name not in (*known, "null", "") and "(" not in name:
                raise unknown(group, name, known)
