"""ARB-RC: signs with row and column scales."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.quantizer.base import (
    SCALE_BITS,
    TierConfig,
    bits_with_scales,
    check_block,
    check_damping,
)


@dataclass(frozen=True)
class ArbRcTier(TierConfig):
    """Alternating refined binarization with row and column scales (ARB-LLM, ICLR 2025)."""

    method: ClassVar[str] = "arb_rc"
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128  # columns that share a row's scales
    true_sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block(self.block)
        check_damping(self.damping)

    @property
    def sees_packed_groups(self) -> bool:
        return self.true_sequential

    @property
    def least_bits(self) -> float:
        return bits_with_scales(1, SCALE_BITS, self.block)
