"""The runtime module of a packed linear: holds stored buffers and computes with what they mean."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luq.formats import kernels
from luq.formats.base import PackedWeight
from luq.formats.lazy_weight import LazyWeight


class PackedLinear(nn.Linear):
    """y = x W^T + b with what the stored buffers mean.

    It is a torch.nn.Linear for those who look for linears, as PEFT does, but has no parameter
    `weight`: that is made of the buffers when it is read, and cannot be written.

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

    def __init__(
        self,
        packed: PackedWeight,
        tier: str,
        bias: Float[Tensor, " out"] | None = None,
        cache: bool = False,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make room for a weight
        self.tier = tier
        self.cache = cache
        self.bias: Any = bias  # a parameter, a tensor, or None
        self.compute_dtype = compute_dtype
        self.out_features, self.in_features = packed.shape
        for name, buffer in packed.buffers.items():
            self.register_buffer(name, buffer, persistent=True)
        self._packed = packed
        self._weight: Tensor | None = None

    @property
    def packed(self) -> PackedWeight:
        """The stored weight, around the buffers where they are now.

        Buffers are replaced when the module moves to a device and when a checkpoint is loaded into
        a skeleton. They are checked anew then, with their content, and not at every call.

        Raises:
            StoreError: The buffers are not what the format stores.
        """
        buffers = dict(self.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            if buffer is not self._packed.buffers[name]:
                packed = type(self._packed)(buffers, self._packed.shape, **self._packed.meta)
                if not any(buffer.is_meta for buffer in buffers.values()):
                    packed.check_content()
                self._packed = packed
                break
        return self._packed

    def __getattr__(self, name: str) -> Any:
        """`weight`, which is read-only also where a buffer has that name; torch finds the rest."""
        if name == "weight" and "_packed" in self.__dict__:
            stored = self._buffers.get(name)
            dtype = self.compute_dtype if stored is None else stored.dtype
            return LazyWeight(self.packed, dtype)
        return super().__getattr__(name)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        weight = self._weight
        if weight is not None and weight.dtype == x.dtype and weight.device == x.device:
            return F.linear(x, weight, self.bias)
        packed = self.packed
        if self.cache:
            self._weight = kernels.unpack(packed, x.dtype)
            return F.linear(x, self._weight, self.bias)
        if x.requires_grad and torch.is_grad_enabled():
            outputs: Tensor = _Product.apply(x, self.bias, packed)  # type: ignore[no-untyped-call]
            return outputs
        direct = None if x.requires_grad else kernels.linear(x, packed)
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        """`to` another device or type. Buffers stay in the types that the format stores."""
        stored = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in stored.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        self.compute_dtype = fn(torch.empty(0, dtype=self.compute_dtype)).dtype
        return self

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


def installed_tiers(layer: nn.Module, names: tuple[str, ...]) -> set[str | None]:
    """The tiers that really stand in a layer's linears (None: a plain 16-bit linear)."""
    modules = [layer.get_submodule(name) for name in names]
    return {module.tier if isinstance(module, PackedLinear) else None for module in modules}
