"""Keys: what determines an artefact, as canonical JSON, and its sha256 shortened to 16 hex digits.

A dataclass stands in a key by its class's name and those fields that differ from their defaults, so
that a new setting with a default leaves old keys alone. A field that cannot change a byte of any
result says so (`volatile`, in `luq.config.checks`) and never stands in a key.
"""

import hashlib
import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

LENGTH = 16  # hex digits: 64 bits, enough for billions of artefacts


class Identified:
    """A frozen dataclass that is what its key says: equality, hash and repr go by the key.

    Subclasses are made with `@dataclass(frozen=True, eq=False, repr=False)`.
    """

    @property
    def key(self) -> str:
        """Computed once per value and remembered."""
        remembered: str | None = self.__dict__.get("_key")
        if remembered is None:
            remembered = digest(self.identity())
            self.__dict__["_key"] = remembered
        return remembered

    def identity(self) -> Any:
        """The plain data behind the key."""
        return fields_of(self)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Identified) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key})"


def default_of(entry: Field[Any]) -> Any:
    """The default of a dataclass field; `MISSING` if it has none."""
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return entry.default


def fields_of(value: Any) -> dict[str, Any]:
    """Plain data of a dataclass: its class, and the fields that are not volatile nor defaults."""
    content: dict[str, Any] = {}
    for entry in fields(value):
        if entry.metadata.get("volatile"):
            continue
        item = plain(getattr(value, entry.name))
        default = default_of(entry)
        if default is MISSING or plain(default) != item:
            content[entry.name] = item
    return {type(value).__name__: content}


def plain(value: Any) -> Any:
    """A value as it stands in a key. Anything but dataclasses and plain data is a TypeError."""
    if isinstance(value, Identified):
        return value.key
    if is_dataclass(value) and not isinstance(value, type):
        return fields_of(value)
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a key cannot hold {type(value).__name__}")


def canonical(value: Any) -> str:
    """JSON with sorted names and without spaces; NaN and infinity are a ValueError."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(*parts: Any) -> str:
    """The key of everything that determines a thing."""
    return hashlib.sha256(canonical(list(parts)).encode()).hexdigest()[:LENGTH]
