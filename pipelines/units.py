"""Bytes for people, in decimal units."""

import math
from typing import NamedTuple

from rich import filesize


class Unit(NamedTuple):
    """A unit of bytes and its name."""

    bytes: float
    name: str


GIGABYTE = Unit(1e9, "GB")
MEGABYTE = Unit(1e6, "MB")
AXIS_GIGABYTES = 2e9  # from this size on the axis of a figure counts gigabytes


def human(count: float, places: int = 2) -> str:
    """Bytes in the largest unit of which there is at least one, `-` for NaN."""
    return "-" if math.isnan(count) else filesize.decimal(round(count), precision=places)


def axis_unit(largest: float) -> Unit:
    """The unit of a figure's axis whose largest value is so many bytes."""
    return GIGABYTE if largest > AXIS_GIGABYTES else MEGABYTE


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 4 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"
