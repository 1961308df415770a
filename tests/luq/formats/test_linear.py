import pytest
import torch
from torch import nn

from luq.errors import StoreError
from luq.formats.linear import PackedLinear, installed_tiers
from tests.luq.formats.weights import GENERATOR, integers


def test_a_linear_answers_with_what_its_buffers_mean() -> None:
    weight = integers(4, 24, 3, 2, symmetric=True)
    bias = torch.randn(4, generator=GENERATOR)
    x = torch.randn(2, 7, 24, generator=GENERATOR)
    expected = nn.functional.linear(x, weight.dequantize(), bias)
    assert torch.equal(PackedLinear(weight, "rtn3", bias)(x), expected)
    assert torch.equal(PackedLinear(weight, "rtn3")(x), expected - bias) or torch.allclose(
        PackedLinear(weight, "rtn3")(x), expected - bias, atol=1e-6
    )


def test_replaced_buffers_are_used_and_checked() -> None:
    weight = integers(4, 24, 3, 2, symmetric=True)
    linear = PackedLinear(weight.to("meta"), "rtn3")
    for name, buffer in weight.buffers.items():
        setattr(linear, name, buffer)
    assert torch.equal(linear.packed.dequantize(), weight.dequantize())
    assert linear.packed is linear.packed
    linear.scales = torch.ones(4, 5).half()
    with pytest.raises(StoreError, match="divide"):
        linear(torch.ones(1, 24))


def test_only_a_cached_weight_is_kept() -> None:
    weight = integers(4, 24, 3, 2, symmetric=True)
    for cache in (False, True):
        linear = PackedLinear(weight, "rtn3", cache=cache)
        first = linear(torch.ones(9, 24))
        assert (linear._weight is not None) == cache
        assert torch.equal(linear(torch.ones(9, 24)), first)
        assert linear(torch.ones(9, 24).bfloat16()).dtype == torch.bfloat16
        assert set(linear.state_dict()) == {"codes", "scales"}


def test_gradients_flow_to_inputs() -> None:
    linear = PackedLinear(integers(4, 32, 3, 2, symmetric=True), "rtn3")
    x = torch.ones(1, 32, requires_grad=True)
    linear(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad[0], linear.packed.dequantize().sum(0))


def test_installed_tiers_are_those_of_the_modules() -> None:
    weight = integers(4, 24, 3, 2, symmetric=True)
    layer = nn.ModuleDict({"a": PackedLinear(weight, "rtn3"), "b": nn.Linear(2, 2)})
    assert installed_tiers(layer, ("a", "b")) == {"rtn3", None}
    assert installed_tiers(layer, ("a",)) == {"rtn3"}
