"""A quantizer of the user's own: what it gives is checked, since it is written to a file."""

from jaxtyping import Float
from torch import Tensor

from luq.config import OwnTier
from luq.errors import ConfigError
from luq.formats.base import PackedWeight
from luq.formats.known import FORMATS
from luq.quantization.methods.quantizer import Quantizer


class OwnQuantizer:
    """Packs as the quantizer of a tier outside of the project does.

    Raises:
        ConfigError: the tier's `make_quantizer()` gives no quantizer.
    """

    def __init__(self, tier: OwnTier) -> None:
        self.path = tier.path
        quantizer = tier.imported.make_quantizer()  # type: ignore[attr-defined]  # checked
        if not isinstance(quantizer, Quantizer):
            raise ConfigError(
                f"make_quantizer() of {self.path} gives {type(quantizer).__name__}, which has no "
                "quantize(weight, hessian)"
            )
        self.quantizer = quantizer

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> PackedWeight:
        """As in `Quantizer`.

        Raises:
            ConfigError: what the quantizer gives is not this linear in a known format.
        """
        packed = self.quantizer.quantize(weight, hessian)
        if not isinstance(packed, PackedWeight):
            problem = f"gives {type(packed).__name__}, it must be a PackedWeight"
        elif packed.shape != tuple(weight.shape):
            problem = f"gives a weight of shape {list(packed.shape)} for {list(weight.shape)}"
        elif FORMATS.get(packed.format) is not type(packed):
            problem = (
                f"gives the format {packed.format!r}: register it (luq.formats.known.register)"
            )
        else:
            return packed
        raise ConfigError(f"the quantizer of {self.path} {problem}")
