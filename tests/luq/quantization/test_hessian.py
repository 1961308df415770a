import gc
import math
import weakref
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from luq.config import TIERS
from luq.errors import DataError
from luq.quantization import hessian as hessians
from luq.quantization.hessian import (
    HessianCache,
    HessianSum,
    SplitHessian,
    best_shrinkage,
    checked,
    decompose,
    effective_rank,
    factorize,
    without_dead_columns,
)
from luq.quantization.methods import make_quantizer
from tests.conftest import correlated


def test_every_token_counts_the_same_whatever_the_batches() -> None:
    inputs = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    whole, parts = HessianSum(8), HessianSum(8)
    whole.add(inputs.view(3, 20, 8))
    for part in inputs.split([7, 50, 3]):
        parts.add(part)
    mean = whole.mean()
    assert torch.allclose(mean, parts.mean(), atol=1e-5)
    assert torch.allclose(mean, 2 * inputs.T @ inputs / 60, atol=1e-5)


def test_a_token_of_weight_two_counts_as_two_tokens() -> None:
    inputs = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    weighted, repeated = HessianSum(8), HessianSum(8)
    weighted.add(inputs.view(2, 5, 8), torch.tensor([2.0, 1, 1, 1, 0, 0, 3, 1, 1, 1]))
    order = [0, 0, 1, 2, 3, 6, 6, 6, 7, 8, 9]
    repeated.add(inputs[order])
    assert torch.allclose(weighted.mean(), repeated.mean(), atol=1e-5)


def test_without_tokens_the_hessian_is_zero() -> None:
    assert not bool(HessianSum(3).mean().any())


def test_what_cannot_be_a_hessian_is_said() -> None:
    hessian = correlated(100, 16)
    assert checked(hessian, 16) is hessian
    with pytest.raises(DataError, match="needs a calibration set"):
        checked(None, 16)
    with pytest.raises(DataError, match=r"is \(16, 16\), the weight has 8 columns"):
        checked(hessian, 8)
    for bad in (float("nan"), float("inf")):
        broken = hessian.clone()
        broken[15, 3] = bad
        with pytest.raises(DataError, match="NaN or infinity"):
            checked(broken, 16)


@pytest.mark.parametrize("strip", [3, 1024])
def test_entries_may_differ_from_their_mirror_images_by_rounding_only(
    strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hessians, "STRIP", strip)
    hessian = torch.eye(16) * 10 + 1
    hessian[9, 2] = 1.0005
    checked(hessian, 16)
    hessian[9, 2] = 1.005
    with pytest.raises(DataError, match="not symmetric"):
        checked(hessian, 16)


def test_beside_a_large_entry_small_ones_may_differ() -> None:
    """By a hundred thousandth of the largest one."""
    hessian = torch.eye(16) * 100
    hessian[9, 2] = 0.0005
    checked(hessian, 16)
    hessian[9, 2] = 0.005
    with pytest.raises(DataError, match="not symmetric"):
        checked(hessian, 16)


def test_columns_that_no_token_used_become_zero_in_a_copy() -> None:
    weight = torch.ones(2, 4)
    hessian = torch.diag(torch.tensor([1.0, 0.0, 1e-9, 0.0]))
    assert without_dead_columns(weight, hessian).tolist() == [[1, 0, 1, 0]] * 2
    assert bool(weight.all())


def test_the_damping_is_doubled_until_the_factor_exists() -> None:
    indefinite = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    # eigenvalues 1 +- x of the first two columns: positive from a damping of x - 1 on
    for x, needed in ((1.005, 0.0064), (1.05, 0.0512), (0.9, 0.0)):
        indefinite[0, 1] = x
        indefinite[1, 0] = x
        assert factorize(indefinite, 0.0).damping == pytest.approx(needed)
    indefinite[0, 1] = indefinite[1, 0] = 1.9
    assert factorize(indefinite, 0.5).damping == 1.0
    indefinite[0, 1] = indefinite[1, 0] = 2.1
    with pytest.raises(DataError, match="too few tokens"):
        factorize(indefinite, 0.01)


def test_dead_columns_get_a_diagonal_of_one_and_are_marked_in_the_order_of_the_sweep() -> None:
    hessian = torch.diag(torch.tensor([0.0, 4.0, 9.0]))
    factor = factorize(hessian, 0.0, torch.tensor([2, 1, 0]))
    assert factor.dead.tolist() == [False, False, True]
    expected = torch.diag(torch.tensor([1 / 3, 1 / 2, 1.0]))
    assert torch.allclose(factor.upper, expected)


def test_the_cache_keeps_the_entry_of_the_last_hessian_only() -> None:
    cache: HessianCache[list[int]] = HessianCache()
    first, second = torch.eye(2), torch.eye(2)
    entry = cache.get(first, lambda: [1])
    assert cache.get(first, lambda: [2]) is entry
    assert cache.get(second, lambda: [3]) == [3]
    assert cache.get(first, lambda: [4]) == [4]


def test_the_cache_lets_the_old_entry_go_before_it_makes_the_new_one() -> None:
    class Entry:
        pass

    cache: HessianCache[Entry] = HessianCache()
    entry = weakref.ref(cache.get(torch.eye(2), Entry))

    def make() -> Entry:
        gc.collect()
        assert entry() is None
        return Entry()

    cache.get(torch.eye(2), make)


@pytest.mark.parametrize("method", ["gptq", "ternary", "billm", "arb_rc", "trellis"])
def test_the_unit_of_the_hessian_does_not_matter(method: str) -> None:
    """All of a Hessian times a power of two gives the same bytes."""
    weight = torch.randn(24, 128, generator=torch.Generator().manual_seed(0))
    hessian = correlated(400, 128)
    kind = TIERS[method]
    tiers = [kind()]
    if any(entry.name == "act_order" for entry in fields(kind)):
        tiers.append(replace(kind(), act_order=True))
    for tier in tiers:
        packed = make_quantizer(tier).quantize(weight, hessian)
        for factor in (2.0**-20, 2.0**20):
            scaled = make_quantizer(tier).quantize(weight, hessian * factor)
            for name, buffer in packed.buffers.items():
                assert torch.equal(buffer, scaled.buffers[name]), name


def test_factor_is_the_inverse() -> None:
    hessian = correlated(300, 32)
    upper = factorize(hessian, 0.01).upper.double()
    damped = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(32)
    assert torch.allclose(upper.T @ upper @ damped, torch.eye(32, dtype=torch.double), atol=1e-2)
    assert torch.equal(upper, upper.triu())


@pytest.mark.parametrize("size", [1, 2, 7, 8, 15])
def test_factors_in_strips_are_factors(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessians, "STRIP", 3)
    hessian = correlated(20 * size, size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    upper = factorize(hessian, 0.01, order).upper.double()
    damped = (hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(size))[order][
        :, order
    ]
    assert torch.allclose(
        upper, torch.linalg.cholesky(torch.linalg.inv(damped), upper=True), rtol=1e-2, atol=1e-3
    )
    assert torch.equal(upper, upper.triu())


@pytest.mark.parametrize("size", [1, 2, 7, 8, 15])
def test_a_decomposition_has_ones_on_its_diagonal(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B diag(a)^2 B^T is the damped Hessian, and a_j = 1 / U_jj; of what no token used a is one."""
    monkeypatch.setattr(hessians, "STRIP", 3)
    hessian = correlated(20 * size, size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    factor = decompose(hessian, 0.01, order)
    unit = factor.unit.double()
    assert torch.equal(unit, unit.triu())
    assert torch.equal(unit.diagonal(), torch.ones(size, dtype=torch.double))
    damped = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(size)
    product = (unit * factor.scale.double().square()) @ unit.T
    assert torch.allclose(product, damped[order][:, order], rtol=1e-4, atol=1e-5)
    upper = factorize(hessian, 0.01, order).upper
    assert torch.allclose(factor.unmended, upper.diagonal() ** -2, rtol=1e-4)
    unused = decompose(torch.diag(torch.tensor([0.0, 4.0, 9.0])), 0.0, torch.tensor([2, 1, 0]))
    assert unused.scale.tolist() == [3.0, 2.0, 1.0]


def test_effective_rank() -> None:
    assert effective_rank(torch.eye(16)) == pytest.approx(16)
    one = torch.zeros(16, 16)
    one[0, 0] = 1
    assert effective_rank(one) == pytest.approx(1)
    half = torch.diag(torch.tensor([1.0] * 4 + [0.0] * 12))
    assert effective_rank(half) == pytest.approx(math.exp(math.log(4)))


@pytest.mark.parametrize("tier", ["gptq", "ternary", "billm", "arb_rc", "trellis"])
def test_linears_that_share_an_input_share_one_factor(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(function: Any) -> Any:
        def factor(*given: object) -> Any:
            made.append(given)
            return function(*given)

        return factor

    monkeypatch.setattr(hessians, "factorize", counted(factorize))
    monkeypatch.setattr(hessians, "decompose", counted(decompose))
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(24, 128, generator=generator) for _ in range(3)]
    one, two = correlated(400, 128), correlated(400, 128, seed=1)
    quantizer = make_quantizer(TIERS[tier]())
    found = [
        quantizer.quantize(w, h).dequantize() for w, h in zip(weights, (one, one, two), strict=True)
    ]
    assert len(made) == 2
    for weight, hessian, value in zip(weights, (one, one, two), found, strict=True):
        assert torch.equal(
            value, make_quantizer(TIERS[tier]()).quantize(weight, hessian).dequantize()
        )


def tokens_of(count: int, seed: int, columns: int = 48) -> torch.Tensor:
    """Inputs whose energy falls by a factor of 1,000 over their directions."""
    mix = torch.randn(columns, columns, generator=torch.Generator().manual_seed(9))
    directions = torch.linalg.qr(mix).Q * torch.logspace(0, -1.5, columns)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, columns, generator=generator) @ directions.T


def test_of_few_tokens_a_hessian_is_shrunk_and_of_many_it_is_left() -> None:
    held_out = 2 * tokens_of(4000, 1).T @ tokens_of(4000, 1)
    few, many = tokens_of(64, 2), tokens_of(20_000, 3)
    share_of_few = best_shrinkage(few.T @ few, held_out)
    share_of_many = best_shrinkage(many.T @ many, held_out)
    assert share_of_many == 0
    assert share_of_few >= 0.01


def test_a_shrunk_hessian_makes_a_smaller_error_on_other_tokens() -> None:
    other = tokens_of(4000, 1)
    tier = TIERS["gptq"](bits=2, group_size=16, act_order=True, static_groups=True)
    ratios: list[float] = []
    for seed in range(5):
        few = tokens_of(64, 10 + seed)
        weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(seed))
        split, plain = SplitHessian(48), HessianSum(48)
        for part, inputs in enumerate(few.split(16)):
            split.add(inputs, None, part == 3)
            plain.add(inputs)
        errors = []
        for hessian in (plain.mean(), split.mean()):
            packed = make_quantizer(tier).quantize(weight, hessian)
            errors.append(float((other @ (weight - packed.dequantize()).T).square().sum()))
        ratios.append(errors[1] / errors[0])
    assert max(ratios) < 1
    assert sum(ratios) / 5 < 0.97


def test_without_held_out_tokens_nothing_is_shrunk() -> None:
    inputs = tokens_of(50, 0)
    split, plain = SplitHessian(48), HessianSum(48)
    split.add(inputs, None, False)
    plain.add(inputs)
    assert torch.equal(split.mean(), plain.mean())


def test_shrinking_leaves_unused_columns_unused() -> None:
    inputs = tokens_of(64, 0)
    inputs[:, 5] = 0
    split = SplitHessian(48)
    split.add(inputs[:48], None, False)
    split.add(inputs[48:], None, True)
    hessian = split.mean()
    assert hessian[5, 5] == 0
    plain = 2 * inputs.T @ inputs / 64
    live = torch.arange(48) != 5
    raised = (torch.diagonal(hessian) - torch.diagonal(plain))[live]
    assert float(raised.min()) > 0
    assert torch.allclose(raised, raised[0].expand_as(raised), rtol=1e-3)


@pytest.mark.parametrize("block", [1, 5, 12, 30])
def test_sums_by_blocks_above_the_diagonal_are_whole_and_symmetric(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hessians, "PRODUCT", block)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 20, 12, generator=generator)
    total = HessianSum(12)
    total.add(inputs[0])
    in_between = total.total.clone()
    total.add(inputs[1:])
    rows = inputs.flatten(0, 1).double()
    assert torch.allclose(in_between.double(), 2 * rows[:20].T @ rows[:20], atol=1e-4)
    mean = total.mean()
    assert torch.allclose(mean.double(), 2 * rows.T @ rows / 60, atol=1e-5)
    assert torch.allclose(mean, mean.T, atol=1e-6)
