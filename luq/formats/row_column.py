"""Signs with row scales and column scales, twice where it matters (ARB-LLM, ICLR 2025)."""

from typing import ClassVar

import torch
from torch import Tensor

from luq.formats.base import PackedWeight
from luq.formats.packing import unpack_bits


class RowColumnWeight(PackedWeight):
    """Signs with a row scale per block and a column scale; in salient columns two of each.

    Buffers, bits packed: signs [out, in], salient [in], residual_signs [out, salient columns]; fp16: row_scales [out, blocks, 2],
    column_scales [in], residual_scales [salient columns].
    """

    format = "row_column"
    classes: ClassVar = {
        "signs": "codes",
        "residual_signs": "codes",
        "salient": "masks",
        "row_scales": "scales",
        "column_scales": "scales",
        "residual_scales": "scales",
    }

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, columns = self.shape
        salient = unpack_bits(self.buffers["salient"], (columns,))
        block = torch.arange(columns, device=salient.device) // int(self.meta["block"])
        by_row, by_column = (
            self.buffers["row_scales"].float(),
            self.buffers["column_scales"].float(),
        )
        signs = unpack_bits(self.buffers["signs"], (rows, columns)).float() * 2 - 1
        found = by_row[:, block, 0] * by_column * signs
        count = int(salient.sum())
        again = unpack_bits(self.buffers["residual_signs"], (rows, count)).float() * 2 - 1
        found[:, salient] += (
            by_row[:, block[salient], 1] * self.buffers["residual_scales"].float() * again
        )
        return found.to(dtype)

    @property
    def nominal_bits(self) -> float:
        """1 + share of columns with a second sign."""
        columns = self.shape[1]
        return 1.0 + int(unpack_bits(self.buffers["salient"], (columns,)).sum()) / columns
