"""Round to nearest: no calibration."""

import torch
from torch import Tensor

from luq.config import RtnTier
from luq.formats.integer import IntegerWeight
from luq.quantization.grid import fit, group_size
from luq.quantization.methods.gptq import _pack


class Rtn:
    """Round to nearest: no calibration."""

    data_free = True

    def __init__(self, tier: RtnTier):
        self.tier = tier

    def quantize(self, weight: Tensor, hessian: Tensor | None = None) -> IntegerWeight:
        """weight [out, in] fp32 -> packed integers; the Hessian is not used."""
        size = group_size(weight.shape[1], self.tier.group_size)
        grid = fit(weight, 2**self.tier.bits, size, self.tier.symmetric, steps=self.tier.clip_steps)
        group = torch.arange(weight.shape[1], device=weight.device) // size
        return _pack(grid.encode(weight, group), grid, self.tier.symmetric, 0.0)
