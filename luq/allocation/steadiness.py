"""How steady an order is: Kendall's tau between its rankings of the layers, measured again.

With tau t between two rankings, (1 - t) / 2 of the pairs of layers stand the other way round: none
at 1, half of them at 0, as between rankings that have nothing to do with each other.

| symbol | here | meaning |
|---|---|---|
| m_l, e_l | means, errors | a layer's mean score over repetitions, and that mean's standard error |
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from luq.allocation.orders import ascending, kendall
from luq.profiling.entropies import LayerEntropy

# An order is within its noise if in so many of ten repetitions its tau with itself is so low: a
# quarter of the pairs of layers change places then, half as many as in an unrelated order.
NOISY_TAU = 0.5
NOISY_SHARE = 0.1
MOST = 32  # draws that are compared with each other: 496 pairs
RESAMPLES = 400  # the standard error of their mean is below 0.01
SPLITS = 50  # of draws into halves
REPETITION = 23  # tells this use of a seed from the project's others


class Agreement(NamedTuple):
    """Kendall's tau between pairs of rankings: its mean, its range, and how many pairs there are.

    `is_noise`: a tenth of the pairs or more have a tau of 0.5 or less.
    """

    mean: float
    low: float
    high: float
    pairs: int
    is_noise: bool

    @property
    def swapped(self) -> float:
        """The share of the pairs of layers that stand the other way round, in the mean."""
        return (1 - self.mean) / 2


def agreement(taus: Sequence[float]) -> Agreement:
    """What the taus of one or more pairs of rankings say together."""
    low_ones = sum(tau <= NOISY_TAU for tau in taus)
    is_noise = low_ones >= NOISY_SHARE * len(taus)
    return Agreement(float(np.mean(taus)), min(taus), max(taus), len(taus), is_noise)


def places(order: Sequence[int]) -> list[int]:
    """Layer -> its place in an order."""
    return [int(place) for place in np.argsort(order)]


def tau(scores: Sequence[float], other_scores: Sequence[float]) -> float:
    """Kendall's tau between the orders that two lists of scores per layer give."""
    return kendall(places(ascending(list(scores))), places(ascending(list(other_scores))))


def between_draws(scores: Sequence[Sequence[float]]) -> Agreement | None:
    """Of every two of some draws, with a score per layer each; None for a single one.

    Of more than 32 draws the first 32 are compared.
    """
    taus = [tau(a, b) for a, b in combinations(scores[:MOST], 2)]
    return agreement(taus) if taus else None


def between_halves(scores: Sequence[Sequence[float]], seed: int = 0) -> Agreement | None:
    """Between the means of one half of the draws and of the other half, over random halves.

    The order by the mean of all draws is steadier: a half has half as many. Of an odd number one
    draw is left out each time.

    Args:
        scores: Of every draw a score per layer.
        seed: Of the halves.

    Returns:
        None for fewer than four draws: a half is no mean then.
    """
    half = len(scores) // 2
    if half < 2:
        return None
    table = np.asarray(scores)
    rng = np.random.default_rng([seed, REPETITION])
    taus: list[float] = []
    for _ in range(SPLITS):
        shuffled = table[rng.permutation(len(table))]
        first_means = shuffled[:half].mean(0).tolist()
        second_means = shuffled[half : 2 * half].mean(0).tolist()
        taus.append(tau(first_means, second_means))
    return agreement(taus)


def repeated(means: Sequence[float], errors: Sequence[float], seed: int = 0) -> list[float]:
    """Taus between two repetitions as they are to be expected, by a parametric bootstrap.

    A repetition's score of layer l is drawn from N(m_l, e_l^2). The measured means have noise in
    them, too, and lie further apart than the true ones: the tau that is really found is lower.

    Args:
        means: Of every layer the mean score.
        errors: The standard error of each.
        seed: Of the random numbers.
    """
    centre = np.asarray(means)
    width = np.asarray(errors)
    rng = np.random.default_rng([seed, REPETITION])
    taus: list[float] = []
    for _ in range(RESAMPLES):
        first = centre + width * rng.standard_normal(len(centre))
        second = centre + width * rng.standard_normal(len(centre))
        taus.append(tau(first.tolist(), second.tolist()))
    return taus


def of_k_means(
    profiles: Sequence[Sequence[LayerEntropy]], modality: str, repetitions: int
) -> Agreement | None:
    """What is to be expected of the order of entropy if K-means alone were repeated.

    The noise of the samples is not in it, so that the tau between two calibration sets is lower.

    Args:
        profiles: Each of one calibration set.
        modality: Whose tokens the order is over.
        repetitions: Seeds of K-means that each mean is over.

    Returns:
        None for one repetition, which has no spread.
    """
    if repetitions < 2:
        return None
    taus: list[float] = []
    for profile in profiles:
        entries = [entry for entry in profile if entry.modality == modality]
        # s^2 over n repetitions is divided by n, not n - 1: e_l^2 = s^2 / (n - 1)
        errors = [entry.spread / math.sqrt(repetitions - 1) for entry in entries]
        taus += repeated([entry.mean for entry in entries], errors)
    return agreement(taus)
