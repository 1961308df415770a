"""16-bit weights, as they came."""

from typing import ClassVar

import torch
from torch import Tensor

from luq.formats.base import PackedWeight


class FloatWeight(PackedWeight):
    """16-bit weights, as they came."""

    format = "float16"
    classes: ClassVar = {"weight": "weights"}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.buffers["weight"].to(dtype)

    @property
    def nominal_bits(self) -> float:
        return 16.0
