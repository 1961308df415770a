"""Orders: a ranking of layers, most compressible first. One function each, and one line in the registry.

`scores(name)` gives a score per layer [layers] and is asked only for what an order needs; ties go to the earlier layer.
What a score is stands where it is computed: `luq.profiling` and `luq.quantization.sensitivity`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

Scores = Callable[[str], list[float]]


def ascending(values: list[float]) -> list[int]:
    """Layers from the least value to the greatest."""
    return sorted(range(len(values)), key=lambda i: (values[i], i))


def entropy(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending activation entropy: LUQ's order (section 3)."""
    return ascending(scores("entropy"))


def entropy_reverse(scores: Scores, layers: int, seed: int) -> list[int]:
    """Descending entropy: the paper's control."""
    return ascending(scores("entropy"))[::-1]


def variance(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending variance of the layer's output vectors."""
    return ascending(scores("variance"))


def depth(scores: Scores, layers: int, seed: int) -> list[int]:
    """First layers first: the last layers are kept."""
    return list(range(layers))


def depth_reverse(scores: Scores, layers: int, seed: int) -> list[int]:
    """Last layers first: the first layers are kept."""
    return list(range(layers))[::-1]


def random(scores: Scores, layers: int, seed: int) -> list[int]:
    """A seeded shuffle."""
    return [int(i) for i in np.random.default_rng([seed, 17]).permutation(layers)]


def lim(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending change from input to output (layer input modification, arXiv 2406.17415)."""
    return ascending(scores("lim"))


def zd(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending share of weights with a z-score above 1 (z-score distribution, arXiv 2406.17415)."""
    return ascending(scores("zd"))


def kurtosis(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending kurtosis of the weights (outliers, as KurtBoost of arXiv 2503.06518 keeps them)."""
    return ascending(scores("kurtosis"))


def output_error(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending error of the layer's output when it really is in the low tier."""
    return ascending(scores("output_error"))


def kl(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending KL of the model's answers when this layer alone is in the low tier."""
    return ascending(scores("kl"))


def delta_loss(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending sum of |gradient x actual quantization error| (as AutoScheme of arXiv 2512.04746)."""
    return ascending(scores("delta_loss"))


class Correlation(NamedTuple):
    """How alike two orders rank the layers: 1 the same, 0 unrelated, -1 reversed."""

    a: str
    b: str
    kendall: float
    spearman: float


def correlations(orders: dict[str, list[int]]) -> list[Correlation]:
    """Rank correlations between all pairs of orders."""
    places = {name: np.argsort(order) for name, order in orders.items()}
    names = list(orders)
    return [
        Correlation(
            a,
            b,
            float(stats.kendalltau(places[a], places[b]).statistic),
            float(stats.spearmanr(places[a], places[b]).statistic),
        )
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
