"""What every method is for those who call it."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from luq.formats.base import PackedWeight


@runtime_checkable
class Quantizer(Protocol):
    """A weight and the Hessian of its inputs -> what is stored. Pure and deterministic.

    A quantizer may remember what it made of the last Hessian: linears that share an input should
    come one after another, with the very same tensor.
    """

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> PackedWeight:
        """Pack one linear.

        Args:
            weight: W [out, in], fp32; left as it is.
            hessian: H [in, in], fp32, 2 X^T X / tokens of the inputs X; left as it is. None only
                for tiers that need no data.

        Raises:
            DataError: the Hessian is none: wrong shape, NaN, not symmetric, not invertible.
        """
        ...
