"""Kendall's tau of an order with itself: known rankings, and noise of known size."""

from dataclasses import replace

import pytest

from luq.allocation import steadiness
from luq.allocation.steadiness import agreement
from luq.profiling.entropies import LayerEntropy

LAYERS = 12
EVEN = [float(layer) for layer in range(LAYERS)]


def test_tau_counts_pairs_of_layers_that_change_places() -> None:
    assert steadiness.tau([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert steadiness.tau([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert steadiness.tau([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(1 - 2 / 6)
    assert steadiness.tau([1, 1, 1], [2, 2, 2]) == pytest.approx(1), "ties go to the earlier layer"
    assert steadiness.places([2, 0, 1]) == [1, 2, 0]


def test_an_order_is_noise_where_a_tenth_of_its_taus_are_low() -> None:
    taus = [0.9] * 9 + [0.5]
    assert agreement(taus).is_noise
    assert not agreement([*taus, 0.9]).is_noise
    assert not agreement([0.51]).is_noise
    summary = agreement([0.5, 0.7, 0.9])
    assert (summary.mean, summary.low, summary.high) == pytest.approx((0.7, 0.5, 0.9))
    assert summary.pairs == 3
    assert summary.swapped == pytest.approx(0.15)


def test_every_two_draws_are_compared() -> None:
    reversed_once = [EVEN, EVEN, EVEN[::-1]]
    between = steadiness.between_draws(reversed_once)
    assert between is not None
    assert (between.mean, between.pairs) == (pytest.approx(-1 / 3), 3)
    assert steadiness.between_draws([EVEN]) is None


def test_halves_of_the_draws_are_steadier_than_single_ones() -> None:
    # each draw swaps another pair of neighbours
    draws = []
    for number in range(6):
        draw = list(EVEN)
        draw[2 * number] += 1.5
        draws.append(draw)
    single = steadiness.between_draws(draws)
    halves = steadiness.between_halves(draws)
    assert single is not None
    assert halves is not None
    assert single.mean == pytest.approx(1 - 2 * 2 / 66)
    assert halves.mean == pytest.approx(1), "a third of 1.5 swaps nobody"
    assert steadiness.between_halves(draws[:3]) is None, "half of three is one"
    assert steadiness.between_halves(draws[:5]) == steadiness.between_halves(draws[:5])


def test_repetitions_without_noise_agree_and_those_of_noise_alone_do_not() -> None:
    still = agreement(steadiness.repeated([1.0, 1.0, 3.0, 2.0], [0.0] * 4))
    assert (still.mean, still.low, still.is_noise) == (pytest.approx(1), pytest.approx(1), False)
    noise = agreement(steadiness.repeated(EVEN, [1e6] * LAYERS))
    assert noise.mean == pytest.approx(0, abs=0.05)
    assert noise.is_noise
    some = agreement(steadiness.repeated(EVEN, [1.0] * LAYERS))
    less = agreement(steadiness.repeated(EVEN, [0.5] * LAYERS))
    assert 0.5 < some.mean < less.mean < 1


def test_two_layers_change_places_as_often_as_the_normal_distribution_says() -> None:
    # the difference of two scores is N(1, 2 e^2): of e = 1 they stand right in 76.0 %
    right = 0.7602
    expected = (2 * right - 1) ** 2  # both repetitions right or both wrong, less the others
    measured = agreement(steadiness.repeated([0.0, 1.0], [1.0, 1.0]))
    assert measured.mean == pytest.approx(expected, abs=0.1)


def test_the_spread_over_seeds_becomes_the_error_of_their_mean() -> None:
    profile = [LayerEntropy(i, "all", float(i), 2.0, 99, 20) for i in range(LAYERS)]
    taus = steadiness.repeated(EVEN, [1.0] * LAYERS)  # 2 / sqrt(5 - 1)
    assert steadiness.of_k_means([profile], "all", repetitions=5) == agreement(taus)
    still = [replace(entry, spread=0.0) for entry in profile]
    both = steadiness.of_k_means([profile, still], "all", repetitions=5)
    assert both is not None
    assert both.mean == pytest.approx((agreement(taus).mean + 1) / 2)
    assert steadiness.of_k_means([profile], "all", repetitions=1) is None
