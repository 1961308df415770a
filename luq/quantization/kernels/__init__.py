"""Fast ways from stored bits to products and weights. What no kernel knows comes back as None, and torch does it."""

import torch
from torch import Tensor

from luq.quantization.kernels import cpu
from luq.quantization.kernels.searches import has_triton
from luq.quantization.packed import PackedWeight


def linear(x: Tensor, weight: PackedWeight) -> Tensor | None:
    """x W^T [..., out] of a few tokens straight from the stored bits, summed in fp32."""
    if x.device.type == "cpu":
        return cpu.linear(x, weight)
    if x.device.type == "cuda" and has_triton():
        from luq.quantization.kernels import gpu

        return gpu.linear(x, weight)
    return None


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] that `dequantize` gives, bit for bit."""
    found = cpu.unpack(weight, dtype)
    return weight.dequantize(dtype) if found is None else found
