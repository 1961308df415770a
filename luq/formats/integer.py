"""Integers on a grid per row and group of columns."""

from typing import ClassVar

import torch
from jaxtyping import Float, Float16, Float32, Int64, UInt8
from torch import Tensor

from luq.formats.base import BufferSpec, GridCodes, IntegerGrid, PackedWeight, of_columns
from luq.formats.kernels import cpu, cpu_weights
from luq.formats.packing import (
    bytes_of_bits,
    codes_at,
    pack_codes,
    places_of_rows,
    rows_of_codes,
)
from luq.formats.rounding import rounded_inputs

MOST_BITS = 8  # codes are unpacked into bytes


class IntegerWeight(PackedWeight):
    """Integers on a grid per row and group of columns: (code - zero) * scale.

    Buffers: codes [bits, ceil(out * in / 8)], scales fp16 [out, groups], and for asymmetric grids
    zeros [bits, ceil(out * groups / 8)]; symmetric grids have the fixed zero 2**(bits-1).
    Meta: group_size, columns of a group, only where the last group is shorter.
    """

    format = "integer"
    classes: ClassVar = {"codes": "codes", "scales": "scales", "zeros": "zeros"}
    numbers_of_meta: ClassVar = ("group_size",)

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        bits = self.free_dimension("codes", 0)
        groups = self.free_dimension("scales", 1)
        if not 1 <= bits <= MOST_BITS:
            raise self.refused("buffer 'codes'", f"1 to {MOST_BITS} planes", bits)
        self.columns_per_group(groups)
        specs = {
            "codes": BufferSpec(torch.uint8, (bits, bytes_of_bits(rows * columns))),
            "scales": BufferSpec(torch.float16, (rows, groups)),
        }
        if "zeros" in self.buffers:
            specs["zeros"] = BufferSpec(torch.uint8, (bits, bytes_of_bits(rows * groups)))
        return specs

    def integer_grid(self) -> IntegerGrid:
        zeros = self.buffers.get("zeros")
        scales = self.buffers["scales"]
        return IntegerGrid(self.shape, self.buffers["codes"], scales, zeros, self.group_size)

    def grid_codes(self) -> GridCodes:
        grid = self.integer_grid()
        scale = grid.scales.float()
        zeros = grid.zeros()
        zero = torch.full_like(scale, 2.0 ** (grid.bits - 1)) if zeros is None else zeros.float()
        codes = grid.codes().float()
        return GridCodes(codes, scale, zero, 2**grid.bits, self.group_size, grid.symmetric)

    def with_codes(self, coded: GridCodes) -> "IntegerWeight":
        bits = (coded.levels - 1).bit_length()
        buffers = {"codes": pack_codes(coded.codes, bits), "scales": coded.scale.half()}
        if not coded.is_symmetric:
            buffers["zeros"] = pack_codes(coded.zero, bits)
        return IntegerWeight(buffers, self.shape, **self.meta)

    @property
    def group_size(self) -> int:
        """Columns per group; the last one may be shorter."""
        return self.columns_per_group(self.buffers["scales"].shape[1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        grid = self.integer_grid()
        return self._values(grid.codes(), grid.scales, grid.zeros()).to(dtype)

    def rows(
        self, index: Int64[Tensor, " n"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "n in"]:
        scales = self.buffers["scales"]
        codes = rows_of_codes(self.buffers["codes"], self.shape, index)
        zeros = None
        if "zeros" in self.buffers:
            zeros = codes_at(self.buffers["zeros"], places_of_rows(index, scales.shape[1]))
        return self._values(codes, scales[index], zeros).to(dtype)

    def _values(
        self,
        codes: UInt8[Tensor, "n in"],
        scales: Float16[Tensor, "n groups"],
        zeros: UInt8[Tensor, "n groups"] | None,
    ) -> Float32[Tensor, "n in"]:
        """(code - zero) * scale of some rows."""
        columns = self.shape[1]
        values = codes.float()  # the rest is done in place: a weight may take gigabytes
        if zeros is None:
            values -= 2.0 ** (len(self.buffers["codes"]) - 1)
        else:
            values -= of_columns(zeros.float(), self.group_size, columns)
        values *= of_columns(scales.float(), self.group_size, columns)
        return values

    @property
    def nominal_bits(self) -> float:
        return float(self.buffers["codes"].shape[0])

    def cpu_kernel(self) -> cpu_weights.IntegerKernel | None:
        codes = self.buffers["codes"]
        scales = self.buffers["scales"]
        zeros = self.buffers.get("zeros")
        library = cpu.library_for(codes, scales, zeros)
        if library is None:
            return None
        return cpu_weights.IntegerKernel(library, self.shape, self.group_size, codes, scales, zeros)

    def eight_bit_inputs(self, inputs: Float[Tensor, "tokens in"]) -> Float32[Tensor, "tokens in"]:
        return rounded_inputs(inputs, self.group_size)

    def gpu_linear(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        from luq.formats.kernels import gpu  # imports triton, which is optional

        grid = self.integer_grid()
        return gpu.integer_linear(
            inputs, grid.planes, grid.scales, grid.zero_planes, self.shape, grid.group_size
        )
