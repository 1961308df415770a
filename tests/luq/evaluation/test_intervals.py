"""Intervals of scores: Wilson's, the bootstrap's, and those of sums."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from luq.evaluation import intervals
from luq.evaluation.compare import RESAMPLES, bootstrap
from luq.evaluation.intervals import Estimate
from luq.evaluation.scorers.summary import of_strata, of_units, standard_error


def by_hand(right: int, n: int) -> tuple[float, float]:
    """Wilson's interval in percent (Wilson 1927), z = 1.959964."""
    z = stats.norm.ppf(0.975)
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 100 * (middle - reach), 100 * (middle + reach)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(right_of_n: tuple[int, int]) -> None:
    right, n = right_of_n
    score, low, high = intervals.wilson(right, n)
    assert (low, high) == pytest.approx(by_hand(right, n), abs=1e-6)
    known = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == (100 * known.low, 100 * known.high), "to the last bit"
    assert 0 <= low <= score <= high <= 100
    assert low < high


def test_all_right_is_no_certainty() -> None:
    estimate = of_units([1.0] * 40, {}).interval
    assert estimate == pytest.approx((100.0, 91.2378, 100.0), abs=1e-3)
    assert of_units([0.0] * 40, {}).interval.high == pytest.approx(100 - 91.2378, abs=1e-3)


def test_soft_scores_are_resampled() -> None:
    values = [0.0, 0.3, 0.6, 1.0] * 30
    score, low, high = of_units(values, {}).interval
    error = 100 * standard_error(values)
    assert score == pytest.approx(47.5)
    assert low == pytest.approx(score - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(score + 1.96 * error, abs=0.2 * error)


def test_units_weigh_in_the_interval_as_in_the_score() -> None:
    values = [1.0, 0.0, 0.25, 1.0, 1.0, 0.0] * 10
    summary = of_strata(values, ["a", "b", "b", "b", "b", "b"] * 10, {})
    assert summary.interval.score == pytest.approx(summary.score)
    assert summary.interval.low < summary.score < summary.interval.high
    right = of_strata([1.0] * 6, ["a", "b", "b", "b", "b", "b"], {})
    assert right.interval == intervals.wilson(6, 6)


def test_a_record_with_a_standard_error_alone() -> None:
    marks = [1.0] * 30 + [0.0] * 10
    summary = of_units(marks, {})
    from_error = intervals.of_error(summary.score, summary.stderr, summary.n)
    assert from_error == pytest.approx(summary.interval)
    soft = of_units([0.3, 1.0, 1.0, 0.9] * 10, {})
    low, high = soft.score - 1.96 * soft.stderr, soft.score + 1.96 * soft.stderr
    from_error = intervals.of_error(soft.score, soft.stderr, soft.n)
    assert from_error == pytest.approx((soft.score, low, high))
    assert intervals.of_error(99.0, 2.0, 40).high == 100.0
    assert intervals.of_error(0.0, 0.0, 0) == (0.0, 0.0, 100.0)


def test_a_difference_of_two_shares_is_newcombe_s() -> None:
    """Newcombe 1998, table II, example (a): 56/70 - 48/80 has 0.0524 to 0.3339 by method 10."""
    one = intervals.wilson(56, 70)
    other = intervals.wilson(48, 80)
    difference = intervals.combined([(1, one), (-1, other)])
    assert difference == pytest.approx((20.0, 5.24, 33.39), abs=0.01)


def test_the_mean_of_several_is_narrower_and_of_runs_is_not() -> None:
    one = Estimate(50.0, 40.0, 60.0)
    assert intervals.of_mean([one] * 4) == pytest.approx((50.0, 45.0, 55.0))
    assert intervals.over_runs([one] * 4) == pytest.approx(one)


def test_ours_is_scipy_s_bootstrap() -> None:
    values = np.random.default_rng(0).random(300)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
    )
    mean, low, high = bootstrap(list(values))
    error = expected.standard_error
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.15 * error)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.15 * error)


def test_students_interval_over_a_few_draws() -> None:
    # t at 97.5 % with two degrees of freedom, from a table
    reach = 4.302653 / math.sqrt(3)
    assert intervals.of_draws([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - reach, 2.0 + reach))
    assert intervals.student(5.0, 0.1, 2) == pytest.approx((5.0, 5.0 - 1.27062, 5.0 + 1.27062))


def test_one_draw_says_nothing_of_the_others() -> None:
    assert intervals.of_draws([7.0]) == (7.0, -math.inf, math.inf)
