"""Orders: a ranking of layers, most compressible first. One function each; `entropies` is [layers], in bits."""

import numpy as np


def entropy(entropies: list[float], seed: int) -> list[int]:
    """Ascending entropy: LUQ's order (section 3)."""
    return sorted(range(len(entropies)), key=lambda i: (entropies[i], i))


def entropy_reverse(entropies: list[float], seed: int) -> list[int]:
    """Descending entropy: the paper's control."""
    return entropy(entropies, seed)[::-1]


def depth(entropies: list[float], seed: int) -> list[int]:
    """First layers first."""
    return list(range(len(entropies)))


def depth_reverse(entropies: list[float], seed: int) -> list[int]:
    """Last layers first."""
    return list(range(len(entropies)))[::-1]


def random(entropies: list[float], seed: int) -> list[int]:
    """A seeded shuffle."""
    return [int(i) for i in np.random.default_rng([seed, 17]).permutation(len(entropies))]
