"""Packed weights: what a tier stores for one linear, and the only way back to numbers.

Each format is a set of named buffers plus the [out, in] shape. Everything that is scored goes through
`dequantize` of exactly these buffers, and `ledger` counts them.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor


class PackedWeight(ABC):
    """One linear's weight as stored. `buffers` are what safetensors writes; `meta` is a few JSON numbers."""

    format: ClassVar[str]
    classes: ClassVar[dict[str, str]]  # buffer name -> ledger class

    def __init__(self, buffers: dict[str, Tensor], shape: tuple[int, int], **meta: Any):
        self.buffers, self.shape, self.meta = buffers, shape, meta

    @abstractmethod
    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out, in] that the buffers mean."""

    @property
    @abstractmethod
    def nominal_bits(self) -> float:
        """Code bits per weight, the paper's convention: no scales, no masks."""

    def ledger(self) -> dict[str, int]:
        """Bytes per tensor class; their sum is what safetensors writes for the buffers."""
        total: dict[str, int] = {}
        for name, buffer in self.buffers.items():
            total[self.classes[name]] = (
                total.get(self.classes[name], 0) + buffer.numel() * buffer.element_size()
            )
        return total

    def to(self, device: torch.device | str) -> "PackedWeight":
        return type(self)(
            {k: v.to(device) for k, v in self.buffers.items()}, self.shape, **self.meta
        )
