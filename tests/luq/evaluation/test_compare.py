import numpy as np
import pytest

from luq.evaluation.compare import average, bootstrap, paired


def units(values: list[float]) -> dict[str, tuple[float, float]]:
    return {str(i): (v, 1 / len(values)) for i, v in enumerate(values)}


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = list(np.random.default_rng(0).normal(3, 2, 400))
    mean, low, high = bootstrap(values)
    error = np.std(values) / 20
    assert mean == pytest.approx(np.mean(values))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)
    assert bootstrap(values) == (mean, low, high), "seeded"


def test_pairing_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(500)
    a = [float(x > 0.5) for x in hard]
    b = [float(x > 0.46) for x in hard]
    (found,) = paired({"gqa": units(a)}, {"gqa": units(b)})
    assert found.verdict == "better"
    assert (found.wins, found.losses) == (sum(x < y for x, y in zip(a, b, strict=True)), 0)
    assert found.mean == pytest.approx(found.b - found.a)
    shuffled = list(rng.permutation(b))
    assert paired({"gqa": units(a)}, {"gqa": units(shuffled)})[0].verdict == "tie"


def test_equal_runs_are_a_tie_of_width_zero() -> None:
    (found,) = paired({"gqa": units([1, 0, 1])}, {"gqa": units([1, 0, 1])})
    assert (found.mean, found.low, found.high, found.ties, found.verdict) == (0, 0, 0, 3, "tie")


def test_only_shared_units_count_and_weights_do() -> None:
    a = {"mme": {"x": (1.0, 0.5), "y": (0.0, 0.25), "z": (0.0, 0.25)}, "pope": units([1])}
    b = {"mme": {"x": (0.0, 0.5), "y": (1.0, 0.25)}, "gqa": units([1])}
    (found,) = paired(a, b)
    assert (found.name, found.n) == ("mme", 2)
    assert found.mean == pytest.approx(100 * (0.5 * -1 + 0.25 * 1) / 0.75)
    assert paired(a, {"docvqa": units([1])}) == []


def test_the_pooled_difference_is_the_mean_over_benchmarks() -> None:
    a = {"gqa": units([0, 0, 0, 0]), "pope": units([1, 1])}
    b = {"gqa": units([1, 1, 0, 0]), "pope": units([1, 0])}
    *_, pooled = paired(a, b)
    assert pooled.name == "mean"
    assert pooled.mean == pytest.approx((50 - 50) / 2)
    assert (pooled.n, pooled.wins, pooled.ties, pooled.losses) == (6, 2, 3, 1)


def test_runs_are_averaged_unit_by_unit() -> None:
    runs = [
        {"gqa": {"1": (1.0, 1.0), "2": (0.0, 2.0)}, "mme": {"a": (1.0, 1.0)}},
        {"gqa": {"1": (0.0, 1.0), "3": (1.0, 1.0)}},
    ]
    assert average(runs) == {"gqa": {"1": (0.5, 1.0)}}
    found = paired({"gqa": {"1": (0.25, 1.0)}}, average(runs), scale=1)
    assert [(d.name, d.mean, d.n) for d in found] == [("gqa", 0.25, 1)]
