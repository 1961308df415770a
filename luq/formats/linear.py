"""The runtime module of a packed linear: holds stored buffers and computes with what they mean."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luq.formats import kernels
from luq.formats.base import PackedWeight


class PackedLinear(nn.Module):
    """y = x W^T + b with what the stored buffers mean.

    Args:
        packed: The stored weight; its buffers become the module's.
        tier: Name of the tier that it was packed in.
        bias: Added to the products, [out].
        cache: Whether the dequantized weight is kept from the first call on: faster for many
            tokens, for the memory of a 16- or 32-bit weight. Without it, a few tokens at a time
            are answered straight from the stored bits where there is a kernel for that: the same
            weight, its products summed in another order.
    """

    def __init__(
        self,
        packed: PackedWeight,
        tier: str,
        bias: Float[Tensor, " out"] | None = None,
        cache: bool = False,
    ) -> None:
        super().__init__()
        self.tier = tier
        self.cache = cache
        self.bias = bias
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

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        weight = self._weight
        if weight is None or weight.dtype != x.dtype or weight.device != x.device:
            packed = self.packed
            direct = None if self.cache or x.requires_grad else kernels.linear(x, packed)
            if direct is not None:
                return direct if self.bias is None else direct + self.bias
            weight = kernels.unpack(packed, x.dtype)
            self._weight = weight if self.cache else None
        return F.linear(x, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, tier={self.tier}"


def installed_tiers(layer: nn.Module, names: tuple[str, ...]) -> set[str | None]:
    """The tiers that really stand in a layer's linears (None: a plain 16-bit linear)."""
    modules = [layer.get_submodule(name) for name in names]
    return {module.tier if isinstance(module, PackedLinear) else None for module in modules}
