"""Ternary weights: five in a byte."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.kernels import cpu
from luq.formats.packing import bytes_of_trits, unpack_trits


class TernaryWeight(PackedWeight):
    """-1, 0 or 1 times a scale per row and group of columns.

    Buffers: codes [ceil(out * in / 5)], digits 0, 1, 2 of base 3; scales fp16 [out, groups].
    """

    format = "ternary"
    classes: ClassVar = {"codes": "codes", "scales": "scales"}

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        groups = self.free_dimension("scales", 1)
        if groups < 1 or columns % groups:
            raise self.refused("buffer 'scales'", "for groups that divide the columns", groups)
        return {
            "codes": BufferSpec(torch.uint8, (bytes_of_trits(rows * columns),)),
            "scales": BufferSpec(torch.float16, (rows, groups)),
        }

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        scales = self.buffers["scales"].float()
        codes = unpack_trits(self.buffers["codes"], self.shape).float()
        grouped = codes.view(self.shape[0], scales.shape[1], -1)
        return ((grouped - 1) * scales.unsqueeze(-1)).view(self.shape).to(dtype)

    @property
    def nominal_bits(self) -> float:
        return math.log2(3)

    def cpu_linear(
        self, inputs: Float32[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        kernel = self._kernel()
        return None if kernel is None else kernel.linear(inputs)

    def cpu_unpack(self, dtype: torch.dtype) -> Float[Tensor, "out in"] | None:
        kernel = self._kernel()
        return None if kernel is None else kernel.unpack().to(dtype)

    def _kernel(self) -> cpu.TernaryKernel | None:
        codes = self.buffers["codes"]
        scales = self.buffers["scales"]
        library = cpu.library_for(codes, scales)
        return None if library is None else cpu.TernaryKernel(library, self.shape, codes, scales)

    def gpu_linear(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        from luq.formats.kernels import gpu  # imports triton, which is optional

        return gpu.ternary_linear(inputs, self.buffers["codes"], self.buffers["scales"], self.shape)
