"""Paired differences and their intervals."""

import numpy as np
import pytest

from luq.evaluation import compare
from luq.evaluation.compare import Difference, Units, average, bootstrap, paired


def units(values: list[float]) -> Units:
    """Units that weigh alike, named 0, 1 and so on."""
    weight = 1 / len(values)
    return {str(i): (value, weight) for i, value in enumerate(values)}


def difference(a: Units, b: Units) -> Difference:
    """The difference on one benchmark."""
    (result,) = paired({"gqa": a}, {"gqa": b})
    return result


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = list(np.random.default_rng(0).normal(3, 2, 400))
    mean, low, high = bootstrap(values)
    error = np.std(values) / 20
    assert mean == pytest.approx(np.mean(values))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_an_interval_is_the_same_for_a_seed() -> None:
    values = list(np.random.default_rng(0).normal(0, 1, 50))
    assert bootstrap(values) == bootstrap(values, seed=0)
    assert bootstrap(values) != bootstrap(values, seed=1)


def test_published_intervals_do_not_move() -> None:
    values = [i * i % 97 / 97 for i in range(200)]
    assert bootstrap(values) == pytest.approx((0.48283505, 0.43946649, 0.52768557))


def test_many_values_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are drawn one after another from the same random numbers, and none is left out."""
    values = list(np.random.default_rng(0).normal(0, 1, 50))
    at_once = bootstrap(values)
    monkeypatch.setattr(compare, "CHUNK", 50 * 300)  # 2,000 resamples in six parts of 300, and 200
    assert bootstrap(values) == pytest.approx(at_once)
    monkeypatch.setattr(compare, "CHUNK", 10)  # not even one resample fits
    assert bootstrap(values) == pytest.approx(at_once)


def test_pairing_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(500)
    a = [float(x > 0.5) for x in hard]
    b = [float(x > 0.46) for x in hard]
    result = difference(units(a), units(b))
    assert result.verdict == "better"
    assert result.wins == sum(x < y for x, y in zip(a, b, strict=True))
    assert result.losses == 0
    assert result.mean == pytest.approx(result.b - result.a)
    shuffled = list(rng.permutation(b))
    assert difference(units(a), units(shuffled)).verdict == "tie"


def test_a_side_is_better_worse_or_tied() -> None:
    assert difference(units([0, 0]), units([1, 1])).verdict == "better"
    assert difference(units([1, 1]), units([0, 0])).verdict == "worse"
    assert difference(units([0, 1]), units([1, 0])).verdict == "tie"


def test_an_interval_that_ends_at_0_is_a_tie() -> None:
    def result(low: float, high: float) -> Difference:
        return Difference("gqa", 0, 0, 0, low, high, n=1, wins=0, ties=1, losses=0)

    assert result(0, 1).verdict == "tie"
    assert result(-1, 0).verdict == "tie"


def test_equal_runs_are_a_tie_of_width_zero() -> None:
    result = difference(units([1, 0, 1]), units([1, 0, 1]))
    assert (result.mean, result.low, result.high) == (0, 0, 0)
    assert (result.wins, result.ties, result.losses) == (0, 3, 0)
    assert result.verdict == "tie"


def test_a_difference_has_both_scores_in_points() -> None:
    result = difference(units([1, 0, 0, 0]), units([1, 1, 1, 0]))
    assert (result.a, result.b, result.mean) == (25, 75, 50)
    assert (result.wins, result.ties, result.losses) == (2, 2, 0)
    assert 0 <= result.low < 50 < result.high <= 100


def test_only_shared_units_count_and_weights_do() -> None:
    a = {"mme": {"x": (1.0, 0.5), "y": (0.0, 0.25), "z": (0.0, 0.25)}, "pope": units([1])}
    b = {"mme": {"w": (1.0, 0.5), "x": (0.0, 0.5), "y": (1.0, 0.25)}, "gqa": units([1])}
    (result,) = paired(a, b)
    assert (result.name, result.n) == ("mme", 2)
    assert result.a == pytest.approx(100 * 0.5 * 1 / 0.75)
    assert result.b == pytest.approx(100 * 0.25 * 1 / 0.75)
    assert result.mean == pytest.approx(100 * (0.5 * -1 + 0.25 * 1) / 0.75)


def test_weights_are_those_of_the_first_side() -> None:
    a = {"x": (0.0, 3.0), "y": (0.0, 1.0)}
    b = {"x": (1.0, 1.0), "y": (0.0, 1.0)}
    assert difference(a, b).mean == pytest.approx(75)
    assert difference(b, a).mean == pytest.approx(-50)


def test_the_weights_of_a_resample_are_normalized() -> None:
    """A mean of equal changes is that change in every resample, whatever the weights."""
    a = {str(i): (0.0, float(i + 1)) for i in range(5)}
    b = {name: (0.5, weight) for name, (_, weight) in a.items()}
    result = difference(a, b)
    assert result.low == pytest.approx(50)
    assert result.high == pytest.approx(50)


def test_the_interval_is_that_of_the_weighted_mean() -> None:
    """A unit with nearly all of the weight decides nearly all resamples that it is in."""
    a = {"heavy": (0.0, 1e6)} | {str(i): (0.0, 1.0) for i in range(3)}
    b = {"heavy": (1.0, 1e6)} | {str(i): (0.0, 1.0) for i in range(3)}
    assert difference(a, b).high == pytest.approx(100, abs=1e-3)


def test_without_a_shared_unit_there_is_no_difference() -> None:
    assert paired({"gqa": units([1])}, {"docvqa": units([1])}) == []
    assert paired({"gqa": {"1": (1.0, 1.0)}}, {"gqa": {"2": (1.0, 1.0)}}) == []


def test_of_one_benchmark_there_is_no_mean() -> None:
    assert [d.name for d in paired({"gqa": units([0, 1])}, {"gqa": units([1, 1])})] == ["gqa"]


def test_the_last_difference_is_the_mean_over_benchmarks() -> None:
    a = {"gqa": units([0, 0, 0, 0]), "pope": units([1, 1])}
    b = {"gqa": units([1, 1, 1, 0]), "pope": units([1, 0])}
    *_, mean = paired(a, b)
    assert mean.name == "mean"
    assert mean.a == pytest.approx((0 + 100) / 2)
    assert mean.b == pytest.approx((75 + 50) / 2)
    assert mean.mean == pytest.approx((75 - 50) / 2)
    assert (mean.n, mean.wins, mean.ties, mean.losses) == (6, 3, 2, 1)


def test_the_mean_over_benchmarks_is_surer_than_each() -> None:
    rng = np.random.default_rng(2)
    a: dict[str, Units] = {}
    b: dict[str, Units] = {}
    # Different sizes: the resamples of benchmarks of one size are drawn alike, for speed.
    for size, benchmark in enumerate(("gqa", "pope", "mme", "docvqa"), 200):
        a[benchmark] = units([0.0] * size)
        b[benchmark] = units(list(rng.normal(0.1, 1, size)))
    *differences, mean = paired(a, b)
    widths = [d.high - d.low for d in differences]
    assert mean.high - mean.low == pytest.approx(np.mean(widths) / 2, rel=0.15)
    assert mean.mean - mean.low == pytest.approx(mean.high - mean.mean, rel=0.15)


def test_points_may_be_something_else() -> None:
    result = paired({"gqa": units([0, 0])}, {"gqa": units([1, 1])}, scale=1)
    assert [(d.b, d.mean, d.low, d.high) for d in result] == [(1, 1, 1, 1)]
    *_, mean = paired(
        {"gqa": units([0]), "pope": units([0])}, {"gqa": units([1]), "pope": units([1])}, scale=1
    )
    assert (mean.b, mean.mean, mean.low, mean.high) == (1, 1, 1, 1)


def test_a_seed_changes_the_interval_only() -> None:
    values = list(np.random.default_rng(0).random(50))
    intervals: list[tuple[float, float]] = []
    for seed in (0, 5):
        mean, low, high = bootstrap(values, seed)
        (result,) = paired({"gqa": units([0.0] * 50)}, {"gqa": units(values)}, seed, scale=1)
        assert (result.mean, result.low, result.high) == pytest.approx((mean, low, high))
        intervals.append((low, high))
    assert intervals[0] != pytest.approx(intervals[1], rel=1e-4)


def test_runs_are_averaged_unit_by_unit() -> None:
    runs: list[dict[str, Units]] = [
        {"gqa": {"1": (1.0, 1.0), "2": (0.0, 2.0)}, "mme": {"a": (1.0, 1.0)}},
        {"gqa": {"1": (0.0, 3.0), "3": (1.0, 1.0)}},
    ]
    assert average(runs) == {"gqa": {"1": (0.5, 1.0)}}, "with the weights of the first"
    (result,) = paired({"gqa": {"1": (0.25, 1.0)}}, average(runs), scale=1)
    assert (result.name, result.mean, result.n) == ("gqa", 0.25, 1)


def test_one_run_is_its_own_average() -> None:
    run = {"gqa": units([0.0, 1.0])}
    assert average([run]) == run
