"""Plans give each layer its tier, and ask only for what they need."""

import itertools
import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luq.allocation.allocations import Allocation
from luq.allocation.evidence import Evidence, Part
from luq.allocation.plans import PLANS, Chosen, make, prefix
from luq.allocation.reports import PlanReport, SelectionPoint
from luq.config import AllocationConfig
from luq.errors import ConfigError
from tests.luq.allocation.evidence import (
    ERRORS,
    LINEARS,
    ORDER,
    REST_BYTES,
    SIZES,
    WEIGHT_OF,
    WEIGHTS,
    SyntheticEvidence,
    layers_in,
    total_bytes,
    total_error,
)


def made(evidence: Evidence | None = None, **settings: object) -> Chosen:
    config = AllocationConfig(**settings)  # type: ignore[arg-type]  # any setting
    return make(config, evidence or SyntheticEvidence())


def prefix_of(k: int) -> Allocation:
    return prefix(SyntheticEvidence(), k)


@pytest.mark.parametrize(
    ("tiers", "line"),
    [
        (("gptq4", "billm", "billm", "gptq4"), "0:gptq4 1-2:billm 3:gptq4"),
        (("a",), "0:a"),
        (("a",) * 12, "0-11:a"),
        (("a", "b", "a", "a"), "0:a 1:b 2-3:a"),
    ],
)
def test_an_allocation_is_one_line(tiers: tuple[str, ...], line: str) -> None:
    assert str(Allocation(tiers)) == line


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=20))
def test_the_line_says_the_tier_of_every_layer(tiers: list[str]) -> None:
    read: list[str] = []
    for part in str(Allocation(tuple(tiers))).split():
        span, tier = part.split(":")
        first, _, last = span.partition("-")
        assert int(first) == len(read)
        read += [tier] * (int(last or first) - int(first) + 1)
    assert read == tiers


def test_linears_in_other_tiers_stand_behind_their_layer() -> None:
    usual = {"attn.q_proj": "low", "attn.k_proj": "low", "mlp.down_proj": "low"}
    mixed = usual | {"mlp.down_proj": "high"}
    most = {"attn.q_proj": "high", "attn.k_proj": "low", "mlp.down_proj": "high"}
    allocation = Allocation.of_linears([usual, usual, mixed, most])
    assert str(allocation) == "0-1:low 2:low,down=high 3:high,k=low"
    assert allocation.tiers == ("low", "low", "low", "high")
    assert allocation.tier_of(2, "mlp.down_proj") == "high"
    assert allocation.tier_of(2, "attn.q_proj") == "low"
    assert allocation.others_of(0) == {}
    assert allocation.count("low") == 2, "layers wholly in it"
    assert allocation.names() == {"low", "high"}
    assert Allocation.of_linears([usual, usual]) == Allocation(("low", "low"))
    assert allocation.replace({2: "low", 3: "low"}) == Allocation(("low",) * 4)


def test_some_layers_of_an_allocation_are_replaced() -> None:
    allocation = Allocation(("a", "b", "c"))
    assert allocation.replace({0: "x", 2: "y"}) == Allocation(("x", "b", "y"))
    assert allocation == Allocation(("a", "b", "c"))


@pytest.mark.parametrize(
    ("config", "low"),
    [
        ({"name": "count", "k": 0}, set()),
        ({"name": "count", "k": 2}, {1, 4}),
        ({"name": "count", "k": 5}, {0, 1, 2, 3, 4}),
        ({"name": "uniform"}, set()),
        ({"name": "threshold", "entropy_max": 4.0}, {1, 2, 4}),
        ({"name": "threshold", "entropy_max": 3.0}, {1}),
        ({"name": "threshold", "entropy_max": 6.0}, {0, 1, 2, 3, 4}),
        ({"name": "threshold", "quantile": 0.0}, {1}),
        ({"name": "threshold", "quantile": 0.5}, {1, 2, 4}),
        ({"name": "threshold", "quantile": 1.0}, {0, 1, 2, 3, 4}),
    ],
)
def test_layers_that_go_low(config: dict[str, object], low: set[int]) -> None:
    allocation = made(**config).allocation
    assert layers_in(allocation, "low") == low
    assert layers_in(allocation, "high") == set(range(5)) - low


@pytest.mark.parametrize(("setting", "limit"), [("entropy_max", 4.0), ("quantile", 0.5)])
def test_a_threshold_is_reported_in_bits(setting: str, limit: float) -> None:
    assert made(name="threshold", **{setting: limit}).report == PlanReport(entropy_max=4.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "count", "k": 6}, r"k=6 is not possible: the model has 5 decoder layers"),
        ({"name": "threshold", "entropy_max": 7.0}, r"layers' entropies, 3\.000 to 6\.000 bits"),
        ({"name": "threshold", "entropy_max": 2.9}, r"entropy_max=2\.9 lies outside"),
        (
            {"name": "budget", "bits": 0.7},
            r"bits=0\.7 is not possible: the smallest plan has 0\.800 stored bits per weight, and "
            r"the whole checkpoint then takes 0\.00 MB",
        ),
        ({"name": "budget", "bytes": "1049"}, r"allocation\.bytes=1049 is not possible"),
        ({"name": "budget", "bits": 0.7, "tiers": ["low", "high"]}, r"smallest plan has 0\.800"),
        ({"name": "budget", "bits": 1.1, "tiers": ["mid"]}, r"smallest plan has 1\.200 stored"),
        ({"name": "search", "bits": 0.7}, r"smallest plan has 0\.800 stored bits"),
        ({"name": "budget", "bytes": "many"}, r"must be a size like 2\.5GB"),
        ({"name": "budget"}, r"exactly one of allocation\.bits"),
        ({"name": "quality"}, "0 or more points"),
    ],
)
def test_impossible_plans_say_so(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**config)


def test_the_smallest_checkpoint_is_given_in_megabytes() -> None:
    evidence = SyntheticEvidence(sizes={"low": 10_000_000, "high": 30_000_000}, rest=7_250_000)
    with pytest.raises(ConfigError, match=r"takes 57\.25 MB"):
        made(evidence, name="budget", bits=1.0)


@pytest.mark.parametrize(
    ("bits", "k"), [(2.4, 0), (2.39, 1), (2.08, 1), (1.5, 3), (0.8, 5), (16.0, 0)]
)
def test_a_budget_takes_as_few_low_layers_as_fit(bits: float, k: int) -> None:
    chosen = made(name="budget", bits=bits)
    assert chosen.allocation == prefix_of(k)
    budget_bytes = int(bits * WEIGHTS / 8)
    assert chosen.report == PlanReport(
        budget_bytes=budget_bytes, bytes=total_bytes(chosen.allocation)
    )
    assert total_bytes(chosen.allocation) <= budget_bytes


@settings(deadline=None)
@given(st.floats(0.8, 4))
def test_average_bits_of_a_budget_are_kept_and_one_more_high_layer_would_not_fit(
    bits: float,
) -> None:
    allocation = made(name="budget", bits=bits).allocation
    k = allocation.count("low")
    assert 8 * total_bytes(allocation) / WEIGHTS <= bits
    if k > 0:
        assert 8 * total_bytes(prefix_of(k - 1)) / WEIGHTS > bits


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(list(SIZES)), min_size=1, max_size=3, unique=True),
    st.floats(0.8, 4),
)
def test_average_bits_of_a_budget_over_tiers_are_kept_with_the_least_error(
    tiers: list[str], bits: float
) -> None:
    plans = [Allocation(plan) for plan in itertools.product(tiers, repeat=5)]
    fitting = [plan for plan in plans if 8 * total_bytes(plan) / WEIGHTS <= bits]
    if not fitting:
        with pytest.raises(ConfigError, match="smallest plan"):
            made(name="budget", bits=bits, tiers=tiers)
        return
    chosen = made(name="budget", bits=bits, tiers=tiers)
    assert chosen.allocation in fitting
    least_error = min(total_error(plan, ERRORS) for plan in fitting)
    assert total_error(chosen.allocation, ERRORS) == pytest.approx(least_error)
    assert chosen.report == PlanReport(
        budget_bytes=int(bits * WEIGHTS / 8),
        bytes=total_bytes(chosen.allocation),
        error=total_error(chosen.allocation, ERRORS),
    )


def test_a_budget_over_two_tiers_uses_these_and_not_low_and_high() -> None:
    chosen = made(name="budget", bits=2.0, tiers=["mid", "high"])
    assert set(chosen.allocation.tiers) == {"mid", "high"}
    assert layers_in(chosen.allocation, "high") == {0, 2, 4}, "whose errors in mid are the largest"


def bytes_by_linear(allocation: Allocation) -> float:
    """Of linears with their headers, as the synthetic evidence has them."""
    total = 2.0 * len(allocation.tiers)
    for layer in range(len(allocation.tiers)):
        for name, share in LINEARS.items():
            total += int(SIZES[allocation.tier_of(layer, name)] * share)
    return total


def test_a_tier_for_each_linear_has_the_least_error_of_all_plans() -> None:
    """Two layers of three linears in two tiers: every plan is tried."""
    evidence = SyntheticEvidence(order=[0, 1])
    chosen = made(evidence, name="budget", bits=0.7, tiers=["low", "high"], unit="linear")
    budget_bytes = int(0.7 * WEIGHTS / 8)
    least = math.inf
    for tiers in itertools.product(["low", "high"], repeat=6):
        layers = [tiers[:3], tiers[3:]]
        plan = Allocation.of_linears([dict(zip(LINEARS, of, strict=True)) for of in layers])
        if bytes_by_linear(plan) <= budget_bytes:
            least = min(least, error_by_linear(plan))
    assert error_by_linear(chosen.allocation) == pytest.approx(least)
    assert chosen.report.error == pytest.approx(least)
    assert chosen.report.bytes == bytes_by_linear(chosen.allocation) <= budget_bytes
    assert chosen.report.linears == list(LINEARS)
    assert chosen.report.error_gap is None
    assert str(chosen.allocation) == "0:high,q=low 1:low"


def error_by_linear(allocation: Allocation) -> float:
    total = 0.0
    for layer in range(len(allocation.tiers)):
        for name, weight in WEIGHT_OF.items():
            total += ERRORS[allocation.tier_of(layer, name)][layer] * weight
    return total


def test_tied_linears_get_one_tier() -> None:
    settings = {"name": "budget", "bits": 1.6, "tiers": ["low", "high"], "unit": "linear"}
    free = made(**settings).allocation
    tied = made(**settings, tie=True).allocation
    for layer in range(5):
        assert tied.tier_of(layer, "attn.q_proj") == tied.tier_of(layer, "attn.k_proj")
    assert tied != free
    assert error_by_linear(tied) >= error_by_linear(free)


def test_a_search_swaps_linears() -> None:
    evidence = SyntheticEvidence()
    chosen = made(evidence, name="search", bits=1.6, swaps=4, unit="linear")
    assert len(chosen.report.swaps) == 4
    assert all(bytes_by_linear(plan) <= 100 for plan in evidence.measured)
    assert any(plan.others for plan in evidence.measured)
    assert chosen.report.bytes == bytes_by_linear(chosen.allocation)


def test_a_budget_below_all_plans_of_linears_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"allocation\.bits=0\.8 .*smallest plan has 0\.960"):
        made(name="budget", bits=0.8, tiers=["low", "high"], unit="linear")


def test_a_budget_over_one_tier_gives_it_to_every_layer() -> None:
    assert made(name="budget", bits=2.4, tiers=["mid"]).allocation == Allocation(("mid",) * 5)


def test_a_budget_in_bytes_counts_the_whole_checkpoint() -> None:
    assert made(name="budget", bytes="1110B").allocation == prefix_of(2)
    assert made(name="budget", bytes="1.11kB").allocation == prefix_of(2)
    assert made(name="budget", bytes="1109").allocation == prefix_of(3)
    assert made(name="budget", bytes="1110").report.budget_bytes == 1110 - REST_BYTES


@pytest.mark.parametrize("budget", [{"bytes": "1110"}, {"bits": 1.76}])
def test_a_margin_is_taken_off_the_budget(budget: dict[str, object]) -> None:
    assert made(name="budget", **budget).allocation == prefix_of(2)
    chosen = made(SyntheticEvidence(margin=1), name="budget", **budget)
    assert chosen.allocation == prefix_of(3)
    assert chosen.report.budget_bytes == 109


@pytest.mark.parametrize(
    ("config", "questions"),
    [
        ({"name": "uniform"}, set()),
        ({"name": "count", "k": 2}, set()),
        ({"name": "threshold", "quantile": 0.5}, {"entropies"}),
        ({"name": "budget", "bits": 2.4}, {"weights", "size high"}),
        ({"name": "budget", "bytes": "1110"}, {"rest_bytes", "size low", "size high"}),
        ({"name": "quality", "drop": 5.0}, {"select"}),
        (
            {"name": "search", "bits": 1.6},
            {"weights", "size low", "size high", "error low", "error high"},
        ),
        ({"name": "budget", "bits": 2.4, "tiers": ["mid"]}, {"weights", "size mid", "error mid"}),
    ],
)
def test_a_plan_asks_only_what_it_needs(config: dict[str, object], questions: set[str]) -> None:
    evidence = SyntheticEvidence()
    made(evidence, **config)
    assert set(evidence.questions) == questions


def test_quality_takes_the_largest_k_and_reports_every_point() -> None:
    """At k = 3 the score is made to rise again."""
    scores = [90.0, 89.0, 80.0, 85.0, 70.0, 60.0]
    evidence = SyntheticEvidence(score_by_k=scores)
    chosen = made(evidence, name="quality", drop=5.0)
    assert chosen.allocation == prefix_of(3)
    points = [SelectionPoint(k, score, 1.0, 50) for k, score in enumerate(scores)]
    assert chosen.report == PlanReport(points=points, not_monotone_at=[3])


def test_quality_compares_with_the_high_tier_and_not_with_the_best() -> None:
    evidence = SyntheticEvidence(score_by_k=[80.0, 95.0, 80.0, 79.0, 0.0, 0.0])
    chosen = made(evidence, name="quality", drop=0.0)
    assert chosen.allocation == prefix_of(2)
    assert chosen.report.not_monotone_at == [1]


def test_equal_scores_are_no_rise() -> None:
    evidence = SyntheticEvidence(score_by_k=[90.0] * 6)
    assert made(evidence, name="quality", drop=0.0).report.not_monotone_at == []


def test_search_finds_the_plan_that_no_prefix_is() -> None:
    chosen = made(name="search", bits=1.6)
    assert layers_in(chosen.allocation, "high") == {0, 4}
    assert made(name="budget", bits=1.6).allocation.count("high") < 3


def test_a_search_over_tiers_uses_these() -> None:
    chosen = made(name="search", bits=1.6, tiers=["low", "mid", "high"])
    assert "mid" in chosen.allocation.tiers


def test_a_search_without_swaps_asks_for_no_divergence() -> None:
    evidence = SyntheticEvidence()
    report = made(evidence, name="search", bits=1.6).report
    assert evidence.measured == []
    assert {name for name, value in asdict(report).items() if value not in (None, [])} == {
        "budget_bytes",
        "bytes",
        "error",
    }


TRUE_ERRORS = {  # layer 4 does not matter, layer 1 does
    "low": [9.0, 9.0, 3.0, 2.0, 1.0],
    "mid": [3.0, 3.0, 2.0, 1.9, 0.5],
    "high": [0.0] * 5,
}


def test_swaps_stay_only_if_the_answers_get_nearer() -> None:
    evidence = SyntheticEvidence(true_errors=TRUE_ERRORS)
    chosen = made(evidence, name="search", bits=1.6, swaps=12)
    assert layers_in(chosen.allocation, "high") == {0, 1}
    report = chosen.report
    assert report.kl_before_swaps == total_error(evidence.measured[0], TRUE_ERRORS)
    assert report.kl == total_error(chosen.allocation, TRUE_ERRORS) < report.kl_before_swaps
    kl = report.kl_before_swaps
    for swap, allocation in zip(report.swaps, evidence.measured[1:], strict=True):
        assert swap.allocation == str(allocation)
        assert swap.kl == total_error(allocation, TRUE_ERRORS)
        assert swap.kept == (swap.kl < kl)
        kl = min(kl, swap.kl)


def test_every_swap_is_new_and_keeps_the_budget() -> None:
    evidence = SyntheticEvidence(true_errors=TRUE_ERRORS)
    made(evidence, name="search", bits=1.6, swaps=12, tiers=["low", "mid", "high"])
    assert len(set(evidence.measured)) == len(evidence.measured) > 5
    assert all(total_bytes(allocation) <= 100 for allocation in evidence.measured)


def test_a_swap_that_changes_nothing_does_not_stay() -> None:
    equal = {tier: [1.0] * 5 for tier in SIZES}
    chosen = made(SyntheticEvidence(true_errors=equal), name="search", bits=1.6, swaps=3)
    assert layers_in(chosen.allocation, "high") == {0, 4}
    assert [swap.kept for swap in chosen.report.swaps] == [False] * 3


def test_the_swap_that_costs_least_is_tried_first() -> None:
    """High are 0 and 4. In low they cost 9 and 8, layer 2 costs 3 and layer 3 costs 2.

    So 4 for 2 adds 5, and both 4 for 3 and 0 for 2 add 6: that tie goes by the tiers' names.
    """
    evidence = SyntheticEvidence()
    made(evidence, name="search", bits=1.6, swaps=3)
    high = [layers_in(plan, "high") for plan in evidence.measured]
    assert high == [{0, 4}, {0, 2}, {0, 3}, {2, 4}]


def test_a_search_ends_when_no_exchange_is_new() -> None:
    evidence = SyntheticEvidence()
    chosen = made(evidence, name="search", bits=1.6, swaps=100)
    assert len(chosen.report.swaps) == 6, "each of two high layers for each of three low ones"
    uniform = made(SyntheticEvidence(), name="search", bits=16.0, swaps=100)
    assert uniform.report.swaps == []
    assert uniform.allocation == prefix_of(0)


class UnevenEvidence(SyntheticEvidence):
    """The later a layer, the larger its file in the high tier."""

    def size(self, part: Part, tier: str) -> int:
        return super().size(part, tier) + (part.layer if tier == "high" else 0)


def test_a_swap_that_breaks_the_budget_is_not_tried() -> None:
    """High are 0 and 4, in exactly the budget's 94 bytes: 4 for 0 stays, 3 and 4 take 97."""
    evidence = UnevenEvidence()
    made(evidence, name="search", bits=8 * 94 / WEIGHTS, swaps=100)
    high = [layers_in(plan, "high") for plan in evidence.measured]
    assert high[0] == {0, 4}
    assert all(sum(layers) <= 4 for layers in high)
    assert {0, 3} in high, "a smaller plan may be tried"
    assert {2, 4} not in high
    assert {3, 4} not in high


def test_the_report_of_a_search_has_the_bytes_of_its_last_plan() -> None:
    """Sizes that differ by layer make another plan than the first one smaller."""
    evidence = UnevenEvidence(true_errors=TRUE_ERRORS)
    chosen = made(evidence, name="search", bits=1.7, swaps=12)
    files = [evidence.size(Part(layer), tier) for layer, tier in enumerate(chosen.allocation.tiers)]
    assert chosen.allocation != evidence.measured[0]
    assert chosen.report.bytes == sum(files)


def test_a_report_takes_the_bytes_of_the_real_files() -> None:
    report = PlanReport(budget_bytes=10, bytes=8, error=0.5)
    assert report.with_bytes(9) == PlanReport(budget_bytes=10, bytes=9, error=0.5)


@pytest.mark.parametrize("k", range(6))
def test_a_prefix_follows_the_order(k: int) -> None:
    assert layers_in(prefix_of(k), "low") == set(ORDER[:k])


def test_the_table_has_every_plan() -> None:
    assert set(PLANS) == {"uniform", "count", "threshold", "budget", "quality", "search"}
