"""The multiple-choice knapsack: one tier per layer, bytes within a budget, least sum of errors."""

import math
import re
from typing import NamedTuple

from luq.errors import ConfigError

BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)\s*")


class Option(NamedTuple):
    """One tier of one layer: the bytes that it takes and the error that it makes."""

    tier: str
    bytes: int
    error: float


class _Prefix(NamedTuple):
    """One way to choose tiers for the first layers. Sorts by bytes, then error, then choices."""

    bytes: int
    error: float
    choices: tuple[int, ...]  # position of the chosen option, layer by layer


def parse_bytes(text: str) -> int:
    """Bytes of a size as people write it: "2.5GB", "900 kB", "1GiB", or a plain number of bytes.

    Raises:
        ConfigError: The text is no such size.
    """
    match = SIZE.fullmatch(text.lower())
    if match is not None and match[2] in BYTES_PER_UNIT:
        size = float(match[1]) * BYTES_PER_UNIT[match[2]]
        if math.isfinite(size):
            return int(size)
    raise ConfigError(
        f"allocation.bytes={text!r} is not possible: it must be a size like 2.5GB, 900kB, 1.2GiB "
        "or 123456"
    )


def solve(options: list[list[Option]], limit: int) -> list[Option]:
    """One option per layer with the least total error within a budget, found exactly.

    Dynamic programming over the bytes that the first layers take. Of two ways to choose for the
    same layers, one that takes no fewer bytes at no smaller error never wins. Layers of equal size
    leave few ways: 32 layers in 4 tiers at most 6,545.

    Args:
        options: The options of each layer.
        limit: Bytes that all layers together may take.

    Returns:
        The option of each layer. Ties go to fewer bytes, then to the earlier options.

    Raises:
        ConfigError: Even the smallest options take more than `limit`.
    """
    least_bytes = [min(option.bytes for option in layer) for layer in options]
    prefixes = [_Prefix(0, 0.0, ())]
    for index, layer in enumerate(options):
        # The layers that follow need at least this much, so a larger prefix cannot be completed.
        room = limit - sum(least_bytes[index + 1 :])
        prefixes = _without_dominated(_extended(prefixes, layer, room))
    if not prefixes:
        raise ConfigError(
            f"no choice of tiers takes at most {limit} bytes: the smallest takes {sum(least_bytes)}"
        )
    # Of the prefixes that are left, fewer bytes always mean a larger error: the last is the best.
    best = prefixes[-1]
    return [layer[choice] for layer, choice in zip(options, best.choices, strict=True)]


def _extended(prefixes: list[_Prefix], layer: list[Option], room: int) -> list[_Prefix]:
    """Every prefix with every option of the next layer that fits into `room` bytes."""
    extended: list[_Prefix] = []
    for prefix in prefixes:
        for choice, option in enumerate(layer):
            size = prefix.bytes + option.bytes
            if size <= room:
                error = prefix.error + option.error
                extended.append(_Prefix(size, error, (*prefix.choices, choice)))
    return extended


def _without_dominated(prefixes: list[_Prefix]) -> list[_Prefix]:
    """Those that make a smaller error than all that take no more bytes, by ascending bytes."""
    useful: list[_Prefix] = []
    least_error = math.inf
    for prefix in sorted(prefixes):
        if prefix.error < least_error:
            useful.append(prefix)
            least_error = prefix.error
    return useful
