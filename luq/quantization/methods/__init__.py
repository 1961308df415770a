"""How codes are found: one method a file, each for the tier config of the same name.

A method takes a weight and the Hessian of its inputs and gives a packed weight. It is pure and
deterministic: what is not in the packed buffers does not exist.
"""

from collections.abc import Callable
from typing import Any

from luq.config import (
    ArbRcTier,
    BillmTier,
    Float16Tier,
    GgufTier,
    GptqTier,
    OwnTier,
    RtnTier,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.quantization.methods.arb_rc import ArbRc
from luq.quantization.methods.billm import Billm
from luq.quantization.methods.float16 import Float16
from luq.quantization.methods.gguf import Gguf
from luq.quantization.methods.gptq import Gptq
from luq.quantization.methods.own import OwnQuantizer
from luq.quantization.methods.quantizer import Quantizer
from luq.quantization.methods.rtn import Rtn
from luq.quantization.methods.ternary import Ternary
from luq.quantization.methods.trellis import Trellis

__all__ = ["QUANTIZERS", "Quantizer", "make_quantizer"]

# Any: each class is made of a tier of the class beside it, which a dict's type cannot say.
QUANTIZERS: dict[type[TierConfig], Callable[[Any], Quantizer]] = {
    Float16Tier: Float16,
    RtnTier: Rtn,
    GptqTier: Gptq,
    TernaryTier: Ternary,
    ArbRcTier: ArbRc,
    BillmTier: Billm,
    TrellisTier: Trellis,
    GgufTier: Gguf,
}


def make_quantizer(tier: TierConfig) -> Quantizer:
    """The quantizer of a tier."""
    if isinstance(tier, OwnTier):
        return OwnQuantizer(tier)
    return QUANTIZERS[type(tier)](tier)
