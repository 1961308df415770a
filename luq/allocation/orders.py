"""Orders: a ranking of layers, most compressible first.

An order is a function of three things: `scores(name)`, which gives a score per layer and is asked
only for what the order needs; the number of layers; and a seed. Ties go to the earlier layer. What
a score is stands where it is computed: `luq.profiling` and `luq.quantization.sensitivity`.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

Scores = Callable[[str], list[float]]
Order = Callable[[Scores, int, int], list[int]]
SHUFFLE = 17  # tells this use of a seed from the project's others


def ascending(values: list[float]) -> list[int]:
    """Layers from the least value to the greatest."""
    return sorted(range(len(values)), key=lambda layer: (values[layer], layer))


def entropy(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending activation entropy: LUQ's order (section 3)."""
    return ascending(scores("entropy"))


def entropy_reverse(scores: Scores, layers: int, seed: int) -> list[int]:
    """Descending entropy: the paper's control."""
    return ascending(scores("entropy"))[::-1]


def depth(scores: Scores, layers: int, seed: int) -> list[int]:
    """First layers first: the last layers stay in the high tier."""
    return list(range(layers))


def depth_reverse(scores: Scores, layers: int, seed: int) -> list[int]:
    """Last layers first: the first layers stay in the high tier."""
    return list(range(layers))[::-1]


def random(scores: Scores, layers: int, seed: int) -> list[int]:
    """A seeded shuffle."""
    shuffled = np.random.default_rng([seed, SHUFFLE]).permutation(layers)
    return [int(layer) for layer in shuffled]


def variance(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending variance of the layer's output vectors."""
    return ascending(scores("variance"))


def lim(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending change from input to output (layer input modification, arXiv 2406.17415)."""
    return ascending(scores("lim"))


def zd(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending share of weights with a z-score above 1 (arXiv 2406.17415)."""
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
    """Ascending sum of |gradient x actual quantization error| (as AutoScheme, arXiv 2512.04746)."""
    return ascending(scores("delta_loss"))


def fisher(scores: Scores, layers: int, seed: int) -> list[int]:
    """Ascending KL of the model's tokens when this layer alone is low, estimated by gradients."""
    return ascending(scores("fisher"))


ORDERS: dict[str, Order] = {
    "entropy": entropy,
    "entropy_reverse": entropy_reverse,
    "depth": depth,
    "depth_reverse": depth_reverse,
    "random": random,
    "variance": variance,
    "lim": lim,
    "zd": zd,
    "kurtosis": kurtosis,
    "output_error": output_error,
    "kl": kl,
    "delta_loss": delta_loss,
    "fisher": fisher,
}


class Correlation(NamedTuple):
    """How alike two orders rank the layers: 1 the same, 0 unrelated, -1 reversed."""

    a: str
    b: str
    kendall: float
    spearman: float


def kendall(
    places: Sequence[float] | np.ndarray, other_places: Sequence[float] | np.ndarray
) -> float:
    """Kendall's tau between two rankings: 1 the same, 0 unrelated, -1 reversed."""
    from scipy import stats  # late: `luq status` and `--help` must not wait for it

    return float(stats.kendalltau(places, other_places).statistic)


def correlations(orders: dict[str, list[int]]) -> list[Correlation]:
    """Rank correlations between all pairs of orders."""
    from scipy import stats  # late: `luq status` and `--help` must not wait for it

    # An order lists layers by rank. What correlates are the ranks by layer.
    ranks = {name: np.argsort(order) for name, order in orders.items()}
    pairs: list[Correlation] = []
    for a, b in combinations(orders, 2):
        tau = kendall(ranks[a], ranks[b])
        spearman = float(stats.spearmanr(ranks[a], ranks[b]).statistic)
        pairs.append(Correlation(a, b, tau, spearman))
    return pairs
