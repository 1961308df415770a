import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luq import registry
from luq.allocation import knapsack, plans
from luq.allocation.knapsack import Option
from luq.allocation.orders import correlations
from luq.allocation.plans import Allocation, Chosen, Given, Selection
from luq.config import AllocationConfig
from luq.errors import ConfigError

ENTROPIES = [5.0, 3.0, 4.0, 6.0, 3.5]
ORDERS = {
    "entropy": [1, 4, 2, 0, 3],
    "entropy_reverse": [3, 0, 2, 4, 1],
    "depth": [0, 1, 2, 3, 4],
    "depth_reverse": [4, 3, 2, 1, 0],
}
SIZES = {"low": 10, "mid": 15, "high": 30}
ERRORS = {"low": [9.0, 1.0, 3.0, 2.0, 8.0], "mid": [3.0, 0.5, 2.0, 1.9, 2.0], "high": [0.0] * 5}


def situation(**changes: object) -> Given:
    """Five layers of 100 weights in three tiers; score and KL are the sum of the errors."""

    def total(plan: Allocation) -> float:
        return sum(ERRORS[tier][i] for i, tier in enumerate(plan.tiers))

    values: dict = {
        "order": ORDERS["entropy"],
        "entropies": lambda: ENTROPIES,
        "low": "low",
        "high": "high",
        "size": lambda layer, tier: SIZES[tier],
        "error": lambda layer, tier: ERRORS[tier][layer],
        "select": lambda plan: Selection(100 - total(plan), 1.0, 50),
        "divergence": total,
        "rest_bytes": lambda: 1000,
        "weights": lambda: 500,
    }
    return Given(**(values | changes))


def made(given_: Given | None = None, **config: object) -> Chosen:
    return plans.make(AllocationConfig(**config), given_ or situation())  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "expected"), ORDERS.items())
def test_orders(name: str, expected: list[int]) -> None:
    assert registry.load("order", name)({"entropy": ENTROPIES}.get, 5, 0) == expected


@pytest.mark.parametrize(
    "name", ["variance", "lim", "zd", "kurtosis", "output_error", "kl", "delta_loss"]
)
def test_orders_rank_by_the_score_of_their_name(name: str) -> None:
    assert registry.load("order", name)({name: [2.0, 0.0, 1.0, 1.0]}.get, 4, 0) == [1, 2, 3, 0]


def test_random_order_is_a_seeded_shuffle() -> None:
    shuffle = registry.load("order", "random")
    assert sorted(shuffle(None, 5, 1)) == [0, 1, 2, 3, 4]
    assert shuffle(None, 5, 1) == shuffle(None, 5, 1)
    assert len({tuple(shuffle(None, 5, seed)) for seed in range(10)}) > 3


def test_correlations_between_orders() -> None:
    found = {
        (c.a, c.b): c
        for c in correlations({"a": [0, 1, 2, 3], "b": [3, 2, 1, 0], "c": [0, 1, 3, 2]})
    }
    assert found["a", "b"].kendall == pytest.approx(-1)
    assert found["a", "b"].spearman == pytest.approx(-1)
    assert found["a", "c"].kendall == pytest.approx(4 / 6)
    assert found["a", "c"].spearman == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("config", "low"),
    [
        ({"name": "count", "k": 0}, set()),
        ({"name": "count", "k": 2}, {1, 4}),
        ({"name": "count", "k": 5}, {0, 1, 2, 3, 4}),
        ({"name": "uniform"}, set()),
        ({"name": "threshold", "entropy_max": 4.0}, {1, 2, 4}),
        ({"name": "threshold", "quantile": 0.5}, {1, 2, 4}),
        ({"name": "threshold", "quantile": 1.0}, {0, 1, 2, 3, 4}),
    ],
)
def test_plans(config: dict, low: set[int]) -> None:
    allocation = made(**config).allocation
    assert {i for i, tier in enumerate(allocation.tiers) if tier == "low"} == low


def test_impossible_plans_say_so() -> None:
    with pytest.raises(ConfigError, match="5 decoder layers"):
        made(name="count", k=6)
    with pytest.raises(ConfigError, match=r"outside the layers' entropies, 3\.000 to 6\.000"):
        made(name="threshold", entropy_max=7.0)
    with pytest.raises(ConfigError, match=r"smallest plan has 0\.800 stored bits per weight"):
        made(name="budget", bits=0.7)
    with pytest.raises(ConfigError, match=r"must be a size like 2\.5GB"):
        made(name="budget", bytes="many")
    with pytest.raises(ConfigError, match=r"exactly one of allocation\.bits"):
        AllocationConfig("budget")
    with pytest.raises(ConfigError, match="0 or more points"):
        AllocationConfig("quality")


@pytest.mark.parametrize(
    ("bits", "k"), [(2.4, 0), (2.39, 1), (2.08, 1), (1.5, 3), (0.8, 5), (16.0, 0)]
)
def test_a_budget_takes_as_few_low_layers_as_fit(bits: float, k: int) -> None:
    chosen = made(name="budget", bits=bits)
    assert chosen.allocation == situation().prefix(k)
    assert chosen.report["bytes"] <= chosen.report["budget_bytes"] == int(bits * 500 / 8)


def test_a_budget_in_bytes_counts_the_whole_checkpoint() -> None:
    assert made(name="budget", bytes="1110B").allocation == situation().prefix(2)
    assert made(name="budget", bytes="1.11kB").allocation == situation().prefix(2)
    assert made(situation(margin=1), name="budget", bytes="1110").allocation == situation().prefix(
        3
    )


def test_a_budget_over_several_tiers_has_the_least_error() -> None:
    chosen = made(name="budget", bits=1.6, tiers=["low", "mid", "high"])
    best = min(
        (sum(ERRORS[t][i] for i, t in enumerate(tiers)), tiers)
        for tiers in itertools.product(SIZES, repeat=5)
        if sum(SIZES[t] for t in tiers) <= 100
    )
    assert chosen.report["error"] == pytest.approx(best[0])
    assert chosen.report["bytes"] <= 100


def test_quality_takes_the_largest_k_and_reports_every_point() -> None:
    """k = 0..5 costs 0, 1, 9, 12, 21, 23 points; at k = 3 the score is made to rise again."""
    scores = {0: 90.0, 1: 89.0, 2: 80.0, 3: 86.0, 4: 70.0, 5: 60.0}
    chosen = made(
        situation(select=lambda plan: Selection(scores[plan.count("low")], 1.0, 50)),
        name="quality",
        drop=5.0,
    )
    assert chosen.allocation.count("low") == 3
    assert [p["k"] for p in chosen.report["points"]] == [0, 1, 2, 3, 4, 5]
    assert chosen.report["points"][2] == {"k": 2, "score": 80.0, "stderr": 1.0, "n": 50}
    assert chosen.report["not_monotone_at"] == [3]


def test_search_finds_the_plan_that_no_prefix_is() -> None:
    chosen = made(name="search", bits=1.6)
    assert {i for i, tier in enumerate(chosen.allocation.tiers) if tier == "high"} == {0, 4}
    assert made(name="budget", bits=1.6).allocation.count("high") < 3


def test_swaps_are_kept_only_if_the_answers_get_nearer() -> None:
    truth = {
        "low": [9.0, 9.0, 3.0, 2.0, 1.0],
        "high": [0.0] * 5,
    }  # layer 4 does not matter, layer 1 does
    asked: list[Allocation] = []

    def divergence(plan: Allocation) -> float:
        asked.append(plan)
        return sum(truth[t][i] for i, t in enumerate(plan.tiers))

    chosen = made(situation(divergence=divergence), name="search", bits=1.6, swaps=12)
    assert {i for i, tier in enumerate(chosen.allocation.tiers) if tier == "high"} == {0, 1}
    assert chosen.report["kl"] < chosen.report["kl_before_swaps"]
    assert len(asked) == len(set(asked)) <= 13
    assert all(sum(SIZES[t] for t in plan.tiers) <= 100 for plan in asked)
    assert made(situation(divergence=divergence), name="search", bits=1.6).report.keys() == {
        "budget_bytes",
        "bytes",
        "error",
    }


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2.5GB", 2_500_000_000),
        ("900 kb", 900_000),
        ("1GiB", 2**30),
        ("123456", 123456),
        ("1e6", 10**6),
        (".5MB", 500_000),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert knapsack.parse_bytes(text) == count


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_knapsack_is_exact(data: st.DataObject) -> None:
    layers, tiers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    number = st.integers(1, 12)
    options = [
        [Option(str(t), data.draw(number), data.draw(number) / 4) for t in range(tiers)]
        for _ in range(layers)
    ]
    limit = data.draw(st.integers(1, 40))
    fitting = [
        sum(o.error for o in pick)
        for pick in itertools.product(*options)
        if sum(o.bytes for o in pick) <= limit
    ]
    if not fitting:
        with pytest.raises(ConfigError, match="the smallest takes"):
            knapsack.solve(options, limit)
        return
    picked = knapsack.solve(options, limit)
    assert sum(o.bytes for o in picked) <= limit
    assert math.isclose(sum(o.error for o in picked), min(fitting))


def test_allocation_in_one_line() -> None:
    assert str(Allocation(("gptq4", "billm", "billm", "gptq4"))) == "0:gptq4 1-2:billm 3:gptq4"
