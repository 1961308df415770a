"""16-bit weights, as they came."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight


class FloatWeight(PackedWeight):
    """16-bit weights, as they came. Buffer: weight, fp16 or bf16 [out, in]."""

    format = "float16"
    classes: ClassVar = {"weight": "weights"}

    def expected_buffers(self) -> dict[str, BufferSpec]:
        dtype = self.buffer("weight").dtype
        if dtype != torch.bfloat16:
            dtype = torch.float16
        return {"weight": BufferSpec(dtype, self.shape)}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        return self.buffers["weight"].to(dtype)

    def rows(
        self, index: Int64[Tensor, " n"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "n in"]:
        return self.buffers["weight"][index].to(dtype)

    @property
    def nominal_bits(self) -> float:
        return 16.0

    def stored_floats(self) -> Float[Tensor, "out in"] | None:
        return self.buffers["weight"]
