"""Trellis codes."""

import math
from dataclasses import dataclass
from typing import ClassVar

from luq.config.checks import require
from luq.config.quantizer.base import TierConfig, check_damping

MOST_BITS = 4
STEPS = 4  # of a bit: codes have 1, 1.25, 1.5 ... bits on average
LARGEST_WINDOW = 16  # bits of the longest states that the format has


@dataclass(frozen=True)
class TrellisTier(TierConfig):
    """Codes as a path through a trellis, with weights and Hessian rotated."""

    method: ClassVar[str] = "trellis"
    bits: float = 4.0  # of a weight, on average: a multiple of 1/4
    window: int = 12  # bits that a weight depends on; each one more takes twice the time
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    true_sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        is_step = 1 <= self.bits <= MOST_BITS and float(STEPS * self.bits).is_integer()
        require(is_step, "tier.bits", self.bits, f"a multiple of 1/{STEPS} in [1, {MOST_BITS}]")
        object.__setattr__(self, "bits", float(self.bits))  # 2 and 2.0 have the same key
        least = math.ceil(self.bits) + 4
        fits = least <= self.window <= LARGEST_WINDOW
        require(fits, "tier.window", self.window, f"in [bits + 4, {LARGEST_WINDOW}]")
        check_damping(self.damping)

    @property
    def sees_packed_groups(self) -> bool:
        return self.true_sequential

    @property
    def least_bits(self) -> float:
        return self.bits
