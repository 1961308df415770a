"""No quantization: the 16-bit weights in a file like any other tier's."""

from torch import Tensor

from luq.config import Float16Tier
from luq.formats.float16 import FloatWeight


class Float16:
    """Keeps the weights."""

    def __init__(self, tier: Float16Tier):
        self.tier = tier

    def quantize(self, weight: Tensor, hessian: Tensor | None = None) -> FloatWeight:
        """The weight [out, in] rounded to fp16; the Hessian is not used."""
        rows, columns = weight.shape
        return FloatWeight({"weight": weight.half()}, (rows, columns))
