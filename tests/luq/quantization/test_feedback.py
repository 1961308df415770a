"""Error feedback beside slow versions of itself, and what it is for: less error of the output."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luq.config import GptqTier, RtnTier
from luq.quantization.feedback import Ahead, descend, sweep
from luq.quantization.grid import fit
from luq.quantization.hessian import factorize
from luq.quantization.methods import make_quantizer
from tests.conftest import correlated, loss


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


class Halves:
    """Rounds to multiples of one half, and remembers the columns that it was shown ahead."""

    def __init__(self, ahead: int) -> None:
        self.amount = ahead
        self.ahead: list[Tensor] = []

    def round(self, index: int, column: Tensor, ahead: Ahead) -> tuple[Tensor, Tensor]:
        window = ahead(self.amount)
        assert torch.equal(window[:, 0], column)
        self.ahead.append(window)
        codes = torch.round(2 * column)
        return codes, codes / 2


def slowly(weight: Tensor, upper: Tensor, ahead: int) -> tuple[Tensor, list[Tensor]]:
    """Each error goes to all later columns at once."""
    w = weight.double()
    u = upper.double()
    codes = torch.zeros_like(w)
    windows = []
    for j in range(w.shape[1]):
        windows.append(w[:, j : j + ahead].clone())
        codes[:, j] = torch.round(2 * w[:, j])
        error = (w[:, j] - codes[:, j] / 2) / u[j, j]
        w[:, j:] -= error[:, None] * u[j, j:]
    return codes, windows


@pytest.mark.parametrize("block", [1, 5, 16, 23, 24, 100])
@pytest.mark.parametrize("ahead", [1, 4, 9])
def test_a_sweep_by_blocks_is_a_sweep_column_by_column(block: int, ahead: int) -> None:
    weight = normal(6, 24)
    upper = factorize(correlated(200, 24), 0.01).upper
    before = weight.clone()
    rounding = Halves(ahead)
    codes = sweep(weight, upper, block, rounding)
    expected, windows = slowly(weight, upper, ahead)
    assert torch.equal(codes.double(), expected)
    for window, slow_window in zip(rounding.ahead, windows, strict=True):
        assert torch.allclose(window.double(), slow_window, atol=1e-5)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("block", [1, 4, 7, 12, 50])
def test_a_pass_of_descent_gives_each_column_its_best_codes(block: int) -> None:
    """Against trying all codes of each column in turn."""
    weight = normal(5, 12)
    hessian = correlated(100, 12).double().float()
    grid = fit(weight, 4, 4, symmetric=False)
    group = torch.arange(12) // 4
    codes = grid.encode(weight, group)
    slow_codes = codes.clone()
    for j in range(12):
        errors = []
        for code in range(4):
            tried = slow_codes.clone()
            tried[:, j] = float(code)
            difference = (grid.decode(tried, group) - weight).double()
            errors.append(((difference @ hessian.double()) * difference).sum(1))
        slow_codes[:, j] = torch.stack(errors).argmin(0).float()
    descend(weight, hessian, codes, grid, 4, block)
    assert torch.equal(codes, slow_codes)
    assert not torch.equal(codes, grid.encode(weight, group))


def test_descent_leaves_columns_alone_that_no_token_used() -> None:
    weight = normal(5, 12)
    hessian = correlated(100, 12)
    hessian[7] = 0
    hessian[:, 7] = 0
    grid = fit(weight, 4, 4, symmetric=False)
    codes = torch.full((5, 12), 3.0)
    descend(weight, hessian, codes, grid, 4, 4)
    assert bool((codes[:, 7] == 3).all())
    assert not bool((codes[:, 6] == 3).all())


@given(
    st.sampled_from([3, 4, 8, 16]),
    st.booleans(),
    st.integers(1, 40),
    st.integers(2, 24),
    st.integers(0, 9999),
)
@settings(max_examples=60, deadline=None)
def test_descent_never_raises_the_error(
    levels: int, symmetric: bool, block: int, rank: int, seed: int
) -> None:
    weight = normal(6, 24, seed)
    hessian = correlated(96, 24, seed, rank)
    grid = fit(weight, levels, 8, symmetric)
    group = torch.arange(24) // 8
    codes = grid.encode(weight, group)
    error = loss(weight, grid.decode(codes, group), hessian)
    for _ in range(3):
        descend(weight, hessian, codes, grid, 8, block)
        next_error = loss(weight, grid.decode(codes, group), hessian)
        assert next_error <= error * (1 + 1e-5)
        error = next_error
    assert bool((codes >= 0).all())
    assert bool((codes < levels).all())


@given(
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
    st.booleans(),
    st.integers(4, 64),
    st.integers(0, 9999),
)
@settings(max_examples=40, deadline=None)
def test_gptq_has_at_most_the_error_of_rounding_to_nearest(
    bits: int, act_order: bool, static_groups: bool, rank: int, seed: int
) -> None:
    weight = normal(12, 64, seed)
    hessian = correlated(256, 64, seed, rank)
    tier = GptqTier(bits, 32, act_order=act_order, static_groups=static_groups)
    nearest = make_quantizer(RtnTier(bits, 32)).quantize(weight, None)
    with_feedback = make_quantizer(tier).quantize(weight, hessian)
    error = loss(weight, with_feedback.dequantize(), hessian)
    assert error <= loss(weight, nearest.dequantize(), hessian)
