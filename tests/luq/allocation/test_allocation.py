import pytest
from hypothesis import given
from hypothesis import strategies as st

from luq import registry
from luq.allocation.plans import Allocation, allocate
from luq.config import AllocationConfig
from luq.errors import ConfigError

ENTROPIES = [5.0, 3.0, 4.0, 6.0, 3.5]
ORDERS = {
    "entropy": [1, 4, 2, 0, 3],
    "entropy_reverse": [3, 0, 2, 4, 1],
    "depth": [0, 1, 2, 3, 4],
    "depth_reverse": [4, 3, 2, 1, 0],
}


@pytest.mark.parametrize(("name", "expected"), ORDERS.items())
def test_orders(name: str, expected: list[int]) -> None:
    assert registry.load("order", name)(ENTROPIES, 0) == expected


def test_random_order_is_a_seeded_shuffle() -> None:
    shuffle = registry.load("order", "random")
    assert sorted(shuffle(ENTROPIES, 1)) == [0, 1, 2, 3, 4]
    assert shuffle(ENTROPIES, 1) == shuffle(ENTROPIES, 1)
    assert len({tuple(shuffle(ENTROPIES, seed)) for seed in range(10)}) > 3


@given(st.integers(0, 5))
def test_count_sends_the_first_k_low(k: int) -> None:
    allocation = allocate(AllocationConfig("count", k=k), ORDERS["entropy"], ENTROPIES, "low", "high")
    assert {i for i, t in enumerate(allocation.tiers) if t == "low"} == set(ORDERS["entropy"][:k])


@given(st.floats(3.0, 6.0))
def test_threshold_sends_every_layer_at_or_below_low(edge: float) -> None:
    allocation = allocate(AllocationConfig("threshold", entropy_max=edge), ORDERS["entropy"], ENTROPIES, "low", "high")
    assert [t == "low" for t in allocation.tiers] == [e <= edge for e in ENTROPIES]


def test_quantile_and_uniform() -> None:
    half = allocate(AllocationConfig("threshold", quantile=0.5), ORDERS["entropy"], ENTROPIES, "low", "high")
    assert half.count("low") == 3
    assert allocate(AllocationConfig("uniform"), ORDERS["entropy"], ENTROPIES, "low", "high").count("high") == 5


def test_what_is_not_possible_is_said() -> None:
    with pytest.raises(ConfigError, match=r"3.000 to 6.000"):
        allocate(AllocationConfig("threshold", entropy_max=7.0), ORDERS["entropy"], ENTROPIES, "low", "high")
    with pytest.raises(ConfigError, match="5 decoder layers"):
        allocate(AllocationConfig("count", k=6), ORDERS["entropy"], ENTROPIES, "low", "high")


def test_one_line() -> None:
    assert str(Allocation(("a", "a", "b", "a"))) == "0-1:a 2:b 3:a"
