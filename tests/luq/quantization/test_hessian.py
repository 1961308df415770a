import math

import pytest
import torch

from luq.config import TIERS
from luq.quantization import hessian as hessians
from luq.quantization.hessian import HessianSum, effective_rank, factorize
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

    def counted(*given: object) -> hessians.Factor:
        made.append(given)
        return factorize(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(hessians, "factorize", counted)
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
