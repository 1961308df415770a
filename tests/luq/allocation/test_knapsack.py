"""The knapsack is exact, and sizes are read as people write them."""

import itertools
import math

import numpy as np
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
    solution = solve(options, limit)
    assert solution.options == list(min(fitting, key=total))
    assert solution.gap == 0


@settings(max_examples=100, deadline=None)
@given(layers_of_options(st.integers(1, 12)), st.integers(1, 40), st.integers(0, 10))
def test_a_larger_budget_never_gives_a_larger_error(
    options: list[list[Option]], limit: int, more_bytes: int
) -> None:
    least = sum(min(option.bytes for option in layer) for layer in options)
    small = solve(options, least + limit).options
    large = solve(options, least + limit + more_bytes).options
    assert total(large)[0] <= total(small)[0]


@settings(max_examples=50, deadline=None)
@given(layers_of_options(st.integers(1, 12)))
def test_a_budget_of_exactly_the_smallest_choice_is_kept(options: list[list[Option]]) -> None:
    least = sum(min(option.bytes for option in layer) for layer in options)
    assert solve(options, least).bytes == least


@settings(max_examples=50, deadline=None)
@given(layers_of_options(st.integers(1, 12)))
def test_with_room_for_everything_each_layer_makes_its_least_error(
    options: list[list[Option]],
) -> None:
    roomy = sum(max(option.bytes for option in layer) for layer in options)
    least_error = sum(min(option.error for option in layer) for layer in options)
    assert math.isclose(solve(options, roomy).error, least_error)


def test_layers_of_equal_size_are_solved_fast() -> None:
    """32 layers in 4 tiers have 4^32 plans, but few sizes."""
    layer = [Option("1", 10, 4.0), Option("2", 20, 2.0), Option("3", 30, 1.0), Option("4", 40, 0)]
    solution = solve([layer] * 32, 32 * 25)
    assert (solution.error, solution.bytes) == (48.0, 800)


@settings(max_examples=100, deadline=None)
@given(layers_of_options(st.integers(1, 12)), st.integers(0, 40), st.integers(1, 3))
def test_what_is_left_out_is_counted(
    options: list[list[Option]], more_bytes: int, most_prefixes: int
) -> None:
    """However few prefixes are followed: the budget is kept, and the best plan is in the gap."""
    limit = sum(min(option.bytes for option in part) for part in options) + more_bytes
    best = solve(options, limit)
    quick = solve(options, limit, most_prefixes)
    assert quick.bytes <= limit
    assert best.error <= quick.error <= best.error + quick.gap + 1e-6


def linears_of_a_model() -> list[list[Option]]:
    """30 layers of 7 linears in 4 tiers, all of different sizes and errors."""
    generator = np.random.default_rng(0)
    options: list[list[Option]] = []
    for linear in range(210):
        size = (3, 1, 1, 3, 8, 8, 8)[linear % 7] * 10_000
        error = generator.lognormal(0, 1.5)
        part: list[Option] = []
        for bits in (1, 2, 3, 4):
            bytes_ = size * bits + int(generator.integers(0, 400))
            part.append(Option(f"trellis{bits}", bytes_, error * 4.0**-bits))
        options.append(part)
    return options


@pytest.mark.parametrize("bits", [1.2, 2.5, 3.7])
def test_many_linears_of_unequal_sizes_are_solved_within_a_small_gap(bits: float) -> None:
    options = linears_of_a_model()
    limit = int(bits * sum(part[0].bytes for part in options))
    solution = solve(options, limit, most_prefixes=2000)
    assert solution.bytes <= limit
    assert solution.bytes > 0.999 * limit
    assert 0 <= solution.gap < 1e-3 * solution.error
