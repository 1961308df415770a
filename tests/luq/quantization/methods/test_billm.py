from collections.abc import Callable

import pytest
import torch

from luq.config import BillmTier
from luq.formats.binary import BinaryWeight
from luq.formats.kernels import searches
from luq.formats.known import restore
from luq.quantization import hessian as hessians
from luq.quantization.methods import billm
from luq.quantization.methods.billm import (
    Billm,
    binarize,
    binarize_block,
    four_values,
    salient_columns,
)
from tests.conftest import correlated, loss


def tier(faithful: bool = True) -> BillmTier:
    return BillmTier(faithful=faithful, act_order=not faithful)


def case(seed: int = 0, rows: int = 48, columns: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), correlated(
        600, columns, seed=seed
    )


def test_binarize_is_the_least_squares_solution() -> None:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    order = binarize(weight, torch.ones(5, 40, dtype=torch.bool))
    assert torch.allclose(order.mean, weight.mean(1))
    centred = weight - weight.mean(1, keepdim=True)
    for scale in (0.9, 0.99, 1.01, 1.1):  # any other scale on the same signs is worse
        other = order.mean[:, None] + scale * order.scale[:, None] * centred.sign()
        assert ((weight - other) ** 2).sum() > ((weight - order.value) ** 2).sum()


def test_what_is_stored_is_what_was_meant() -> None:
    """The blocks' values, put side by side, are exactly what the packed buffers mean."""
    weight, hessian = case()
    packed = Billm(tier()).quantize(weight, hessian)
    upper = hessians.factorize(hessian, 0.01).upper
    diagonal = torch.diagonal(upper)
    w, parts = weight.clone(), []
    for start in range(0, 256, 128):
        part = slice(start, start + 128)
        block = binarize_block(w[:, part], w[:, part] ** 2 / diagonal[part] ** 2)
        w[:, start + 128 :] -= (
            (w[:, part] - block.value) / diagonal[part] @ upper[part, start + 128 :]
        )
        parts.append(block.value)
    assert torch.allclose(packed.dequantize(), torch.cat(parts, 1), atol=1e-6)
    again = restore("binary", packed.buffers, packed.shape, **packed.meta)
    assert torch.equal(again.dequantize(), packed.dequantize())


@pytest.mark.parametrize("faithful", [True, False])
def test_every_row_and_block_has_at_most_eight_values(faithful: bool) -> None:
    weight, hessian = case()
    values = Billm(tier(faithful)).quantize(weight, hessian).dequantize()
    for row in values:
        for block in row.split(128):
            assert len(block.unique()) <= 8


def test_the_error_of_a_block_is_made_up_for_by_the_next() -> None:
    weight, hessian = case(3)
    whole = Billm(tier()).quantize(weight, hessian).dequantize()
    upper = torch.diagonal(hessians.factorize(hessian, 0.01).upper)
    alone = torch.cat(
        [
            binarize_block(w, w**2 / d**2).value
            for w, d in zip(weight.split(128, 1), upper.split(128), strict=True)
        ],
        1,
    )
    assert loss(weight, whole, hessian) < loss(weight, alone, hessian)


def test_salient_columns_are_those_with_the_large_weights() -> None:
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    weight[:, [3, 77]] *= 20
    for chosen in (salient_columns(weight**2), four_values(weight, torch.ones(128))[0]):
        assert chosen[3]
        assert chosen[77]
        assert int(chosen.sum()) < 50


@pytest.mark.parametrize(("faithful", "numbers"), [(True, 8 * 16), (False, 7 * 8 + 7 * 16 / 32)])
def test_stored_bits_are_more_than_nominal_ones(faithful: bool, numbers: float) -> None:
    weight, hessian = case(rows=128, columns=512)
    packed = Billm(tier(faithful)).quantize(weight, hessian)
    stored = 8 * sum(packed.ledger().values()) / weight.numel()
    assert 1.0 <= packed.nominal_bits < 1.4
    # signs 1 + flags and residual signs about 1 + the numbers per row and block of 128
    assert stored == pytest.approx(2 + numbers / 128, abs=0.01)


CASES: dict[str, tuple[int, int, Callable[[torch.Tensor, torch.Tensor], object]]] = {
    "plain": (48, 256, lambda _, __: None),
    "one row": (1, 128, lambda _, __: None),
    "one column": (33, 1, lambda _, __: None),
    "odd": (7, 13, lambda _, __: None),
    "zero rows": (40, 128, lambda w, _: w[3:20].zero_()),
    "constant": (40, 128, lambda w, _: w.fill_(0.5)),
    "outlier": (40, 128, lambda w, _: w[5, 7].fill_(1000.0)),
    "outlying columns": (70, 256, lambda w, _: w[:, [3, 90, 200]].mul_(30.0)),
    "tiny": (40, 128, lambda w, _: w.mul_(1e-4)),
    "zeros": (16, 32, lambda w, _: w.zero_()),
    "dead columns": (40, 128, lambda _, h: (h[::3].zero_(), h[:, ::3].zero_())),
    "no tokens": (40, 128, lambda _, h: h.zero_()),
    "one token": (40, 128, lambda _, h: h.copy_(torch.outer(h[0], h[0]))),
}


@pytest.mark.parametrize("name", CASES)
def test_fitted_is_never_worse_than_faithful(name: str) -> None:
    rows, columns, spoil = CASES[name]
    weight, hessian = case(1, rows, columns)
    spoil(weight, hessian)
    faithful, fitted = (
        Billm(tier(f)).quantize(weight, hessian).dequantize() for f in (True, False)
    )
    assert bool(torch.isfinite(fitted).all())
    most = loss(weight, faithful, hessian)
    # a block of one or constant weights is exact with fp16 numbers, and nearly so with 8 bits
    assert loss(weight, fitted, hessian) <= most + 1e-4 * loss(
        weight, torch.zeros_like(weight), hessian
    )
    if name == "plain":
        assert loss(weight, fitted, hessian) < 0.5 * most


def test_numbers_of_eight_bits_are_close_and_are_what_is_scored() -> None:
    numbers = torch.randn(70, 3, 8, generator=torch.Generator().manual_seed(0)) * 0.01
    numbers[..., 1::2].abs_()
    numbers[..., 6] = 0
    numbers[40:, 1] = 0
    buffers = BinaryWeight.quantize_numbers(numbers)
    assert buffers["scales"].shape == (70, 3, 7)
    assert buffers["tops"].shape == (3, 3, 7)
    known = BinaryWeight.decode_numbers(buffers)
    top = numbers.abs().amax(0)
    assert bool(((known - numbers).abs() <= top / 250 + 1e-8).all())
    assert not bool(known[40:, 1].any())
    weight, hessian = case(2)
    packed = Billm(tier(False)).quantize(weight, hessian)
    again = restore("binary", packed.buffers, packed.shape, **packed.meta)
    assert torch.equal(again.dequantize(), packed.dequantize())


def test_modes_differ_and_both_repeat() -> None:
    weight, hessian = case(5)
    faithful, fitted = (
        Billm(tier(f)).quantize(weight, hessian).dequantize() for f in (True, False)
    )
    assert not torch.equal(faithful, fitted)
    assert torch.equal(faithful, Billm(tier(True)).quantize(weight, hessian).dequantize())
    assert torch.equal(fitted, Billm(tier(False)).quantize(weight, hessian).dequantize())


@pytest.mark.parametrize(("rows", "columns"), [(48, 128), (5, 7), (33, 100), (1, 2)])
def test_the_compiled_searches_see_the_errors_of_the_loops(rows: int, columns: int) -> None:
    target = torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(0)
    ) * torch.logspace(0, 1, columns)
    most = min(49, columns - 1)
    found, wanted = searches.billm_errors(target, most), billm.salient_errors(target, most)
    assert found is not None
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(target.square().sum()))
    thresholds = target.abs().flatten().quantile(torch.linspace(0, 1, 9))
    found, wanted = (
        searches.billm_errors(target, thresholds),
        billm.split_errors(target, thresholds),
    )
    assert found is not None
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(target.square().sum()))


def test_without_kernels_the_error_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = case(7)
    compiled = Billm(tier()).quantize(weight, hessian)
    monkeypatch.setattr(searches, "billm_errors", lambda *_: None)
    looped = Billm(tier()).quantize(weight, hessian)
    one, two = (loss(weight, p.dequantize(), hessian) for p in (compiled, looped))
    assert one == pytest.approx(two, rel=1e-3), "ties apart, the same candidates win"
