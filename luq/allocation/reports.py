"""What a plan saw on its way to an allocation, as plain data for the record."""

from dataclasses import dataclass, field, replace


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
