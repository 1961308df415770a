"""95 % intervals of scores: Wilson's for shares of right answers, the bootstrap's for others.

Scores and the ends of their intervals are in percent of the maximum.

| symbol | meaning |
|---|---|
| s, l, u | a score, the lower and the upper end of its interval |
| c | the factor of a score in a sum |
| m, e, n | the mean of a few draws, its standard error, how many there are |
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import fmean, stdev
from typing import NamedTuple

from luq.evaluation.compare import EDGES, bootstrap

QUANTILE = 1.959963984540054  # of the standard normal distribution, at 97.5 %
Z = 1.96  # half a 95 % interval in standard errors
EXACT = 1e-6  # relative difference below which two numbers are the same one, rounded


class Estimate(NamedTuple):
    """A score and the ends of its 95 % interval."""

    score: float
    low: float
    high: float


@lru_cache(maxsize=4096)
def wilson(right: int, n: int) -> Estimate:
    """The share of right answers with Wilson's interval.

    Unlike the normal interval it stays within 0 and 100, and has a width where all or no answers
    are right: 40 of 40 are at least 91.2 %.

    Args:
        right: how many answers are right.
        n: of how many.
    """
    if n == 0:
        return Estimate(0.0, 0.0, 100.0)
    # middle +- reach = (p + q^2 / 2n +- q sqrt(p (1 - p) / n + q^2 / 4n^2)) / (1 + q^2 / n), with p
    # the share and q the quantile (Wilson 1927). scipy.stats.binomtest has the same to the last bit
    # (a test compares them), but takes half a second to import, as long as all else of a finished
    # run.
    share = right / n
    doubled = 2 * (n + QUANTILE**2)
    middle = (2 * n * share + QUANTILE**2) / doubled
    reach = QUANTILE / doubled * math.sqrt(4 * n * share * (1 - share) + QUANTILE**2)
    low = 0.0 if right == 0 else middle - reach
    high = 1.0 if right == n else middle + reach
    return Estimate(100 * right / n, 100 * low, 100 * high)


def of_units(values: Sequence[float], weights: Sequence[float]) -> Estimate:
    """The score of some units with its interval.

    Units that are right or wrong and count alike are a share: Wilson's interval. Others (VQA's
    soft accuracy, MME's sum of two rates by category) are resampled; if all are right, or all are
    wrong, resampling knows no spread, and Wilson's interval stands for it.

    Args:
        values: of the units, in [0, 1].
        weights: of the units in the score.
    """
    are_marks = all(value in (0.0, 1.0) for value in values)
    count_alike = len(set(weights)) <= 1
    if are_marks and (count_alike or len(set(values)) == 1):
        return wilson(int(sum(values)), len(values))
    mean, low, high = bootstrap(list(values), weights=list(weights))
    return Estimate(100 * mean, 100 * low, 100 * high)


def of_error(score: float, stderr: float, n: int) -> Estimate:
    """The score of a record that holds no interval, from its standard error.

    If the standard error is that of k right answers of n, the interval is Wilson's; else it is
    the normal one within 0 and 100.
    """
    right = round(score / 100 * n)
    share = right / n if n else 0.0
    is_share = math.isclose(score, 100 * share, rel_tol=EXACT, abs_tol=EXACT)
    # the standard error of n marks that are 0 or 1
    error = 100 * math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else 0.0
    if is_share and math.isclose(stderr, error, rel_tol=EXACT, abs_tol=EXACT):
        return wilson(right, n)._replace(score=score)
    low = max(0.0, score - Z * stderr)
    high = min(100.0, score + Z * stderr)
    return Estimate(score, low, high)


def combined(terms: Iterable[tuple[float, Estimate]]) -> Estimate:
    """A weighted sum of independent scores with its interval.

    The distances of the ends from the scores add in squares, each end with the one that moves the
    sum the same way (MOVER, Zou and Donner 2008; of two Wilson intervals it is Newcombe's method
    10): low = sum(c s) - sqrt(sum((c (s - l))^2 if c > 0, (c (u - s))^2 if c < 0)).

    Args:
        terms: the factor of each score, and the score.
    """
    total = 0.0
    below = 0.0
    above = 0.0
    for factor, estimate in terms:
        down = estimate.score - estimate.low
        up = estimate.high - estimate.score
        if factor < 0:
            down, up = up, down
        total += factor * estimate.score
        below += (factor * down) ** 2
        above += (factor * up) ** 2
    return Estimate(total, total - math.sqrt(below), total + math.sqrt(above))


def of_mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent scores, such as those of several benchmarks, with its interval."""
    return combined((1 / len(estimates), estimate) for estimate in estimates)


def over_runs(estimates: Sequence[Estimate]) -> Estimate:
    """The mean score of several runs that were asked the same, with its interval.

    More runs do not make it narrower: what one question tells does not grow with its answers.
    """
    n = len(estimates)
    score = sum(estimate.score for estimate in estimates) / n
    below = sum((estimate.score - estimate.low) ** 2 for estimate in estimates) / n
    above = sum((estimate.high - estimate.score) ** 2 for estimate in estimates) / n
    return Estimate(score, score - math.sqrt(below), score + math.sqrt(above))


def student(mean: float, error: float, draws: int) -> Estimate:
    """A mean over a few independent draws with Student's interval: m +- t(n - 1) e.

    Args:
        mean: over the draws, in any unit.
        error: the mean's standard error.
        draws: how many; one says nothing of the others, and its interval has no ends.
    """
    from scipy import stats  # late: `luq status` and `--help` must not wait for it

    if draws < 2:
        return Estimate(mean, -math.inf, math.inf)
    upper_tail = EDGES[1]
    reach = float(stats.t.ppf(upper_tail, draws - 1)) * error
    return Estimate(mean, mean - reach, mean + reach)


def of_draws(values: Sequence[float]) -> Estimate:
    """The mean of what a few independent draws gave, such as calibration sets, with its interval.

    e = s / sqrt(n), with s the standard deviation of the n values, n - 1 in its denominator.
    """
    n = len(values)
    error = stdev(values) / math.sqrt(n) if n > 1 else 0.0
    return student(fmean(values), error, n)
