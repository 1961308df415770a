"""No quantization: the 16-bit weights in a file like any other tier's."""

from jaxtyping import Float
from torch import Tensor

from luq.config import Float16Tier
from luq.formats.float16 import FloatWeight


class Float16:
    """Stores the weights rounded to fp16."""

    def __init__(self, tier: Float16Tier) -> None:
        self.tier = tier

    def quantize(
        self, weight: Float[Tensor, "out in"], hessian: Tensor | None = None
    ) -> FloatWeight:
        """As in `Quantizer`; the Hessian is not used."""
        rows, columns = weight.shape
        return FloatWeight({"weight": weight.half()}, (rows, columns))
