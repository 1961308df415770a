"""The project's errors. Every message says what is wrong, where, and what to do.

LuqError
├── ConfigError   a setting is unknown, out of range or contradicts another
├── DataError     calibration or benchmark data is missing or unusable
├── ModelError    a checkpoint is incomplete, or its layers cannot be found
└── StoreError    an artefact is damaged or cannot be written
"""

import errno
import textwrap
from collections.abc import Iterable

from rapidfuzz import fuzz, process

SHOWN_NAMES = 40  # of those that are known, in an error message
NEAR = 50  # a name this similar may have been meant; 100: but for upper and lower case the same
SUGGESTIONS = 3  # at most
# What the system's refusals mean to the person who started the command, and what to do.
ELSEWHERE = "give another folder (--outputs, or paths.outputs=DIR)"
REMEDIES = {
    errno.ENOSPC: "free some space on that disk, and start the same command again",
    errno.EDQUOT: "free some of your quota, and start the same command again",
    errno.EFBIG: "files of this size are not allowed here (ulimit -f): raise the limit",
    errno.EACCES: f"you have no right to it: ask its owner, or {ELSEWHERE}",
    errno.EPERM: f"you have no right to it: ask its owner, or {ELSEWHERE}",
    errno.EROFS: f"nothing can be written there: {ELSEWHERE}",
    errno.ENOTDIR: f"a file stands where a folder should be: move it away, or {ELSEWHERE}",
    errno.EEXIST: f"a file stands where a folder should be: move it away, or {ELSEWHERE}",
    errno.EISDIR: "a folder stands where a file should be: move it away",
    errno.ENOENT: "it is not there (any more): give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead in a circle: give another path",
    errno.EMFILE: "raise the number of files that a process may open (ulimit -n)",
    errno.ENFILE: "the machine has too many open files: end other processes",
    errno.EIO: "the disk cannot be read or written there: look at it, and at its cables",
    errno.ESTALE: "the server of that folder has replaced it: start the same command again",
    errno.ETIMEDOUT: "the server of that folder does not answer: start the same command again",
}


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


def system_message(error: OSError, default_place: object = None) -> str | None:
    """What the system refused, where, and what to do.

    Args:
        error: The system's.
        default_place: Where it was, if the error itself does not say it.

    Returns:
        None for an error of another library that only looks like one of the system.
    """
    if error.errno not in REMEDIES:
        return None
    places = [str(place) for place in (error.filename, error.filename2) if place is not None]
    if not places and default_place is not None:
        places = [str(default_place)]
    place = f"{' -> '.join(places)}: " if places else ""
    reason = (error.strerror or str(error)).lower()
    return f"{place}{reason}; {REMEDIES[error.errno]}"


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Those of some names that may have been meant, the most similar one first."""
    matches = process.extract(
        name,
        list(names),
        scorer=fuzz.ratio,
        processor=str.lower,
        limit=SUGGESTIONS,
        score_cutoff=NEAR,
    )
    return [match for match, _similarity, _place in matches]


def unknown(kind: str, name: str, choices: Iterable[str]) -> ConfigError:
    """The error for a name that is not there, with the nearest ones that are ("did you mean")."""
    names = sorted(choices)
    near = nearest(name, names)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if not names:
        return ConfigError(f"unknown {kind} {name!r}: there are none")
    if near and len(names) > SHOWN_NAMES:
        return ConfigError(f"unknown {kind} {name!r}: {hint.strip()}")
    ending = ", ..." if len(names) > SHOWN_NAMES else ""
    return ConfigError(
        f"unknown {kind} {name!r}: {hint}known are {', '.join(names[:SHOWN_NAMES])}{ending}"
    )


def brief(error: BaseException) -> str:
    """What a library says of an error, in one line that is not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return textwrap.shorten(text, width=300, placeholder=" ...")
