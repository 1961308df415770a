"""What every method is for those who call it."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from luq.formats.base import PackedWeight


@runtime_checkable
class Quantizer(Protocol):
    """A weight and the Hessian of its inputs -> what is stored."""

    def quantize(self, weight: Tensor, hessian: Tensor | None) -> PackedWeight:
        """Pack one linear.

        Args:
            weight: fp32 [out, in].
            hessian: fp32 [in, in], 2 X^T X / tokens of the inputs X; None only for tiers that need
                no data.

        Raises:
            DataError: the Hessian is none: wrong shape, NaN, not symmetric, not invertible.
            ConfigError: the columns do not fit the tier's groups or blocks.
        """
        ...
