"""Which layers get which tier."""

from dataclasses import dataclass, field

from luq import registry
from luq.config.checks import require

ERRORS = ("output_error", "kl", "delta_loss")  # of one layer in one tier


@dataclass(frozen=True)
class AllocationConfig:
    """Which layers get which tier."""

    name: str = "count"
    k: int | None = None  # count: number of low-tier layers
    entropy_max: float | None = None  # threshold: bits; every layer at or below goes low
    quantile: float | None = None  # threshold: the same as a quantile of the layers' entropies
    bits: float | None = (
        None  # budget, search: average stored bits per weight of the decoder linears
    )
    bytes: str | None = None  # budget, search: size of the whole checkpoint, as in 2.5GB
    tiers: list[str] = field(
        default_factory=list
    )  # budget, search: tiers to choose from, if not low and high
    error: str = "output_error"  # budget with more than two tiers, search: the error to make small
    drop: float | None = (
        None  # quality: points of the selection score below the high-tier model's that are allowed
    )
    swaps: int = 0  # search: how many exchanges to try on the selection split
    samples: int | None = (
        None  # quality, search: units per benchmark of the selection split; null: all
    )

    def __post_init__(self) -> None:
        registry.check("plan", self.name)
        if self.name == "count":
            require(
                self.k is not None and self.k >= 0,
                "allocation.k",
                self.k,
                "a number of layers, 0 or more",
            )
        if self.name == "threshold":
            one = (self.entropy_max is None) != (self.quantile is None)
            given = f"entropy_max={self.entropy_max}, quantile={self.quantile}"
            require(
                one,
                "allocation",
                given,
                "exactly one of allocation.entropy_max (bits) and allocation.quantile",
            )
        if self.name in ("budget", "search"):
            one = (self.bits is None) != (self.bytes is None)
            given = f"bits={self.bits}, bytes={self.bytes}"
            require(
                one,
                "allocation",
                given,
                "exactly one of allocation.bits (stored, per weight) and allocation.bytes",
            )
        if self.name == "quality":
            require(
                self.drop is not None and self.drop >= 0,
                "allocation.drop",
                self.drop,
                "0 or more points",
            )
        if self.quantile is not None:
            require(0 <= self.quantile <= 1, "allocation.quantile", self.quantile, "in [0, 1]")
        require(self.error in ERRORS, "allocation.error", self.error, f"one of {', '.join(ERRORS)}")
        require(self.swaps >= 0, "allocation.swaps", self.swaps, "0 or more")
        require(
            self.samples is None or self.samples >= 1,
            "allocation.samples",
            self.samples,
            "at least 1, or null for all",
        )
