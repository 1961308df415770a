"""Ternary weights: five in a byte."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from luq.formats.base import BufferSpec, GridCodes, PackedWeight, of_columns
from luq.formats.kernels import cpu, cpu_weights
from luq.formats.packing import (
    bytes_of_trits,
    pack_trits,
    places_of_rows,
    trits_at,
    unpack_trits,
)
from luq.formats.rounding import rounded_inputs

LEVELS = 3  # -1, 0 and 1


class TernaryWeight(PackedWeight):
    """-1, 0 or 1 times a scale per row and group of columns.

    Buffers: codes [ceil(out * in / 5)], digits 0, 1, 2 of base 3; scales fp16 [out, groups].
    Meta: group_size, columns of a group, only where the last group is shorter.
    """

    format = "ternary"
    classes: ClassVar = {"codes": "codes", "scales": "scales"}
    numbers_of_meta: ClassVar = ("group_size",)

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        groups = self.free_dimension("scales", 1)
        self.columns_per_group(groups)
        return {
            "codes": BufferSpec(torch.uint8, (bytes_of_trits(rows * columns),)),
            "scales": BufferSpec(torch.float16, (rows, groups)),
        }

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        scales = self.buffers["scales"].float()
        values = unpack_trits(self.buffers["codes"], self.shape).float() - 1
        values *= of_columns(scales, self.group_size, self.shape[1])
        return values.to(dtype)

    def grid_codes(self) -> GridCodes:
        scale = self.buffers["scales"].float()
        codes = unpack_trits(self.buffers["codes"], self.shape).float()
        return GridCodes(codes, scale, torch.ones_like(scale), LEVELS, self.group_size, True)

    def with_codes(self, coded: GridCodes) -> "TernaryWeight":
        buffers = {"codes": pack_trits(coded.codes), "scales": coded.scale.half()}
        return TernaryWeight(buffers, self.shape, **self.meta)

    def rows(
        self, index: Int64[Tensor, " n"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "n in"]:
        columns = self.shape[1]
        values = trits_at(self.buffers["codes"], places_of_rows(index, columns)).float() - 1
        values *= of_columns(self.buffers["scales"][index].float(), self.group_size, columns)
        return values.to(dtype)

    @property
    def group_size(self) -> int:
        """Columns per group; the last one may be shorter."""
        return self.columns_per_group(self.buffers["scales"].shape[1])

    @property
    def nominal_bits(self) -> float:
        return math.log2(3)

    def cpu_kernel(self) -> cpu_weights.TernaryKernel | None:
        codes = self.buffers["codes"]
        scales = self.buffers["scales"]
        library = cpu.library_for(codes, scales)
        if library is None:
            return None
        return cpu_weights.TernaryKernel(library, self.shape, self.group_size, codes, scales)

    def eight_bit_inputs(self, inputs: Float[Tensor, "tokens in"]) -> Float32[Tensor, "tokens in"]:
        return rounded_inputs(inputs, self.group_size)

    def gpu_linear(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        from luq.formats.kernels import gpu  # imports triton, which is optional

        codes = self.buffers["codes"]
        scales = self.buffers["scales"]
        return gpu.ternary_linear(inputs, codes, scales, self.shape, self.group_size)
