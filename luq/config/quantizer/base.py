"""What all tiers have in common: how a layer is stored, as a method and its parameters."""

from dataclasses import dataclass, fields
from typing import ClassVar

from luq.config.checks import LARGEST_COUNT, require, require_between, require_count

ITSELF = "tier"  # what a tier calls itself in an error: it does not know its name in the table

SCALE_BITS = 16  # a scale is an fp16 number
LARGEST_STEPS = 10_000  # of a search: more would not end


@dataclass(frozen=True)
class TierConfig:
    """How a layer is stored. Each method has a subclass with exactly its own parameters."""

    method: ClassVar[str]
    data_free: ClassVar[bool] = False  # needs no calibration data
    is_exact: ClassVar[bool] = False  # loses nothing, so that there is nothing to refine
    decodes_rows: ClassVar[bool] = False  # single rows are decoded alone, as embeddings need it

    @property
    def sees_packed_groups(self) -> bool:
        """Whether a group of linears is quantized for what the packed groups before it give."""
        return False

    def __post_init__(self) -> None:
        """A ConfigError for a parameter that is of another type than its default.

        Python takes True for 1, and 4.0 for 4: what is stored would not be what is written.
        """
        for entry in fields(self):
            value = getattr(self, entry.name)
            kind = type(entry.default)
            is_whole_for_float = kind is float and type(value) is int
            fits = type(value) is kind or is_whole_for_float
            require(fits, f"{ITSELF}.{entry.name}", value, f"of type {kind.__name__}")

    @property
    def least_bits(self) -> float:
        """Bits per weight that its files surely take, known before anything is quantized."""
        return 0.0

    def refusal(self, columns: int) -> str | None:
        """Why the tier does not take a linear with rows of so many weights, as the end of a
        sentence on it; None: it does.
        """
        return None


def check_damping(damping: float) -> None:
    """The share of the Hessian's mean diagonal that is added to its diagonal; NaN is none."""
    require(0 <= damping <= 1, "tier.damping", damping, "in [0, 1]")


def check_steps(name: str, steps: int) -> None:
    """A ConfigError unless a search takes so many steps."""
    allowed = "0 or more" if steps < 0 else f"at most {LARGEST_STEPS}"
    require_between(f"tier.{name}", steps, 0, LARGEST_STEPS, allowed)


def check_block(block: int) -> None:
    """Columns that are worked on together."""
    require_count("tier.block", block, 1)


def check_group_size(group_size: int) -> None:
    """Columns that share a scale."""
    allowed = "0 (one group per row), or at least 1"
    require_between("tier.group_size", group_size, 0, LARGEST_COUNT, allowed)


def bits_with_scales(code_bits: float, number_bits: int, group_size: int) -> float:
    """Bits per weight of codes with `number_bits` of scales and zeros per row and group.

    Of one group per row (size 0) the numbers are left out: how many columns share them is not
    known here.
    """
    return code_bits + (number_bits / group_size if group_size else 0.0)


def columns_per_group(columns: int, group_size: int) -> int:
    """Columns per group of a row, 0 standing for all; the last group may have fewer."""
    return min(group_size or columns, columns)
