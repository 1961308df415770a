"""The project's errors. Every message says what is wrong, where, and what to do.

LuqError
├── ConfigError   a setting is unknown, out of range or contradicts another
├── DataError     calibration or benchmark data is missing or unusable
├── ModelError    a checkpoint is incomplete, or its layers cannot be found
└── StoreError    an artefact is damaged or cannot be written
"""

import difflib
import textwrap
from collections.abc import Iterable


class LuqError(Exception):
    """Base of all errors that a user can act upon."""


class ConfigError(LuqError, ValueError):
    """A setting is unknown, out of range or contradicts another."""


class DataError(LuqError):
    """Calibration or benchmark data is missing or unusable."""


class ModelError(LuqError):
    """A checkpoint is incomplete, or its layers cannot be found."""


class StoreError(LuqError):
    """An artefact is damaged or cannot be written."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not there, with the nearest ones that are ("did you mean")."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")


def brief(error: BaseException) -> str:
    """What a library says of an error, in one line that is not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return textwrap.shorten(text, width=300, placeholder=" ...")
