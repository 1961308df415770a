"""Signs with row scales and column scales, twice where it matters (ARB-LLM, ICLR 2025)."""

from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.kernels import cpu, cpu_weights
from luq.formats.packing import bytes_of_bits, unpack_bits


class RowColumnWeight(PackedWeight):
    """Signs with a row scale per block and a column scale; in salient columns two of each.

    W_ij = r_ik c_j B_ij, and in salient columns also + r2_ik c2_j B2_ij, with signs B and k the
    block of column j.

    Buffers, bits packed: signs [out, in], salient [in], residual_signs [out, salient columns];
    fp16: row_scales [out, blocks, 2] (r, r2), column_scales [in] (c), residual_scales [salient
    columns] (c2). Meta: block, columns of a block.
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
    numbers_of_meta: ClassVar = ("block",)

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        blocks = -(-columns // self.block)
        salient = self.free_dimension("residual_scales", 0, dimensions=1)
        if salient > columns:
            raise self.refused("buffer 'residual_scales'", f"at most {columns} long", salient)
        return {
            "signs": BufferSpec(torch.uint8, (bytes_of_bits(rows * columns),)),
            "salient": BufferSpec(torch.uint8, (bytes_of_bits(columns),)),
            "residual_signs": BufferSpec(torch.uint8, (bytes_of_bits(rows * salient),)),
            "row_scales": BufferSpec(torch.float16, (rows, blocks, 2)),
            "column_scales": BufferSpec(torch.float16, (columns,)),
            "residual_scales": BufferSpec(torch.float16, (salient,)),
        }

    def check_content(self) -> None:
        marked = int(self._salient().sum())
        scaled = len(self.buffers["residual_scales"])
        if marked != scaled:
            expected = f"marks of the {scaled} columns that have residual scales"
            raise self.refused("buffer 'salient'", expected, f"marks of {marked}")

    @property
    def block(self) -> int:
        """Columns of a block."""
        return self.meta_number("block", 1, self.shape[1])

    def _salient(self) -> Bool[Tensor, " in"]:
        return unpack_bits(self.buffers["salient"], (self.shape[1],))

    @cached_property
    def _salient_places(self) -> Int32[Tensor, " salient"]:
        """Indices of the salient columns; compiled code trusts them to be as many as scales.

        Computed once: a GPU has to be waited for.
        """
        self.check_content()
        return self._salient().nonzero()[:, 0].int()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        rows, columns = self.shape
        salient = self._salient_places.long()
        block = torch.arange(columns, device=salient.device) // self.block
        row_scales = self.buffers["row_scales"].float()
        column_scales = self.buffers["column_scales"].float()
        residual_scales = self.buffers["residual_scales"].float()
        signs = unpack_bits(self.buffers["signs"], (rows, columns)).float() * 2 - 1
        weight = row_scales[:, block, 0] * column_scales * signs  # r_ik c_j B_ij
        residual_bits = unpack_bits(self.buffers["residual_signs"], (rows, len(salient)))
        residual = residual_bits.float() * 2 - 1
        # + r2_ik c2_j B2_ij
        weight[:, salient] += row_scales[:, block[salient], 1] * residual_scales * residual
        return weight.to(dtype)

    @property
    def nominal_bits(self) -> float:
        """1 + share of columns with a second sign."""
        return 1.0 + int(self._salient().sum()) / self.shape[1]

    def cpu_kernel(self) -> cpu_weights.RowColumnKernel | None:
        library = cpu.library_for(*self.buffers.values())
        if library is None:
            return None
        return cpu_weights.RowColumnKernel(
            library,
            self.shape,
            self.block,
            self.buffers["signs"],
            self.buffers["residual_signs"],
            self.buffers["row_scales"],
            self.buffers["column_scales"].float(),
            self.buffers["residual_scales"].float(),
            self._salient_places,
        )
