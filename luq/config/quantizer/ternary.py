"""Ternary codes with GPTQ's error feedback."""

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


@dataclass(frozen=True)
class TernaryTier(TierConfig):
    """-1, 0 and 1 times a scale per row and group: five weights in a byte."""

    method: ClassVar[str] = "ternary"
    decodes_rows: ClassVar[bool] = True
    group_size: int = 128  # columns per group; 0: one group per row
    act_order: bool = False  # columns of large activations first
    static_groups: bool = False  # scales are fitted before the sweep, and not on its way
    clip_steps: int = 0  # shrink factors tried per group; 0: no clip search
    clip_root: bool = False  # search with the root of the columns' importance as well
    descent: int = 0  # passes of coordinate descent over the codes after the sweep
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128  # columns whose errors reach the later ones at once
    true_sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
        # five weights in a byte
        return bits_with_scales(8 / 5, SCALE_BITS, self.group_size)
