"""Dataclasses from plain values (YAML, JSON): every value is fitted to the type of its field.

A ConfigError names the key whose value does not fit, or the nearest names for one that does not
exist. With `strict=False` unknown keys are left out and missing ones take their defaults, as in
files that another version of the project wrote.
"""

import types
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from luq.config.quantizer import TIERS, TierConfig
from luq.config.quantizer.base import ITSELF
from luq.config.quantizer.own import OwnTier, source_of, tier_class
from luq.errors import ConfigError, unknown

T = TypeVar("T")


class Builder(NamedTuple):
    """How plain values become typed ones."""

    strict: bool = True

    def fit(self, hint: Any, value: Any, setting: str) -> Any:
        """`value` as the type `hint`. `setting` is the dotted name of the value, for errors."""
        if value == "???":
            raise ConfigError(f"{setting} is not set: give it a value, {setting}=...")
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if origin in (Union, types.UnionType):
            return self._optional(arguments, value, setting)
        if isinstance(hint, type) and issubclass(hint, TierConfig):
            return self._tier(value, setting)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.build(hint, value, setting)
        if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
            return self._named_tuple(hint, value, setting)
        if origin is dict and isinstance(value, dict):
            return {str(k): self.fit(arguments[1], v, f"{setting}.{k}") for k, v in value.items()}
        if origin in (list, tuple) and isinstance(value, list | tuple):
            return origin(self.fit(arguments[0], item, setting) for item in value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return _float(value, setting)
        is_bool_for_int = hint is int and isinstance(value, bool)
        if isinstance(hint, type) and isinstance(value, hint) and not is_bool_for_int:
            return value
        requirement = f"of type {getattr(hint, '__name__', hint)}"
        if origin is list:
            requirement = f"a list, as in {setting}=[{value}]"
        elif origin is dict:
            requirement = "a table, as in {name: value}"
        raise ConfigError(f"{setting}={value!r} is not possible: it must be {requirement}")

    def build(self, kind: type[T], values: Any, setting: str = "") -> T:
        """The dataclass `kind` from a table of its fields."""
        hints = _type_hints(kind)  # type: ignore[arg-type]  # a class is hashable
        names = [entry.name for entry in fields(kind) if entry.init]  # type: ignore[arg-type]
        if not isinstance(values, dict):
            field_names = ", ".join(names)
            raise ConfigError(
                f"{setting}={values!r} is not possible: it must be a group of {field_names}"
            )
        prefix = f"{setting}." if setting else ""
        arguments = {}
        for name, value in values.items():
            if name in names:
                arguments[name] = self.fit(hints[name], value, prefix + name)
            elif self.strict:
                raise unknown(f"setting in {setting or 'the config'}", name, names)
        required = [
            entry.name
            for entry in fields(kind)  # type: ignore[arg-type]  # T is a dataclass
            if entry.init and entry.default is MISSING and entry.default_factory is MISSING
        ]
        missing = [name for name in required if name not in arguments]
        if missing:
            raise ConfigError(f"{setting or 'the config'} lacks {', '.join(missing)}")
        return kind(**arguments)

    def _tier(self, value: Any, setting: str) -> TierConfig:
        """The tier of the class that its `method` names, or of a class of the user's own."""
        if isinstance(value, dict) and "class" in value:
            return self._own_tier(value, setting)
        if not isinstance(value, dict) or "method" not in value:
            raise ConfigError(
                f"{setting}={value!r} is not possible: it must name a method, or a class of your "
                "own. Is the tier's name misspelt?"
            )
        method = value["method"]
        if method not in TIERS:
            raise unknown(f"quantizer in {setting}.method", str(method), TIERS)
        parameters = {name: item for name, item in value.items() if name != "method"}
        return self._built_tier(TIERS[method], parameters, setting)

    def _own_tier(self, value: dict[str, Any], setting: str) -> OwnTier:
        """A tier of a class outside of the project; what a file says imports nothing."""
        path = value["class"]
        if not isinstance(path, str):
            raise ConfigError(f"{setting}.class={path!r} is not possible: it must be a text")
        parameters = {name: item for name, item in value.items() if name != "class"}
        if not self.strict:
            source = str(parameters.pop("source", ""))
            return OwnTier(path, source, parameters)
        kind = tier_class(path, setting)
        tier = self._built_tier(kind, parameters, setting)
        values = {entry.name: plain(getattr(tier, entry.name)) for entry in fields(tier)}
        return OwnTier(path, source_of(kind, setting), values, tier)

    def _built_tier(self, kind: type[TierConfig], parameters: Any, setting: str) -> TierConfig:
        """A tier whose errors name its place in the config."""
        try:
            return self.build(kind, parameters, setting)
        except ConfigError as error:
            message = str(error)
            if not message.startswith(f"{ITSELF}."):
                raise
            raise ConfigError(setting + message.removeprefix(ITSELF)) from error

    def _optional(self, arguments: tuple[Any, ...], value: Any, setting: str) -> Any:
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        return self.fit(kinds[0], value, setting)

    def _named_tuple(self, hint: Any, value: Any, setting: str) -> Any:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{setting}={value!r} is not possible: it must be a list")
        types_of_fields = _type_hints(hint).values()
        if len(value) != len(types_of_fields):
            raise ConfigError(
                f"{setting} has {len(value)} entries: it must have {len(types_of_fields)}"
            )
        items = zip(types_of_fields, value, strict=True)
        return hint(*(self.fit(kind, item, setting) for kind, item in items))


def _float(value: int, setting: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"{setting} is not possible: it is too large a number") from error


@cache  # a report reads thousands of records of the same classes
def _type_hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def build(kind: type[T], values: Any, setting: str = "", strict: bool = True) -> T:
    """The dataclass `kind` from plain values; see the module for `strict`."""
    return Builder(strict).build(kind, values, setting)


def build_tier(values: dict[str, Any]) -> TierConfig:
    """The tier of a table with its `method` and parameters; a ConfigError if there is none."""
    tier: TierConfig = Builder().fit(TierConfig, values, ITSELF)
    return tier


def plain(value: Any) -> Any:
    """The inverse of `build`: JSON data of dataclasses and tuples, tiers with their method."""
    if isinstance(value, OwnTier):
        return {"class": value.path, "source": value.source, **value.parameters}
    if is_dataclass(value) and not isinstance(value, type):
        content = {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
        return {"method": value.method, **content} if isinstance(value, TierConfig) else content
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
