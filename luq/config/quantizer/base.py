"""What all tiers have in common: how a layer is stored, as a method and its parameters."""

from dataclasses import dataclass
from typing import ClassVar

from luq.config.checks import require
from luq.errors import ConfigError


@dataclass(frozen=True)
class TierConfig:
    """How a layer is stored. Each method has a subclass with exactly its own parameters."""

    method: ClassVar[str]
    data_free: ClassVar[bool] = False  # needs no calibration data

    @property
    def sees_packed_groups(self) -> bool:
        """Whether a group of linears is quantized for what the packed groups before it give."""
        return False

    def check(self, columns: int) -> None:
        """A ConfigError unless a linear with so many columns can be stored so."""


def check_damping(damping: float) -> None:
    """The share of the Hessian's mean diagonal that is added to its diagonal."""
    require(0 <= damping <= 1, "tier.damping", damping, "in [0, 1]")


def check_block(block: int) -> None:
    """Columns that are worked on together."""
    require(block >= 1, "tier.block", block, "at least 1")


def check_group_size(group_size: int) -> None:
    """Columns that share a scale."""
    allowed = "0 (one group per row) or a divisor of the columns"
    require(group_size >= 0, "tier.group_size", group_size, allowed)


def columns_per_group(columns: int, group_size: int) -> int:
    """Columns per group; 0: one group per row. A ConfigError for a size that does not divide."""
    size = group_size or columns
    if columns % size:
        raise ConfigError(
            f"group size {size} does not divide the {columns} columns of a linear; choose a divisor"
        )
    return size
