"""Row and column scales: turns never make it worse, the format means what it says."""

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


def slow_scales(
    weight: torch.Tensor, importance: torch.Tensor, salient: torch.Tensor, turns: int
) -> arb.Scales:
    """Turns of refinement in float64, each scale from its own sums."""
    w = weight.double()
    h = importance.double()
    rows, columns = w.shape
    places = salient.nonzero()[:, 0].tolist()
    r = w.abs().mean(1)
    c = torch.ones(columns, dtype=torch.double)
    r2 = torch.zeros(rows, dtype=torch.double)
    c2 = torch.ones(columns, dtype=torch.double)
    target = w.clone()
    for _ in range(turns):
        for i in range(rows):
            r[i] = (h * c * target[i].abs()).sum() / (h * c * c).sum()
        for j in range(columns):
            c[j] = (r * target[:, j].abs()).sum() / (r * r).sum()
        residual = w - r[:, None] * c * torch.where(target < 0, -1.0, 1.0)
        for i in range(rows):
            above = (h * c2 * residual[i].abs())[places].sum()
            r2[i] = above / (h * c2 * c2)[places].sum()
        for j in places:
            c2[j] = (r2 * residual[:, j].abs()).sum() / (r2 * r2).sum()
        second = r2[:, None] * c2 * torch.where(residual < 0, -1.0, 1.0)
        target[:, places] = (w - second)[:, places]
    return arb.Scales(r, c, r2, c2[places])


def test_scales_are_refined_in_fifteen_turns() -> None:
    weight = gaussian(12, 32) * torch.logspace(0, 0.5, 32)
    importance = torch.rand(32, generator=torch.Generator().manual_seed(1)) + 0.1
    salient = torch.zeros(32, dtype=torch.bool)
    salient[[4, 30]] = True
    scales = arb.binarize(weight, importance, salient)
    slow = slow_scales(weight, importance, salient, 15)
    for fast_scale, slow_scale in zip(scales, slow, strict=True):
        assert torch.allclose(fast_scale.double(), slow_scale, rtol=1e-4)
    fewer = slow_scales(weight, importance, salient, 14)
    assert not torch.allclose(fewer.residual_row, slow.residual_row, rtol=1e-4)


def test_the_salient_columns_of_a_block_are_those_whose_errors_cost_most() -> None:
    weight = gaussian(24, 64)
    weight[:, [3, 20, 40]] *= 2
    importance = torch.ones(64)
    importance[[7, 50, 51]] = 40.0
    packed = ArbRc(ArbRcTier(block=32)).quantize(weight, torch.diag(importance))
    salient = unpack_bits(packed.buffers["salient"], (64,))
    score = weight.square().sum(0) * (importance + 0.01 * importance.mean())
    for start in (0, 32):
        best = start + score[start : start + 32].topk(2).indices
        assert bool(salient[best].all())
    assert int(salient.sum()) == 4


def test_a_column_that_is_not_salient_has_its_best_scale_for_the_stored_row_scales() -> None:
    weight = gaussian(24, 64) * torch.logspace(0, 1, 64)
    packed = ArbRc(ArbRcTier(block=32)).quantize(weight, torch.eye(64))
    salient = unpack_bits(packed.buffers["salient"], (64,))
    row_scales = packed.buffers["row_scales"].float()
    for j in (~salient).nonzero()[:, 0].tolist():
        row = row_scales[:, j // 32, 0]
        best = (weight[:, j].abs() * row).sum() / row.square().sum()
        stored = float(packed.buffers["column_scales"][j])
        assert stored == pytest.approx(float(best), rel=2e-3)


def test_stored_column_scales_are_around_one_whatever_the_weights() -> None:
    """Rows carry the size: both fit into fp16, for tiny weights as for large ones."""
    for size in (1e-6, 1.0, 1e3):
        packed = ArbRc(ArbRcTier(block=32)).quantize(gaussian(24, 64) * size, correlated(200, 64))
        for name in ("column_scales", "residual_scales"):
            scales = packed.buffers[name].float()
            assert 0.3 < float(scales.mean()) < 3
        assert bool(torch.isfinite(packed.dequantize()).all())


def test_two_signs_of_a_salient_column_are_the_nearest_of_its_four_values() -> None:
    weight = gaussian(24, 32)
    packed = ArbRc(ArbRcTier(block=32)).quantize(weight, torch.eye(32))
    salient = unpack_bits(packed.buffers["salient"], (32,)).nonzero()[:, 0].tolist()
    assert len(salient) == 2
    for rank, j in enumerate(salient):
        rows = packed.buffers["row_scales"].float()[:, 0]
        first = rows[:, 0] * packed.buffers["column_scales"].float()[j]
        second = rows[:, 1] * packed.buffers["residual_scales"].float()[rank]
        sign = torch.where(weight[:, j] < 0, -1.0, 1.0)
        near = torch.stack([sign * first - second, sign * first + second], 1)
        nearest = (weight[:, j, None] - near).abs().amin(1)
        distance = (weight[:, j] - packed.dequantize()[:, j]).abs()
        assert torch.allclose(distance, nearest, atol=1e-6)


def test_column_scales_fit_into_fp16_where_the_column_that_matters_is_tiny() -> None:
    """Row scales follow the tiny column, and the scales of the others would be a million."""
    weight = gaussian(24, 32)
    weight[:, 5] *= 1e-6
    importance = torch.ones(32)
    importance[5] = 1e13
    packed = ArbRc(ArbRcTier(damping=0.0)).quantize(weight, torch.diag(importance))
    assert bool(torch.isfinite(packed.dequantize()).all())
    others = torch.arange(32) != 5
    error = (packed.dequantize() - weight)[:, others].square().sum()
    assert float(error) < 0.6 * float(weight[:, others].square().sum())


def test_the_sign_of_zero_is_plus() -> None:
    weight = gaussian(8, 16)
    weight[2, 3] = 0.0
    weight[2, 4] = -0.0
    packed = ArbRc(ArbRcTier()).quantize(weight, torch.eye(16))
    signs = unpack_bits(packed.buffers["signs"], (8, 16))
    assert torch.equal(signs, weight >= 0)


def test_the_hessian_says_what_the_error_of_a_column_counts() -> None:
    """With independent inputs 1 / U_jj^2 is the damped diagonal of the Hessian."""
    weight = gaussian(24, 32)
    importance = torch.rand(32, generator=torch.Generator().manual_seed(1)) ** 2 + 0.01
    packed = ArbRc(ArbRcTier()).quantize(weight, torch.diag(importance))
    salient = unpack_bits(packed.buffers["salient"], (32,))
    damped = importance + 0.01 * importance.mean()
    scales = arb.binarize(weight, damped, salient)
    stored = packed.buffers["row_scales"][:, 0].float()
    assert torch.allclose(stored[:, 0], scales.row * scales.column.mean(), rtol=2e-3)
    residual = scales.residual_row * scales.residual_column.mean()
    assert torch.allclose(stored[:, 1], residual, rtol=2e-3)
