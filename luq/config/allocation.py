"""Which layers get which tier."""

from dataclasses import dataclass, field

from luq.config.checks import (
    require,
    require_above,
    require_between,
    require_count,
    require_distinct,
)
from luq.errors import ConfigError, unknown

# Each is a function in luq/allocation/plans.py.
PLANS = ("uniform", "count", "threshold", "budget", "quality", "search")
ERRORS = ("output_error", "kl", "delta_loss", "fisher")  # of one layer or linear in one tier
UNITS = ("layer", "linear")
MOST_BITS = 32  # stored, per weight: no tier reaches it


def _require_bits(key: str, bits: float | None) -> None:
    """A ConfigError unless a budget is a possible number of stored bits, or is not given."""
    require_between(key, bits, 0, MOST_BITS, f"stored bits in [0, {MOST_BITS}]")


@dataclass(frozen=True)
class VisionBudget:
    """Tiers to choose from for each block of the vision tower, within a budget.

    Without both fields nothing is chosen: the tower is in `quantizer.vision`, or in 16 bit.
    """

    # names of tiers
    tiers: list[str] = field(default_factory=list)
    # average stored bits per weight of the tower's linears
    bits: float | None = None

    @property
    def is_given(self) -> bool:
        """Whether tiers are to be chosen."""
        return self.bits is not None

    def __post_init__(self) -> None:
        require_distinct("allocation.vision.tiers", self.tiers)
        _require_bits("allocation.vision.bits", self.bits)
        require(
            bool(self.tiers) == self.is_given,
            "allocation.vision",
            f"tiers={self.tiers}, bits={self.bits}",
            "both of allocation.vision.tiers and allocation.vision.bits (stored, per weight), or "
            "none of them",
        )


@dataclass(frozen=True)
class AllocationConfig:
    """Which layers get which tier. The comments say to which plans a field belongs."""

    name: str = "count"
    # count: number of low-tier layers
    k: int | None = None
    # threshold: bits; every layer at or below goes low
    entropy_max: float | None = None
    # threshold: the same as a quantile of the layers' entropies
    quantile: float | None = None
    # budget, search: average stored bits per weight of the decoder linears
    bits: float | None = None
    # budget, search: size of the whole checkpoint, as in 2.5GB
    bytes: str | None = None
    # budget, search: tiers to choose from; empty for low and high
    tiers: list[str] = field(default_factory=list)
    # budget with `tiers`, search: what gets a tier of its own, a layer or a linear
    unit: str = "layer"
    # the same with unit=linear: q, k and v together, and gate and up, which servers fuse
    tie: bool = False
    # budget with `tiers`, search: the error to make small
    error: str = "fisher"
    # quality: points that the selection score may lie below the high-tier model's
    drop: float | None = None
    # search: how many exchanges to try on the selection split
    swaps: int = 0
    # quality, search: units per benchmark of the selection split; None for all
    samples: int | None = None
    # with any plan: tiers for the blocks of the vision tower
    vision: VisionBudget = field(default_factory=VisionBudget)

    def __post_init__(self) -> None:
        if self.name not in PLANS:
            raise unknown("plan", self.name, PLANS)
        self._require_own_fields()
        self._require_ranges()
        require(self.error in ERRORS, "allocation.error", self.error, f"one of {', '.join(ERRORS)}")
        require_distinct("allocation.tiers", self.tiers)
        require(self.unit in UNITS, "allocation.unit", self.unit, f"one of {', '.join(UNITS)}")
        if self.unit == "linear":
            self._require_linear_fields()

    def _require_ranges(self) -> None:
        """A ConfigError if a number is out of its range, whether the plan reads it or not."""
        require_count("allocation.k", self.k, 0)
        # Above all entropies is for the plan to say, which knows them.
        require_above("allocation.entropy_max", self.entropy_max, -1, "a finite number of bits")
        require_between("allocation.quantile", self.quantile, 0, 1, "in [0, 1]")
        _require_bits("allocation.bits", self.bits)
        require_between("allocation.drop", self.drop, 0, 100, "points in [0, 100]")
        require_count("allocation.swaps", self.swaps, 0)
        require_count("allocation.samples", self.samples, 1, "null for all")

    def _require_linear_fields(self) -> None:
        """A ConfigError if a tier for each linear cannot be chosen by the other settings."""
        if self.name == "budget" and not self.tiers:
            raise ConfigError(
                "allocation.unit=linear is not possible without allocation.tiers: a budget without "
                "tiers goes along an order of layers. Name the tiers to choose from"
            )
        if self.error == "kl":
            raise ConfigError(
                "allocation.error=kl is not possible with allocation.unit=linear: it would ask all "
                "questions anew for each linear. Use fisher, an estimate of the KL by gradients"
            )

    def _require_own_fields(self) -> None:
        """A ConfigError if a field that the plan cannot do without is missing."""
        if self.name == "count":
            require(
                self.k is not None,
                "allocation.k",
                self.k,
                "a number of layers, 0 or more",
            )
        if self.name == "threshold":
            require(
                (self.entropy_max is None) != (self.quantile is None),
                "allocation",
                f"entropy_max={self.entropy_max}, quantile={self.quantile}",
                "exactly one of allocation.entropy_max (bits) and allocation.quantile",
            )
        if self.name in ("budget", "search"):
            require(
                (self.bits is None) != (self.bytes is None),
                "allocation",
                f"bits={self.bits}, bytes={self.bytes}",
                "exactly one of allocation.bits (stored, per weight) and allocation.bytes",
            )
        if self.name == "quality":
            require(
                self.drop is not None,
                "allocation.drop",
                self.drop,
                "0 or more points",
            )
