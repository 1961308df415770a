"""Tier name -> quantizer: the one interface the walk knows."""

from typing import Protocol

from torch import Tensor

from luq import registry
from luq.config import TierConfig
from luq.formats.base import PackedWeight
from luq.formats.float16 import FloatWeight


class Quantizer(Protocol):
    """quantize(weight [out, in] fp32, hessian [in, in] fp32) -> PackedWeight; pure and deterministic."""

    data_free: bool

    def quantize(self, weight: Tensor, hessian: Tensor) -> PackedWeight: ...


class Float16:
    """No quantization: the 16-bit weights in a file like any other tier's."""

    data_free = True

    def __init__(self, tier: TierConfig):
        self.tier = tier

    def quantize(self, weight: Tensor, hessian: Tensor | None = None) -> FloatWeight:
        return FloatWeight({"weight": weight.half()}, (weight.shape[0], weight.shape[1]))


def make_quantizer(tier: TierConfig) -> Quantizer:
    """The quantizer of a tier; an unknown method is a ConfigError with the nearest names."""
    return registry.load("quantizer", tier.method)(tier)
