"""Orders rank layers by what their names say."""

import subprocess
import sys

import pytest

from luq.allocation.orders import ORDERS, correlations
from tests.luq.allocation.evidence import ENTROPIES


def no_scores(name: str) -> list[float]:
    raise AssertionError(f"the order asked for {name}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("entropy", [1, 4, 2, 0, 3]), ("entropy_reverse", [3, 0, 2, 4, 1])],
)
def test_entropy_orders_ask_for_entropy_alone(name: str, expected: list[int]) -> None:
    assert ORDERS[name]({"entropy": ENTROPIES}.__getitem__, 5, 0) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("depth", [0, 1, 2, 3, 4]), ("depth_reverse", [4, 3, 2, 1, 0])]
)
def test_depth_orders_ask_for_no_score(name: str, expected: list[int]) -> None:
    assert ORDERS[name](no_scores, 5, 0) == expected


@pytest.mark.parametrize(
    "name", ["variance", "lim", "zd", "kurtosis", "output_error", "kl", "delta_loss"]
)
def test_other_orders_ascend_by_the_score_of_their_name_and_ties_go_to_the_earlier_layer(
    name: str,
) -> None:
    scores = {name: [2.0, 0.0, 1.0, 1.0]}
    assert ORDERS[name](scores.__getitem__, 4, 0) == [1, 2, 3, 0]


def test_the_random_order_is_a_shuffle_that_depends_on_the_seed_alone() -> None:
    shuffle = ORDERS["random"]
    assert sorted(shuffle(no_scores, 5, 1)) == [0, 1, 2, 3, 4]
    assert shuffle(no_scores, 5, 1) == shuffle(no_scores, 5, 1)
    assert len({tuple(shuffle(no_scores, 5, seed)) for seed in range(10)}) > 3


def test_the_random_order_of_a_seed_never_changes() -> None:
    """Runs that are stored under a seed's keys would otherwise mean another order."""
    assert ORDERS["random"](no_scores, 8, 0) == [0, 3, 7, 5, 1, 6, 2, 4]


def test_correlations_are_between_the_ranks_of_all_pairs() -> None:
    orders = {"a": [0, 1, 2, 3], "b": [3, 2, 1, 0], "c": [0, 1, 3, 2]}
    by_pair = {(pair.a, pair.b): pair for pair in correlations(orders)}
    assert list(by_pair) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert by_pair["a", "b"].kendall == pytest.approx(-1)
    assert by_pair["a", "b"].spearman == pytest.approx(-1)
    assert by_pair["a", "c"].kendall == pytest.approx(4 / 6)
    assert by_pair["a", "c"].spearman == pytest.approx(0.8)


def test_correlations_compare_places_and_not_the_lists_of_layers() -> None:
    """As lists these two look alike (tau 2/3); layer by layer their ranks are unrelated."""
    (pair,) = correlations({"a": [0, 1, 3, 2], "b": [0, 2, 3, 1]})
    # Ranks by layer: a has 0 1 3 2, b has 0 3 1 2. Of 6 pairs of layers 3 agree.
    assert pair.kendall == pytest.approx(0)
    assert pair.spearman == pytest.approx(1 - 6 * (0 + 4 + 4 + 0) / (4 * 15))


def test_orders_and_plans_are_known_without_heavy_libraries() -> None:
    code = (
        "import sys, luq.allocation.orders, luq.allocation.plans, luq.models.families; "
        "sys.exit(str([m for m in ('torch', 'scipy', 'sklearn') if m in sys.modules] or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
