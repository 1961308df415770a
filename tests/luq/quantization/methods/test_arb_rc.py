"""Row and column scales: refinement never makes it worse, the format means what it says, feedback pays."""

from itertools import pairwise

import pytest
import torch

from luq.config import ArbRcTier, BillmTier
from luq.formats.packing import unpack_bits
from luq.formats.row_column import RowColumnWeight
from luq.quantization.methods import arb_rc as arb
from luq.quantization.methods.arb_rc import ArbRc
from luq.quantization.methods.billm import Billm
from tests.conftest import correlated, loss


def gaussian(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def test_each_turn_lowers_the_weighted_error() -> None:
    weight = gaussian(64, 96) * torch.logspace(0, 1, 96) * torch.logspace(0, -1, 64)[:, None]
    importance = torch.rand(96, generator=torch.Generator().manual_seed(1))
    row, column, errors = weight.abs().mean(1), torch.ones(96), []
    for _ in range(6):
        error = (weight.abs() - row[:, None] * column).square() * importance
        errors.append(float(error.sum()))
        row, column = arb.fit(weight, importance, row, column)
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(errors))
    exact = torch.outer(torch.rand(64) + 0.5, torch.rand(96) + 0.5) * gaussian(64, 96).sign()
    row, column, _, _ = arb.binarize(exact, importance, torch.zeros(96, dtype=torch.bool))
    assert torch.allclose(row[:, None] * column, exact.abs(), rtol=1e-4), (
        "what has rank one is found"
    )


def test_the_format_means_what_it_says() -> None:
    packed = ArbRc(ArbRcTier(block=32)).quantize(gaussian(20, 96), correlated(400, 96))
    b, found = packed.buffers, packed.dequantize()
    salient = unpack_bits(b["salient"], (96,))
    assert int(salient.sum()) == 6
    signs, again = unpack_bits(b["signs"], (20, 96)), unpack_bits(b["residual_signs"], (20, 6))
    rank = salient.cumsum(0) - 1
    for i, j in ((0, 0), (7, 40), (19, 95), (3, int(salient.nonzero()[0]))):
        value = float(b["row_scales"][i, j // 32, 0].float() * b["column_scales"][j].float()) * (
            1 if signs[i, j] else -1
        )
        if salient[j]:
            n = int(rank[j])
            more = float(b["row_scales"][i, j // 32, 1].float() * b["residual_scales"][n].float())
            value += more * (1 if again[i, n] else -1)
        assert float(found[i, j]) == pytest.approx(value, rel=1e-5)
    assert packed.nominal_bits == 1 + 6 / 96


def test_feedback_pays_and_columns_that_matter_are_better() -> None:
    weight, hessian = gaussian(64, 128), correlated(600, 128)
    packed = ArbRc(ArbRcTier()).quantize(weight, hessian)
    plain = ArbRc(ArbRcTier()).quantize(weight, torch.diag(torch.diagonal(hessian)))
    assert loss(weight, packed.dequantize(), hessian) < 0.8 * loss(
        weight, plain.dequantize(), hessian
    )


def test_less_than_half_of_faithful_billms_bytes() -> None:
    weight, hessian = gaussian(512, 256), correlated(1000, 256)
    ours, theirs = (
        ArbRc(ArbRcTier()).quantize(weight, hessian),
        Billm(BillmTier(faithful=True)).quantize(weight, hessian),
    )
    assert sum(ours.ledger().values()) < 0.5 * sum(theirs.ledger().values())
    assert 8 * sum(ours.ledger().values()) / weight.numel() == pytest.approx(
        1 + 1 / 16 + 32 / 128 + 17 / 512, abs=0.01
    )
    assert loss(weight, ours.dequantize(), hessian) < 1.5 * loss(
        weight, theirs.dequantize(), hessian
    )


@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (64, 1), (7, 13), (16, 128)])
def test_odd_sizes_zero_and_constant_rows_and_dead_columns(rows: int, columns: int) -> None:
    weight, hessian = gaussian(rows, columns), correlated(400, columns)
    weight[: rows // 2] = 0.0
    weight[-1] = 0.5
    hessian[0], hessian[:, 0] = 0, 0
    packed = ArbRc(ArbRcTier()).quantize(weight, hessian)
    found = packed.dequantize()
    assert found.shape == weight.shape
    assert bool(torch.isfinite(found).all())
    if columns > 1:
        weight[:, 0] = 0
        assert loss(weight, found, hessian) < loss(weight, torch.zeros_like(weight), hessian) + 1e-9
    assert isinstance(packed, RowColumnWeight)
