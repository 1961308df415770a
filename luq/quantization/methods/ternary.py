"""Ternary codes: GPTQ on a grid of three values."""

from jaxtyping import Float
from torch import Tensor

from luq.config import TernaryTier
from luq.formats.base import group_meta
from luq.formats.packing import pack_trits
from luq.formats.ternary import TernaryWeight
from luq.quantization.hessian import HessianCache, UnitFactor
from luq.quantization.methods.gptq import codes_on_grid

LEVELS = 3  # -1, 0 and 1


class Ternary:
    """-1, 0 and 1 times a scale per row and group, with GPTQ's feedback: five weights in a byte."""

    def __init__(self, tier: TernaryTier) -> None:
        self.tier = tier
        self.factors: HessianCache[UnitFactor] = HessianCache()

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> TernaryWeight:
        """As in `Quantizer`."""
        rows, columns = weight.shape
        coded = codes_on_grid(weight, hessian, self.tier, LEVELS, True, self.factors)
        buffers = {"codes": pack_trits(coded.codes), "scales": coded.grid.scale.half()}
        meta = group_meta(columns, coded.group_size)
        return TernaryWeight(buffers, (rows, columns), damping=coded.damping, **meta)
