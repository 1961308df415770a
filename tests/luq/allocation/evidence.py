"""Five layers of 100 weights in three tiers, whose score and KL are the sum of their errors."""

from collections import Counter
from dataclasses import dataclass, field

from luq.allocation.allocations import Allocation
from luq.allocation.evidence import Part, Selection

ENTROPIES = [5.0, 3.0, 4.0, 6.0, 3.5]
ORDER = [1, 4, 2, 0, 3]
SIZES = {"low": 10, "mid": 15, "high": 30}
ERRORS = {"low": [9.0, 1.0, 3.0, 2.0, 8.0], "mid": [3.0, 0.5, 2.0, 1.9, 2.0], "high": [0.0] * 5}
LINEARS = {"attn.q_proj": 0.2, "attn.k_proj": 0.2, "mlp.down_proj": 0.6}  # shares of the bytes
WEIGHT_OF = {"attn.q_proj": 0.1, "attn.k_proj": 0.7, "mlp.down_proj": 0.2}  # and of the error
REST_BYTES = 1000
WEIGHTS = 500


@dataclass
class SyntheticEvidence:
    """Answers from tables, and counts what was asked."""

    order: list[int] = field(default_factory=lambda: list(ORDER))
    low: str = "low"
    high: str = "high"
    margin: int = 0
    rest: int = REST_BYTES
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))
    errors: dict[str, list[float]] = field(default_factory=lambda: dict(ERRORS))
    score_by_k: list[float] | None = None  # instead of 100 minus the errors
    true_errors: dict[str, list[float]] | None = None  # that the KL knows, instead of `errors`
    questions: Counter[str] = field(default_factory=Counter)
    measured: list[Allocation] = field(default_factory=list)  # whose KL was asked for

    def entropies(self) -> list[float]:
        self.questions["entropies"] += 1
        return ENTROPIES

    def linears(self, layer: int) -> tuple[str, ...]:
        return tuple(LINEARS)

    def size(self, part: Part, tier: str) -> int:
        self.questions[f"size {tier}"] += 1
        share = sum(LINEARS[name] for name in part.linears) if part.linears else 1
        return int(self.sizes[tier] * share)

    def header_size(self, layer: int, tiers: list[str]) -> int:
        return 2

    def error(self, part: Part, tier: str) -> float:
        self.questions[f"error {tier}"] += 1
        error = self.errors[tier][part.layer]
        return sum(error * WEIGHT_OF[name] for name in part.linears) if part.linears else error

    def select(self, allocation: Allocation) -> Selection:
        self.questions["select"] += 1
        if self.score_by_k is not None:
            return Selection(self.score_by_k[allocation.count(self.low)], 1.0, 50)
        return Selection(100 - total_error(allocation, self.errors), 1.0, 50)

    def divergence(self, allocation: Allocation) -> float:
        self.questions["divergence"] += 1
        self.measured.append(allocation)
        return total_error(allocation, self.true_errors or self.errors)

    def rest_bytes(self) -> int:
        self.questions["rest_bytes"] += 1
        return self.rest

    def weights(self) -> int:
        self.questions["weights"] += 1
        return WEIGHTS


def total_error(allocation: Allocation, errors: dict[str, list[float]]) -> float:
    return sum(errors[tier][layer] for layer, tier in enumerate(allocation.tiers))


def total_bytes(allocation: Allocation) -> int:
    return sum(SIZES[tier] for tier in allocation.tiers)


def layers_in(allocation: Allocation, tier: str) -> set[int]:
    return {layer for layer, name in enumerate(allocation.tiers) if name == tier}
