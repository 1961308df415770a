"""Ternary codes with GPTQ's error feedback."""

from torch import Tensor

from luq.formats.packing import pack_trits
from luq.formats.ternary import TernaryWeight
from luq.quantization.methods.gptq import Gptq


class Ternary(Gptq):
    """-1, 0 and 1 times a scale per row and group, with GPTQ's error feedback: five weights in a byte."""

    def quantize(self, weight: Tensor, hessian: Tensor) -> TernaryWeight:
        """As GPTQ's, on a grid of three values."""
        codes, grid, damping = self._codes(weight, hessian, 3, symmetric=True)
        buffers = {"codes": pack_trits(codes), "scales": grid.scale.half()}
        return TernaryWeight(buffers, (weight.shape[0], weight.shape[1]), damping=damping)
