"""Error feedback beside slow versions of itself, and what it is for: less error of the output."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luq.config import GptqTier, RtnTier
from luq.quantization import feedback
from luq.quantization.feedback import Ahead, descend, sweep, sweep_columns
from luq.quantization.grid import fit
from luq.quantization.hessian import decompose, factorize
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
    """As in GPTQ's paper, by the inverse: each error goes to all later columns at once."""
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


@pytest.mark.parametrize("block", [1, 5, 16, 23, 24, 35, 100])
@pytest.mark.parametrize("ahead", [1, 4, 9, 40])
def test_a_sweep_by_blocks_is_a_sweep_column_by_column(block: int, ahead: int) -> None:
    """Also where a block is more than a strip."""
    weight = normal(6, 56)
    hessian = correlated(200, 56)
    upper = factorize(hessian, 0.01).upper
    before = weight.clone()
    rounding = Halves(ahead)
    codes = sweep(weight, decompose(hessian, 0.01), block, rounding)
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
    descend(weight.T, hessian, codes.T, grid, 4, block=block)
    assert torch.equal(codes, slow_codes)
    assert not torch.equal(codes, grid.encode(weight, group))


def test_descent_leaves_columns_alone_that_no_token_used() -> None:
    weight = normal(5, 12)
    hessian = correlated(100, 12)
    hessian[7] = 0
    hessian[:, 7] = 0
    grid = fit(weight, 4, 4, symmetric=False)
    codes = torch.full((5, 12), 3.0)
    descend(weight.T, hessian, codes.T, grid, 4, block=4)
    assert bool((codes[:, 7] == 3).all())
    assert not bool((codes[:, 6] == 3).all())


@pytest.mark.parametrize("block", [5, 12, 24, 100])
def test_passes_of_descent_go_there_and_back_with_exact_slopes(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against passes in double that compute each slope anew; rows in parts of four."""
    monkeypatch.setattr(feedback, "ROWS", 4)
    weight = normal(6, 24)
    hessian = correlated(100, 24)
    grid = fit(weight, 4, 8, symmetric=False)
    codes = grid.encode(weight, torch.arange(24) // 8)
    slow_codes = codes.clone()
    blocks = [range(start, min(start + block, 24)) for start in range(0, 24, block)]
    for order in (blocks, blocks[::-1], blocks):
        for j in (j for part in order for j in part):
            values = grid.decode(slow_codes, torch.arange(24) // 8).double()
            slope = (values - weight) @ hessian[:, j].double()
            minimum = values[:, j] - slope / hessian[j, j]
            slow_codes[:, j] = grid.encode_columns(minimum.float(), j // 8)
    descend(weight.T, hessian, codes.T, grid, 8, passes=3, block=block)
    assert torch.equal(codes, slow_codes)


def test_a_sweep_knows_the_error_of_each_row_under_the_damped_hessian() -> None:
    weight = normal(6, 40)
    hessian = correlated(200, 40)
    swept = sweep_columns(weight.T.contiguous(), decompose(hessian, 0.01), 24, Halves(1))
    difference = (swept.codes.T / 2 - weight).double()
    damped = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(40)
    expected = ((difference @ damped) * difference).sum(1)
    assert torch.allclose(swept.error.double(), expected, rtol=1e-4)


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
        descend(weight.T, hessian, codes.T, grid, 8, block=block)
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
