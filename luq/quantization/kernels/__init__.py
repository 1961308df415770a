"""Fast ways from stored bits to products and weights. What no kernel knows comes back as None, and torch does it."""

from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from luq.quantization.kernels import cpu
from luq.quantization.packed import PackedWeight


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


def linear(x: Tensor, weight: PackedWeight) -> Tensor | None:
    """x W^T [..., out] of a few tokens straight from the stored bits, summed in fp32."""
    if x.device.type == "cpu":
        return cpu.linear(x, weight)
    if x.device.type == "cuda" and _has_triton():
        from luq.quantization.kernels import gpu

        return gpu.linear(x, weight)
    return None


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] that `dequantize` gives, bit for bit."""
    found = cpu.unpack(weight, dtype)
    return weight.dequantize(dtype) if found is None else found
