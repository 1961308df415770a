"""What runtime modules of packed weights have in common: stored buffers, and a weight made of them.

Such a module stands where a module of torch stood, and is of its class for those who look for it,
but has no parameter `weight`: that is made of the buffers when it is read, and cannot be written.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luq.formats import kernels
from luq.formats.base import PackedWeight
from luq.formats.lazy_weight import LazyWeight


class StoredModule(nn.Module):
    """Holds a packed weight. Subclasses are modules of torch, and compute with it."""

    tier: str  # name of the tier that it was packed in
    cache: bool  # whether the dequantized weight is kept from the first use on
    compute_dtype: torch.dtype  # the type in which `weight` is seen
    _packed: PackedWeight
    _weight: Tensor | None

    def hold(
        self, packed: PackedWeight, tier: str, cache: bool, compute_dtype: torch.dtype
    ) -> None:
        """Begin as a module without parameters, with the buffers of a stored weight."""
        nn.Module.__init__(self)  # torch's own class would make room for a weight
        self.tier = tier
        self.cache = cache
        self.compute_dtype = compute_dtype
        for name, buffer in packed.buffers.items():
            self.register_buffer(name, buffer, persistent=True)
        self._packed = packed
        self._weight = None

    @property
    def packed(self) -> PackedWeight:
        """The stored weight, around the buffers where they are now.

        Buffers are replaced when the module moves to a device and when a checkpoint is loaded into
        a skeleton. They are checked anew then, with their content, and not at every call.

        Raises:
            StoreError: The buffers are not what the format stores.
        """
        stored = self._packed.buffers
        buffers = {name: self._buffers[name] for name in stored}
        for name, buffer in buffers.items():
            if buffer is not stored[name]:
                present = {name: buffer for name, buffer in buffers.items() if buffer is not None}
                packed = type(self._packed)(present, self._packed.shape, **self._packed.meta)
                if not any(buffer.is_meta for buffer in present.values()):
                    packed.check_content()
                self._packed = packed
                break
        return self._packed

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The weight in a type; kept where the module has a cache."""
        stored = next(iter(self.packed.buffers.values()))
        weight = self._weight
        if weight is not None and weight.dtype == dtype and weight.device == stored.device:
            return weight
        weight = kernels.unpack(self.packed, dtype)
        if self.cache:
            self._weight = weight
        return weight

    def __getattr__(self, name: str) -> Any:
        """`weight`, which is read-only also where a buffer has that name; torch finds the rest."""
        if name == "weight" and "tier" in self.__dict__:
            stored = self._buffers.get(name)
            dtype = self.compute_dtype if stored is None else stored.dtype
            return LazyWeight(self.packed, dtype)
        return super().__getattr__(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StoredModule":
        """`to` another device or type. Buffers stay in the types that the format stores."""
        stored = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in stored.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        self.compute_dtype = fn(torch.empty(0, dtype=self.compute_dtype)).dtype
        return self
