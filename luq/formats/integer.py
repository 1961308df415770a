"""Integers on a grid per row and group of columns."""

from typing import ClassVar

import torch
from torch import Tensor

from luq.formats.base import PackedWeight
from luq.formats.packing import unpack_codes


class IntegerWeight(PackedWeight):
    """Integers on a grid per row and group of columns: (code - zero) * scale.

    Buffers: codes [bits, ceil(out * in / 8)], scales fp16 [out, groups], and for asymmetric grids
    zeros [bits, ceil(out * groups / 8)]; symmetric grids have the fixed zero 2**(bits-1).
    """

    format = "integer"
    classes: ClassVar = {"codes": "codes", "scales": "scales", "zeros": "zeros"}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, columns = self.shape
        scales = self.buffers["scales"].float()
        codes = (
            unpack_codes(self.buffers["codes"], self.shape).float().view(rows, scales.shape[1], -1)
        )
        zeros: Tensor | float = 2.0 ** (self.buffers["codes"].shape[0] - 1)
        if "zeros" in self.buffers:
            zeros = unpack_codes(self.buffers["zeros"], tuple(scales.shape)).float().unsqueeze(-1)
        return ((codes - zeros) * scales.unsqueeze(-1)).view(rows, columns).to(dtype)

    @property
    def nominal_bits(self) -> float:
        return float(self.buffers["codes"].shape[0])
