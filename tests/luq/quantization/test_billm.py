import pytest
import torch

from luq.config import TierConfig
from luq.quantization import billm
from luq.quantization import hessian as hessians
from luq.quantization.billm import BiLLM, binarize, binarize_block, salient_columns
from luq.quantization.formats import restore
from luq.quantization.kernels import searches
from tests.conftest import correlated, loss


def tier(faithful: bool = True) -> TierConfig:
    return TierConfig(method="billm", faithful=faithful)


def case(seed: int = 0, rows: int = 48, columns: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), correlated(600, columns, seed=seed)


def test_binarize_is_the_least_squares_solution() -> None:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    order = binarize(weight, torch.ones(5, 40, dtype=torch.bool))
    assert torch.allclose(order.mean, weight.mean(1))
    centred = weight - weight.mean(1, keepdim=True)
    for scale in (0.9, 0.99, 1.01, 1.1):  # any other scale on the same signs is worse
        other = order.mean[:, None] + scale * order.scale[:, None] * centred.sign()
        assert ((weight - other) ** 2).sum() > ((weight - order.value) ** 2).sum()


@pytest.mark.parametrize("faithful", [True, False])
def test_what_is_stored_is_what_was_meant(faithful: bool) -> None:
    """The blocks' values, put side by side, are exactly what the packed buffers mean."""
    weight, hessian = case()
    packed = BiLLM(tier(faithful)).quantize(weight, hessian)
    factor = hessians.factorize(hessian, 0.01)
    upper = factor.upper
    diagonal = torch.diagonal(upper) if faithful else (upper.T @ upper).diagonal()
    w, parts = weight.clone(), []
    for start in range(0, 256, 128):
        part = slice(start, start + 128)
        block = binarize_block(w[:, part], w[:, part] ** 2 / diagonal[part] ** 2, faithful)
        w[:, start + 128 :] -= (w[:, part] - block.value) / torch.diagonal(upper)[part] @ upper[part, start + 128 :]
        parts.append(block.value)
    assert torch.allclose(packed.dequantize(), torch.cat(parts, 1), atol=1e-6)
    again = restore("binary", packed.buffers, packed.shape, **packed.meta)
    assert torch.equal(again.dequantize(), packed.dequantize())


def test_every_row_and_block_has_at_most_eight_values() -> None:
    weight, hessian = case()
    values = BiLLM(tier()).quantize(weight, hessian).dequantize()
    for row in values:
        for block in row.split(128):
            assert len(block.unique()) <= 8


def test_the_error_of_a_block_is_made_up_for_by_the_next() -> None:
    weight, hessian = case(3)
    whole = BiLLM(tier()).quantize(weight, hessian).dequantize()
    upper = torch.diagonal(hessians.factorize(hessian, 0.01).upper)
    alone = torch.cat(
        [binarize_block(w, w**2 / d**2, True).value for w, d in zip(weight.split(128, 1), upper.split(128), strict=True)], 1
    )
    assert loss(weight, whole, hessian) < loss(weight, alone, hessian)


def test_salient_columns_are_those_with_the_large_weights() -> None:
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    weight[:, [3, 77]] *= 20
    for faithful in (True, False):
        chosen = salient_columns(weight, weight**2, faithful)
        assert chosen[3]
        assert chosen[77]
        assert int(chosen.sum()) < 50


def test_stored_bits_are_more_than_nominal_ones() -> None:
    weight, hessian = case(rows=128, columns=512)
    packed = BiLLM(tier()).quantize(weight, hessian)
    stored = 8 * sum(packed.ledger().values()) / weight.numel()
    assert 1.0 < packed.nominal_bits < 1.4
    # signs 1 + flags and residual signs about 1 + 8 fp16 numbers per row and block of 128
    assert stored == pytest.approx(2 + 8 * 16 / 128, abs=0.05)


def test_modes_differ_and_both_repeat() -> None:
    weight, hessian = case(5)
    faithful, paper = (BiLLM(tier(f)).quantize(weight, hessian).dequantize() for f in (True, False))
    assert not torch.equal(faithful, paper)
    assert torch.equal(faithful, BiLLM(tier(True)).quantize(weight, hessian).dequantize())


@pytest.mark.parametrize(("rows", "columns"), [(48, 128), (5, 7), (33, 100), (1, 2)])
@pytest.mark.parametrize("twice", [True, False])
def test_the_compiled_searches_see_the_errors_of_the_loops(rows: int, columns: int, twice: bool) -> None:
    target = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 1, columns)
    most = min(49, columns - 1)
    found, wanted = searches.billm_errors(target, most, twice), billm.salient_errors(target, most, twice)
    assert found is not None
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(target.square().sum()))
    thresholds = target.abs().flatten().quantile(torch.linspace(0, 1, 9))
    found, wanted = searches.billm_errors(target, thresholds), billm.split_errors(target, thresholds)
    assert found is not None
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(target.square().sum()))


@pytest.mark.parametrize("faithful", [True, False])
def test_without_kernels_the_error_is_the_same(faithful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = case(7)
    compiled = BiLLM(tier(faithful)).quantize(weight, hessian)
    monkeypatch.setattr(searches, "billm_errors", lambda *_: None)
    looped = BiLLM(tier(faithful)).quantize(weight, hessian)
    one, two = (loss(weight, p.dequantize(), hessian) for p in (compiled, looped))
    assert one == pytest.approx(two, rel=1e-3), "ties apart, the same candidates win"
