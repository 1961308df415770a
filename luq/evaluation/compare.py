"""Two sets of scores question by question: differences with bootstrap intervals.

A difference whose 95 % interval holds 0 is a tie. The resampling is our own and not scipy's:
`scipy.stats.bootstrap` gives the same intervals (a test compares them) but draws anew for each
difference, which takes 6 to 25 times as long for up to 1,000 questions, and a report has thousands
of differences. (Of 5,000 questions, where ours draws anew too, scipy's is 2 to 5 times as quick.)
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# unit (what is independent, mostly a question) -> its value in [0, 1], its weight in the score
Units = dict[str, tuple[float, float]]

RESAMPLES = 2000
EDGES = (0.025, 0.975)  # quantiles of a 95 % interval
CHUNK = 4_000_000  # counts that are drawn and held at one time: 32 MB
STREAM = 31  # of the seed's random numbers: another one would move every published interval
MEAN = "mean"  # the name of the difference of the mean over benchmarks


class Difference(NamedTuple):
    """B minus A in points of the score, and its 95 % interval.

    `wins`, `ties` and `losses` count the units, n in all, in which B was better, equal or worse.
    """

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
        """`better`, `worse` or `tie`: B against A."""
        if self.low > 0:
            return "better"
        if self.high < 0:
            return "worse"
        return "tie"


def bootstrap(
    values: list[float], seed: int = 0, weights: list[float] | None = None
) -> tuple[float, float, float]:
    """The mean of some values, and the ends of its 95 % interval.

    Args:
        values: what is resampled.
        seed: of the resampling.
        weights: of the values in the mean; None: all count alike.
    """
    array = np.asarray(values, np.float64)
    shares = np.ones(len(array)) if weights is None else np.asarray(weights, np.float64)
    low, high = np.quantile(_resampled(array, shares, seed), EDGES)
    return float(np.average(array, weights=shares)), float(low), float(high)


def average(runs: list[dict[str, Units]]) -> dict[str, Units]:
    """Each unit's mean value over several runs, for the units that all of them have.

    Args:
        runs: benchmark -> units of each run.

    Returns:
        Benchmark -> units, with the weights of the first run.
    """
    first = runs[0]
    averaged: dict[str, Units] = {}
    for benchmark in _in_all(runs):
        units_of_runs = [run[benchmark] for run in runs]
        averaged[benchmark] = {}
        for unit in _in_all(units_of_runs):
            value = float(np.mean([units[unit][0] for units in units_of_runs]))
            averaged[benchmark][unit] = (value, first[benchmark][unit][1])
    return averaged


def paired(
    a: dict[str, Units], b: dict[str, Units], seed: int = 0, scale: float = 100
) -> list[Difference]:
    """Differences per benchmark over the units that both have.

    Args:
        a: benchmark -> units of one side.
        b: of the side that it is compared with.
        seed: of the resampling.
        scale: turns a unit's value into what is shown; 100 makes points of shares.

    Returns:
        A difference per benchmark; of several also that of their mean, named `mean`, last.
    """
    differences: list[Difference] = []
    samples: list[Array] = []
    for benchmark in _in_all([a, b]):
        shared = _shared(a[benchmark], b[benchmark])
        if not len(shared.weights):
            continue
        sample = _resampled(shared.b - shared.a, shared.weights, seed)
        samples.append(sample)
        differences.append(_difference(benchmark, shared, sample, scale))
    if len(differences) > 1:
        differences.append(_of_the_mean(differences, samples, scale))
    return differences


class _Shared(NamedTuple):
    """The n units that both sides have: their values, and their weights in A's score."""

    a: Array  # [n]
    b: Array  # [n]
    weights: Array  # [n]


def _shared(a: Units, b: Units) -> _Shared:
    names = _in_all([a, b])
    values_of_a = np.array([a[name][0] for name in names])
    values_of_b = np.array([b[name][0] for name in names])
    weights = np.array([a[name][1] for name in names])
    return _Shared(values_of_a, values_of_b, weights)


def _difference(name: str, shared: _Shared, sample: Array, scale: float) -> Difference:
    """The difference of one benchmark.

    Args:
        name: of the benchmark.
        shared: its units.
        sample: resampled means of their changes [RESAMPLES].
        scale: turns a unit's value into what is shown.
    """
    # Units are resampled as pairs: what makes a question hard for both sides cancels.
    changes = shared.b - shared.a
    low, high = np.quantile(sample, EDGES)
    return Difference(
        name,
        a=scale * float(np.average(shared.a, weights=shared.weights)),
        b=scale * float(np.average(shared.b, weights=shared.weights)),
        mean=scale * float(np.average(changes, weights=shared.weights)),
        low=scale * float(low),
        high=scale * float(high),
        n=len(changes),
        wins=int((changes > 0).sum()),
        ties=int((changes == 0).sum()),
        losses=int((changes < 0).sum()),
    )


def _of_the_mean(differences: list[Difference], samples: list[Array], scale: float) -> Difference:
    """The difference of the mean over benchmarks, each of which weighs the same."""
    # If resamples of benchmarks are independent, their means are resamples of the mean. Those of
    # one size are drawn with the same counts (`_counts`): independent only if the n-th units of
    # the benchmarks have nothing to do with each other. Other counts would move published
    # intervals.
    low, high = np.quantile(np.mean(samples, axis=0), EDGES)
    return Difference(
        MEAN,
        a=float(np.mean([d.a for d in differences])),
        b=float(np.mean([d.b for d in differences])),
        mean=float(np.mean([d.mean for d in differences])),
        low=scale * float(low),
        high=scale * float(high),
        n=sum(d.n for d in differences),
        wins=sum(d.wins for d in differences),
        ties=sum(d.ties for d in differences),
        losses=sum(d.losses for d in differences),
    )


def _in_all(tables: list[dict[str, Units]] | list[Units]) -> list[str]:
    """The names that all tables have, in the order of the first."""
    return [name for name in tables[0] if all(name in table for table in tables)]


@lru_cache(maxsize=32)
def _counts(seed: int, n: int) -> npt.NDArray[np.int64]:
    """How often each of n values is drawn [RESAMPLES, n]. Benchmarks have few sizes: cached."""
    rng = np.random.default_rng([seed, STREAM])
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def _resampled(values: Array, weights: Array, seed: int) -> Array:
    """Weighted means of `RESAMPLES` samples of the values, drawn with replacement."""
    # Drawing n values with replacement is drawing how often each comes: a multinomial, and the
    # means of all samples are then one matrix product.
    n = len(values)
    if n * RESAMPLES <= CHUNK:
        return _weighted_means(_counts(seed, n), values, weights)
    rng = np.random.default_rng([seed, STREAM])
    step = max(1, CHUNK // n)
    means: list[Array] = []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size)
        means.append(_weighted_means(counts, values, weights))
    return np.concatenate(means)


def _weighted_means(counts: npt.NDArray[np.int64], values: Array, weights: Array) -> Array:
    """A weighted mean per row of counts, which say how often each value was drawn."""
    # The weights of a sample do not add up to 1, so they are normalized in each.
    means: Array = (counts @ (weights * values)) / (counts @ weights)
    return means
