"""BiLLM's binary codes."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.quantizer.base import (
    TierConfig,
    bits_with_scales,
    check_block,
    check_damping,
)


@dataclass(frozen=True)
class BillmTier(TierConfig):
    """Binarization with salient columns (Huang et al., ICML 2024)."""

    method: ClassVar[str] = "billm"
    act_order: bool = False  # columns of large activations first; not where faithful
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128  # columns that share their four values
    true_sequential: bool = True
    faithful: bool = False  # as the released code does it

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block(self.block)
        check_damping(self.damping)

    @property
    def sees_packed_groups(self) -> bool:
        return self.true_sequential

    @property
    def least_bits(self) -> float:
        # a sign, and a flag or a second sign; seven bytes of means and scales
        return bits_with_scales(2, 7 * 8, self.block)
