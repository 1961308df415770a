"""Trellis codes."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.checks import require
from luq.config.quantizer.base import TierConfig, check_damping

WIDTHS = (1, 2, 3, 4)  # bits of a code
LARGEST_WINDOW = 16  # its table of 2^16 numbers is the largest that the format stores states for


@dataclass(frozen=True)
class TrellisTier(TierConfig):
    """Codes as a path through a trellis, with weights and Hessian rotated."""

    method: ClassVar[str] = "trellis"
    bits: int = 4
    window: int = 12  # bits that a weight is looked up by; each one more takes twice the time
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    true_sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits in WIDTHS, "tier.bits", self.bits, "1, 2, 3 or 4")
        fits = self.bits + 4 <= self.window <= LARGEST_WINDOW
        require(fits, "tier.window", self.window, f"in [bits + 4, {LARGEST_WINDOW}]")
        check_damping(self.damping)

    @property
    def sees_packed_groups(self) -> bool:
        return self.true_sequential

    @property
    def least_bits(self) -> float:
        return float(self.bits)
