"""GPTQ on an integer grid."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.checks import require
from luq.config.quantizer.base import (
    SCALE_BITS,
    TierConfig,
    bits_with_scales,
    check_block,
    check_damping,
    check_group_size,
    check_steps,
)
from luq.config.quantizer.rtn import WIDTHS


@dataclass(frozen=True)
class GptqTier(TierConfig):
    """Column by column with error feedback (Frantar et al., ICLR 2023)."""

    method: ClassVar[str] = "gptq"
    decodes_rows: ClassVar[bool] = True
    bits: int = 4
    group_size: int = 128  # columns per group; 0: one group per row
    symmetric: bool = False
    act_order: bool = False  # columns of large activations first
    static_groups: bool = False  # grids are fitted before the sweep, and not on its way
    clip_steps: int = 0  # shrink factors tried per group; 0: no clip search
    clip_root: bool = False  # search with the root of the columns' importance as well
    descent: int = 0  # passes of coordinate descent over the codes after the sweep
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128  # columns whose errors reach the later ones at once
    true_sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits in WIDTHS, "tier.bits", self.bits, "2, 3, 4 or 8")
        check_steps("clip_steps", self.clip_steps)
        searches = self.clip_steps > 0 or not self.clip_root
        allowed = "false, unless tier.clip_steps is above 0"
        require(searches, "tier.clip_root", self.clip_root, allowed)
        check_steps("descent", self.descent)
        check_group_size(self.group_size)
        check_block(self.block)
        check_damping(self.damping)

    @property
    def sees_packed_groups(self) -> bool:
        return self.true_sequential

    @property
    def least_bits(self) -> float:
        zero_bits = 0 if self.symmetric else self.bits
        return bits_with_scales(self.bits, SCALE_BITS + zero_bits, self.group_size)
