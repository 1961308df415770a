"""Round to nearest on an integer grid: no calibration data."""

import torch
from jaxtyping import Float
from torch import Tensor

from luq.config import RtnTier
from luq.config.quantizer.base import columns_per_group
from luq.formats.integer import IntegerWeight
from luq.quantization.grid import fit, pack_on_grid


class Rtn:
    """Gives every weight the nearest code of its group's grid."""

    def __init__(self, tier: RtnTier) -> None:
        self.tier = tier

    def quantize(
        self, weight: Float[Tensor, "out in"], hessian: Tensor | None = None
    ) -> IntegerWeight:
        """As in `Quantizer`; the Hessian is not used."""
        tier = self.tier
        columns = weight.shape[1]
        size = columns_per_group(columns, tier.group_size)
        grid = fit(weight, 2**tier.bits, size, tier.symmetric, steps=tier.clip_steps)
        group = torch.arange(columns, device=weight.device) // size
        codes = grid.encode(weight, group)
        return pack_on_grid(codes, grid, size, tier.symmetric, damping=0.0)
