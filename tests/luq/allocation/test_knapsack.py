"""The knapsack is exact, and sizes are read as people write them."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luq.allocation.knapsack import Option, parse_bytes, solve
from luq.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2.5GB", 2_500_000_000),
        ("900 kb", 900_000),
        (" 7MB ", 7_000_000),
        ("1GiB", 2**30),
        ("3MiB", 3 * 2**20),
        ("2kib", 2048),
        ("123456", 123456),
        ("12B", 12),
        ("1e6", 10**6),
        (".5MB", 500_000),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["many", "", "3TB", "-1MB", "1.2.3", "GB", "1e999"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a size like 2\.5GB"):
        parse_bytes(text)


def layers_of_options(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[Option]]]:
    """Some layers with some options each; quarters as errors, so that sums are exact."""
    option = st.builds(
        lambda tier, size, quarters: Option(f"t{tier}", size, quarters / 4),
        st.integers(0, 3),
        numbers,
        numbers,
    )
    return st.lists(st.lists(option, min_size=1, max_size=3), min_size=1, max_size=5)


def total(options: tuple[Option, ...] | list[Option]) -> tuple[float, int]:
    return sum(option.error for option in options), sum(option.bytes for option in options)


@settings(max_examples=150, deadline=None)
@given(layers_of_options(st.integers(1, 12)), st.integers(1, 40))
def test_the_knapsack_finds_what_trying_everything_finds(
    options: list[list[Option]], limit: int
) -> None:
    """The first of the best: the least error, then the fewest bytes, then the earlier options."""
    fitting = [pick for pick in itertools.product(*options) if total(pick)[1] <= limit]
    if not fitting:
        least = sum(min(option.bytes for option in layer) for layer in options)
        with pytest.raises(ConfigError, match=f"at most {limit} bytes: the smallest takes {least}"):
            solve(options, limit)
        return
    assert solve(options, limit) == list(min(fitting, key=total))


@settings(max_examples=100, deadline=None)
@given(layers_of_options(st.integers(1, 12)), st.integers(1, 40), st.integers(0, 10))
def test_a_larger_budget_never_gives_a_larger_error(
    options: list[list[Option]], limit: int, more_bytes: int
) -> None:
    least = sum(min(option.bytes for option in layer) for layer in options)
    small = solve(options, least + limit)
    large = solve(options, least + limit + more_bytes)
    assert total(large)[0] <= total(small)[0]


@settings(max_examples=50, deadline=None)
@given(layers_of_options(st.integers(1, 12)))
def test_a_budget_of_exactly_the_smallest_choice_is_kept(options: list[list[Option]]) -> None:
    least = sum(min(option.bytes for option in layer) for layer in options)
    assert total(solve(options, least))[1] == least


@settings(max_examples=50, deadline=None)
@given(layers_of_options(st.integers(1, 12)))
def test_with_room_for_everything_each_layer_makes_its_least_error(
    options: list[list[Option]],
) -> None:
    roomy = sum(max(option.bytes for option in layer) for layer in options)
    least_error = sum(min(option.error for option in layer) for layer in options)
    assert math.isclose(total(solve(options, roomy))[0], least_error)


def test_layers_of_equal_size_are_solved_fast() -> None:
    """32 layers in 4 tiers have 4^32 plans, but few sizes."""
    layer = [Option("1", 10, 4.0), Option("2", 20, 2.0), Option("3", 30, 1.0), Option("4", 40, 0)]
    picked = solve([layer] * 32, 32 * 25)
    assert total(picked) == (48.0, 800)
