from collections.abc import Callable

import pytest
import torch
from torch import nn

from luq.errors import ModelError, StoreError
from luq.formats.base import PackedWeight
from luq.formats.lazy_weight import LazyWeight
from luq.formats.linear import PackedLinear, installed_tiers
from tests.luq.formats.weights import (
    GENERATOR,
    binaries,
    coded,
    floats,
    gguf_weight,
    integers,
    row_columns,
    ternaries,
)

WEIGHTS = {
    "float16": floats(16, 64),
    "integer": integers(16, 64, 3, 2, symmetric=False),
    "ternary": ternaries(16, 64, 2),
    "binary": binaries(16, 64, 32, 0.2),
    "row_column": row_columns(16, 64, 32, 0.2),
    "trellis": coded(16, 64, 2),
    "gguf": gguf_weight(16, 64, "q4_0"),
}
every_format = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


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


@every_format
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("cache", [False, True])
def test_gradients_are_those_of_a_plain_linear(
    weight: PackedWeight, tokens: int, cache: bool
) -> None:
    bias = nn.Parameter(torch.randn(16, generator=GENERATOR))
    x = torch.randn(2, tokens, 64, generator=GENERATOR, requires_grad=True)
    plain = nn.functional.linear(x, weight.dequantize(), bias)
    answer = PackedLinear(weight, "tier", bias, cache)(x)
    assert torch.equal(answer, plain)
    gradient = torch.randn(answer.shape, generator=GENERATOR)
    expected = torch.autograd.grad(plain, (x, bias), gradient)
    for actual, wanted in zip(
        torch.autograd.grad(answer, (x, bias), gradient), expected, strict=True
    ):
        assert torch.allclose(actual, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_gradients_are_those_of_finite_differences() -> None:
    linear = PackedLinear(integers(4, 32, 3, 2, symmetric=True), "rtn3")
    x = torch.randn(2, 3, 32, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear, (x,))


def test_no_unpacked_weight_is_kept_for_the_gradient() -> None:
    """Autograd would keep all weights of a model from the first pass to the second."""
    linear = PackedLinear(integers(4, 32, 3, 2, symmetric=True), "rtn3")
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear(torch.ones(9, 32, requires_grad=True))
    assert kept == []


def test_gradients_under_autocast_have_the_inputs_type() -> None:
    weight = integers(4, 32, 3, 2, symmetric=True)
    x = torch.randn(9, 32, generator=GENERATOR, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        answer = PackedLinear(weight, "rtn3")(x)
    assert answer.dtype == torch.bfloat16
    answer.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    expected = weight.dequantize().sum(0).expand(9, -1)
    assert torch.allclose(x.grad, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))


@every_format
def test_a_weight_is_unpacked_where_it_is_read(weight: PackedWeight) -> None:
    linear = PackedLinear(weight, "tier", compute_dtype=torch.float16)
    assert isinstance(linear, nn.Linear)
    assert list(linear.parameters()) == []
    values = weight.dequantize(torch.float16)
    assert isinstance(linear.weight, LazyWeight)
    assert linear.weight.shape == values.shape
    assert linear.weight.dtype == values.dtype
    assert torch.equal(linear.weight.float().norm(dim=1), values.float().norm(dim=1))
    assert type(linear.weight + 0) is torch.Tensor
    assert "LazyWeight" in repr(linear.weight)


def test_a_weight_s_shape_is_known_before_its_buffers_are_loaded() -> None:
    linear = PackedLinear(integers(4, 24, 3, 2, symmetric=True).to("meta"), "rtn3")
    assert linear.weight.is_meta
    assert (linear.weight + 1).shape == (4, 24)


def _assign(weight: torch.Tensor) -> None:
    weight.data = torch.zeros(16, 64)


def _add_in_place(weight: torch.Tensor) -> None:
    weight.data += 1


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "assigned": _assign,
    "added to": _add_in_place,
    "filled": nn.init.zeros_,
    "copied into": lambda weight: weight.detach().copy_(torch.zeros(16, 64)),
    "written by keyword": lambda weight: torch.neg(torch.zeros(16, 64), out=weight),
}


@every_format
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_weight_cannot_be_written(
    weight: PackedWeight, write: Callable[[torch.Tensor], object]
) -> None:
    """It would be lost in silence: what is written to is made anew at the next call."""
    linear = PackedLinear(weight, "tier")
    before = {name: buffer.clone() for name, buffer in linear.named_buffers()}
    with pytest.raises(ModelError, match=r"model\.dequantize\(\)"):
        write(linear.weight)
    for name, buffer in linear.named_buffers():
        assert torch.equal(buffer, before[name])


@every_format
def test_another_type_is_computed_in_and_stored_is_what_was(weight: PackedWeight) -> None:
    linear = PackedLinear(weight, "tier", nn.Parameter(torch.zeros(16))).to(torch.bfloat16)
    assert linear.compute_dtype == torch.bfloat16
    assert linear.bias.dtype == torch.bfloat16
    for name, buffer in weight.buffers.items():
        assert torch.equal(linear.packed.buffers[name], buffer)
        assert linear.packed.buffers[name].dtype == buffer.dtype


@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_linear_is_made_of_a_packed_one(weight: PackedWeight, dtype: torch.dtype) -> None:
    packed = PackedLinear(weight, "tier", nn.Parameter(torch.ones(16)), compute_dtype=dtype).eval()
    plain = packed.dequantized()
    assert type(plain) is nn.Linear
    assert torch.equal(plain.weight, weight.dequantize(dtype))
    assert not plain.training
    x = torch.randn(9, 64, generator=GENERATOR).to(dtype)
    # a packed one sums in another order, and a rotated one is rounded to 16 bits before it is turned
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(plain(x), packed.to(dtype)(x), rtol=tolerance, atol=tolerance)


@every_format
@pytest.mark.parametrize("cache", [True, False])
def test_where_products_are_in_another_type_the_weight_is_unpacked_into_it(
    weight: PackedWeight, cache: bool
) -> None:
    linear = PackedLinear(weight, "tier", nn.Parameter(torch.ones(16)), cache=cache)
    x = torch.randn(9, 64, generator=GENERATOR)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = linear(x)
    assert outputs.dtype == torch.bfloat16
    expected = nn.functional.linear(
        x.bfloat16(), weight.dequantize(torch.bfloat16), torch.ones(16).bfloat16()
    )
    if cache:
        assert torch.equal(outputs, expected)
    assert torch.allclose(outputs, expected, rtol=2e-2, atol=2e-2)


def test_installed_tiers_are_those_of_the_modules() -> None:
    weight = integers(4, 24, 3, 2, symmetric=True)
    layer = nn.ModuleDict({"a": PackedLinear(weight, "rtn3"), "b": nn.Linear(2, 2)})
    assert installed_tiers(layer, ("a", "b")) == {"rtn3", None}
    assert installed_tiers(layer, ("a",)) == {"rtn3"}
