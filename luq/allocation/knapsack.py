"""The multiple-choice knapsack: one tier per layer, bytes within a budget, the least sum of errors. Exact."""

import re
from typing import NamedTuple

from luq.errors import ConfigError

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Option(NamedTuple):
    """One tier of one layer: what it takes and what it costs."""

    tier: str
    bytes: int
    error: float


def parse_bytes(text: str) -> int:
    """ "2.5GB", "900 kB", "1GiB" or a plain number of bytes; a ConfigError for anything else."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    unit = match and (match[2] if match[2] != "b" else "")
    if match is None or unit not in UNITS:
        raise ConfigError(
            f"allocation.bytes={text!r} is not possible: it must be a size like 2.5GB, 900kB, 1.2GiB or 123456"
        )
    return int(float(match[1]) * UNITS[unit])


def solve(options: list[list[Option]], limit: int) -> list[Option]:
    """One option per layer with the least total error among those whose bytes sum to at most `limit`.

    Dynamic programming over what the layers so far can take: of two ways to the same layer, one that takes no fewer bytes
    at no smaller error never wins. Layers of equal size leave few ways (32 layers in 4 tiers: 6,545 at most); ties go to
    fewer bytes, then to the earlier options.
    """
    states: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    rest = [min(o.bytes for o in layer) for layer in options]
    for at, layer in enumerate(options):
        needed = sum(rest[at + 1 :])
        grown = [
            (size + option.bytes, error + option.error, (*path, i))
            for size, error, path in states
            for i, option in enumerate(layer)
            if size + option.bytes + needed <= limit
        ]
        states, least = [], float("inf")
        for state in sorted(grown):
            if state[1] < least:
                states.append(state)
                least = state[1]
    if not states:
        raise ConfigError(
            f"no choice of tiers takes at most {limit} bytes: the smallest takes {sum(rest)}"
        )
    _, _, path = min(states, key=lambda s: (s[1], s[0], s[2]))
    return [layer[i] for layer, i in zip(options, path, strict=True)]
