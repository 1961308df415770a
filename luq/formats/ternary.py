"""Ternary weights: five in a byte."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from luq.formats.base import PackedWeight
from luq.formats.packing import unpack_trits


class TernaryWeight(PackedWeight):
    """-1, 0 or 1 times a scale per row and group of columns. Buffers: codes [ceil(out * in / 5)], scales fp16 [out, groups]."""

    format = "ternary"
    classes: ClassVar = {"codes": "codes", "scales": "scales"}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        scales = self.buffers["scales"].float()
        codes = (
            unpack_trits(self.buffers["codes"], self.shape)
            .float()
            .view(self.shape[0], scales.shape[1], -1)
        )
        return ((codes - 1) * scales.unsqueeze(-1)).view(self.shape).to(dtype)

    @property
    def nominal_bits(self) -> float:
        return math.log2(3)
