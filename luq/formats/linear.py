"""The runtime module of a packed linear: holds stored buffers and computes with what they mean."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luq.formats import kernels
from luq.formats.base import PackedWeight
from luq.formats.stored_module import StoredModule


class PackedLinear(StoredModule, nn.Linear):
    """y = x W^T + b with what the stored buffers mean.

    Args:
        packed: The stored weight; its buffers become the module's.
        tier: Name of the tier that it was packed in.
        bias: Added to the products, [out].
        cache: Whether the dequantized weight is kept from the first call on: faster for many
            tokens, for the memory of a 16- or 32-bit weight. Without it, a few tokens at a time
            are answered straight from the stored bits where there is a kernel for that: the same
            weight, its products summed in another order.
        compute_dtype: The type in which `weight` is seen. It computes in the type of its inputs.
    """

    in_eight_bits: bool = False  # whether inputs are rounded to 8 bits, for speed

    def __init__(
        self,
        packed: PackedWeight,
        tier: str,
        bias: Float[Tensor, " out"] | None = None,
        cache: bool = False,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.hold(packed, tier, cache, compute_dtype)
        self.bias: Any = bias  # a parameter, a tensor, or None
        self.out_features, self.in_features = packed.shape

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            # The weight is unpacked into this type, and not into the input's and cast to it.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if self.cache:
            return F.linear(x, self.unpacked(x.dtype), self.bias)
        packed = self.packed
        if x.requires_grad and torch.is_grad_enabled():
            outputs: Tensor = _Product.apply(x, self.bias, packed)  # type: ignore[no-untyped-call]
            return outputs
        direct = None if x.requires_grad else kernels.linear(x, packed, self.in_eight_bits)
        if direct is not None:
            return direct if self.bias is None else direct + self.bias
        return F.linear(x, kernels.unpack(packed, x.dtype), self.bias)

    def dequantized(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """A plain linear with the weight that this one computes with in a type.

        Args:
            dtype: Of weight and bias; without it that of `weight`.
        """
        weight = kernels.unpack(self.packed, dtype or self.compute_dtype)
        linear = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(weight.dtype), requires_grad=False)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, tier={self.tier}"


class _Product(torch.autograd.Function):
    """x W^T + b. For the gradient the weight is unpacked again: autograd would keep all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: PackedWeight) -> Tensor:
        ctx.packed = packed
        ctx.input_dtype = x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return F.linear(x, kernels.unpack(packed, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        of_inputs: Tensor | None = None
        of_bias: Tensor | None = None
        if ctx.needs_input_grad[0]:
            weight = kernels.unpack(ctx.packed, gradient.dtype)
            of_inputs = (gradient @ weight).to(ctx.input_dtype)
        if ctx.needs_input_grad[1]:
            of_bias = gradient.flatten(0, -2).sum(0).to(ctx.bias_dtype)
        return of_inputs, of_bias, None


def round_activations(model: nn.Module, is_on: bool = True) -> None:
    """Round the inputs of a model's packed linears to 8 bits, on CPUs: faster, and less exact.

    Integer, ternary and computed trellis tiers have code for that, and the others stay as they are.
    Gradients are those of exact products, and so is what has a cache. Runs never score so.

    Args:
        model: Changed in place.
        is_on: False: exact again.
    """
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.in_eight_bits = is_on


def installed_tiers(layer: nn.Module, names: tuple[str, ...]) -> set[str | None]:
    """The tiers that really stand in a layer's linears (None: a plain 16-bit linear)."""
    modules = [layer.get_submodule(name) for name in names]
    return {module.tier if isinstance(module, PackedLinear) else None for module in modules}
