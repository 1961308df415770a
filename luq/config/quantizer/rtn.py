"""Round to nearest on an integer grid."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.checks import require
from luq.config.quantizer.base import (
    SCALE_BITS,
    TierConfig,
    bits_with_scales,
    check_group_size,
    check_steps,
)

WIDTHS = (2, 3, 4, 8)  # bits of a code that the integer format stores


@dataclass(frozen=True)
class RtnTier(TierConfig):
    """Round to nearest: no calibration data."""

    method: ClassVar[str] = "rtn"
    data_free: ClassVar[bool] = True
    decodes_rows: ClassVar[bool] = True
    bits: int = 4
    group_size: int = 128  # columns per group; 0: one group per row
    symmetric: bool = False
    clip_steps: int = 0  # shrink factors tried per group; 0: no clip search

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits in WIDTHS, "tier.bits", self.bits, "2, 3, 4 or 8")
        check_steps("clip_steps", self.clip_steps)
        check_group_size(self.group_size)

    @property
    def least_bits(self) -> float:
        zero_bits = 0 if self.symmetric else self.bits
        return bits_with_scales(self.bits, SCALE_BITS + zero_bits, self.group_size)
