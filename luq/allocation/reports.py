"""What a plan saw on its way to an allocation, as plain data for the record."""

from dataclasses import dataclass, field, replace

from luq.allocation.allocations import runs


@dataclass(frozen=True)
class SelectionPoint:
    """Score of the first k layers low on the selection split, in percent, with error and n."""

    k: int
    score: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Swap:
    """One exchange of two parts' tiers that a search tried: the KL it gave, and if it was kept."""

    allocation: str
    kl: float
    kept: bool


@dataclass(frozen=True)
class PlanReport:
    """What is None or empty did not concern the plan.

    `budget_bytes` and `bytes` are of the decoder's linears, `error` is the summed error of the
    layers or linears (of a search: before its swaps), `error_gap` what the least error of all plans
    may lie below it, None where it is the least; `linears` those that got tiers of their own in
    each layer, `entropy_max` the threshold in bits, `not_monotone_at`
    the k whose score is above that of k - 1, KL in nats per answer token.
    """

    entropy_max: float | None = None
    budget_bytes: int | None = None
    bytes: int | None = None
    error: float | None = None
    points: list[SelectionPoint] = field(default_factory=list)
    not_monotone_at: list[int] = field(default_factory=list)
    kl_before_swaps: float | None = None
    kl: float | None = None
    swaps: list[Swap] = field(default_factory=list)
    error_gap: float | None = None
    linears: list[str] = field(default_factory=list)

    def with_bytes(self, files_bytes: int) -> "PlanReport":
        """The same report with the bytes of the files that were really made."""
        return replace(self, bytes=files_bytes)


@dataclass(frozen=True)
class VisionPlan:
    """The tiers of the tower's blocks, and what they take.

    `error` is the sum of the blocks' relative errors, and `error_gap` what the least sum of all
    plans may lie below it, None where it is the least.
    """

    tiers: list[str]  # of each block, in order
    other_tier: str | None  # of linears in no block; None: there are none
    budget_bytes: int
    bytes: int  # of the tower's file
    weights: int  # of its linears
    error: float
    error_gap: float | None = None

    @property
    def bits(self) -> float:
        """Stored, per weight."""
        return 8 * self.bytes / self.weights

    def __str__(self) -> str:
        """`trellis4 (blocks 0-3) + trellis2 (blocks 4-11) at 2.67 bits`."""
        spans: dict[str, list[str]] = {}  # by tier
        for span, tier in runs(self.tiers):
            spans.setdefault(tier, []).append(span)
        places: dict[str, str] = {}
        for tier, of_tier in spans.items():
            word = "block" if self.tiers.count(tier) == 1 else "blocks"
            places[tier] = f"{word} {', '.join(of_tier)}"
        if self.other_tier is not None:
            inside = places.get(self.other_tier)
            places[self.other_tier] = "other linears" if inside is None else f"{inside} and others"
        words = [f"{tier} ({place})" for tier, place in places.items()]
        return f"{' + '.join(words)} at {self.bits:.2f} bits"
