"""The checks behind every setting, and the mark of fields that change no result."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from luq.errors import ConfigError

# Metadata of a dataclass field that cannot change a byte of any result: it stands in no key.
#     folder: Path = field(metadata=VOLATILE)
VOLATILE = {"volatile": True}

# The random generators take no negative seed, and that of K-means none above 32 bits.
LARGEST_SEED = 2**31 - 1
# More of anything that is counted (tokens, questions, layers) is a slip of the hand.
LARGEST_COUNT = 2**31 - 1
# In which type products of linears are computed: the model's own, or bfloat16.
COMPUTES = ("model", "bfloat16")
# Separators of folders on any system, drives, and what ends a name in C.
NOT_IN_NAMES = re.compile(r"[/\\:\x00-\x1f]")


def require(is_possible: bool, key: str, value: object, allowed: str) -> None:
    """A ConfigError that names the key, the value and what is allowed, unless it is possible."""
    if not is_possible:
        raise ConfigError(f"{key}={value!r} is not possible: it must be {allowed}")


def require_between(key: str, value: float | None, least: float, most: float, allowed: str) -> None:
    """A ConfigError unless a number lies in [least, most] or is None, which means not given.

    NaN lies in no range, and True and False are no numbers.
    """
    if value is None:
        return
    # Python's True is the integer 1.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    require(is_number and least <= value <= most, key, value, allowed)


def require_above(key: str, value: float | None, bound: float, allowed: str) -> None:
    """A ConfigError unless a number is finite and above a bound, or is None."""
    smallest = math.nextafter(bound, math.inf)
    require_between(key, value, smallest, math.nextafter(math.inf, 0), allowed)


def require_count(key: str, value: int | None, least: int, also: str = "") -> None:
    """A ConfigError unless a number of things is at least `least`, or is None.

    Args:
        key: the setting.
        value: what it was given.
        least: the smallest number that works.
        also: what else is allowed, for the message: "null for all".
    """
    allowed = f"at least {least}" if least else "0 or more"
    if isinstance(value, int) and value > LARGEST_COUNT:
        allowed = f"at most {LARGEST_COUNT}"
    if also:
        allowed = f"{allowed}, or {also}"
    require_between(key, value, least, LARGEST_COUNT, allowed)


def require_seed(key: str, value: int) -> None:
    """A ConfigError unless every random generator takes the seed."""
    require_between(key, value, 0, LARGEST_SEED, f"in [0, {LARGEST_SEED}]")


def require_compute(key: str, value: str) -> None:
    """A ConfigError unless products can be computed so."""
    require(value in COMPUTES, key, value, f"one of {', '.join(COMPUTES)}")


def require_distinct(key: str, names: Sequence[str]) -> None:
    """A ConfigError that names what stands in a list twice."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    allowed = f"a list without repetitions: {', '.join(repeated)} is there twice or more"
    require(not repeated, key, list(names), allowed)


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file or folder in the folder where it is looked for."""
    return name not in ("", ".", "..") and not NOT_IN_NAMES.search(name)


def require_text(key: str, value: str | None) -> None:
    """A ConfigError for an empty name, path or source; None means not given."""
    require(value is None or bool(value.strip()), key, value, "not empty")
