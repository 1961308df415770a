"""Two sets of scores question by question: differences with bootstrap intervals. A difference inside one is a tie."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


CHUNK = 4_000_000  # counts drawn at once


@lru_cache(maxsize=32)
def _counts(seed: int, n: int) -> np.ndarray:
    """How often each of n values is drawn, per resample: kept, since benchmarks have few sizes."""
    return np.random.default_rng([seed, 31]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def _resampled(values: np.ndarray, weights: np.ndarray, seed: int) -> np.ndarray:
    """Weighted means of `RESAMPLES` samples of the values, drawn with replacement."""
    n = len(values)
    if n * RESAMPLES <= CHUNK:
        counts = _counts(seed, n)
        return (counts @ (weights * values)) / (counts @ weights)
    rng, means, step = np.random.default_rng([seed, 31]), [], max(1, CHUNK // n)
    for start in range(0, RESAMPLES, step):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(step, RESAMPLES - start))
        means.append(counts @ (weights * values) / (counts @ weights))
    return np.concatenate(means)


def bootstrap(values: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95 % interval."""
    array = np.asarray(values, np.float64)
    low, high = np.quantile(_resampled(array, np.ones(len(array)), seed), (0.025, 0.975))
    return float(array.mean()), float(low), float(high)


class Difference(NamedTuple):
    """B minus A in points of the score, its 95 % interval, and in how many of n units B was better, equal or worse."""

    name: str
    a: float
    b: float
    mean: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int

    @property
    def verdict(self) -> str:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "tie"


Units = dict[str, tuple[float, float]]  # unit -> its value in [0, 1] and its weight in the score


def average(runs: list[dict[str, Units]]) -> dict[str, Units]:
    """Each unit's mean value over several runs, for the units that all of them have."""
    found: dict[str, Units] = {}
    for name in (n for n in runs[0] if all(n in run for run in runs)):
        shared = [u for u in runs[0][name] if all(u in run[name] for run in runs)]
        found[name] = {
            u: (float(np.mean([run[name][u][0] for run in runs])), runs[0][name][u][1])
            for u in shared
        }
    return found


def paired(
    a: dict[str, Units], b: dict[str, Units], seed: int = 0, scale: float = 100
) -> list[Difference]:
    """Differences per benchmark over the units that both have, and of the mean over benchmarks, named `mean`.

    `scale` turns a unit's value into what is shown: 100 makes points of shares.
    """
    found: list[Difference] = []
    draws = []
    for name in (n for n in a if n in b and a[n].keys() & b[n].keys()):
        shared = [u for u in a[name] if u in b[name]]
        left, right = (np.array([side[name][u][0] for u in shared]) for side in (a, b))
        weights = np.array([a[name][u][1] for u in shared])
        difference, sample = right - left, _resampled(right - left, weights, seed)
        draws.append(sample)
        before, after, change = (
            scale * float(np.average(x, weights=weights)) for x in (left, right, difference)
        )
        low, high = (scale * float(x) for x in np.quantile(sample, (0.025, 0.975)))
        counts = (
            int((difference > 0).sum()),
            int((difference == 0).sum()),
            int((difference < 0).sum()),
        )
        found.append(Difference(name, before, after, change, low, high, len(shared), *counts))
    if len(found) > 1:
        low, high = (scale * float(x) for x in np.quantile(np.mean(draws, axis=0), (0.025, 0.975)))
        before, after, change = (
            float(np.mean([getattr(d, f) for d in found])) for f in ("a", "b", "mean")
        )
        n, wins, ties, losses = (
            sum(getattr(d, f) for d in found) for f in ("n", "wins", "ties", "losses")
        )
        found.append(Difference("mean", before, after, change, low, high, n, wins, ties, losses))
    return found
