"""Plans: which tier each layer gets.

A plan is a function of the config and of `Evidence`, through which it asks for what it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from luq.allocation import knapsack
from luq.allocation.allocations import Allocation
from luq.allocation.reports import PlanReport, SelectionPoint, Swap
from luq.config import AllocationConfig
from luq.errors import ConfigError


@dataclass(frozen=True)
class Chosen:
    """A plan's allocation, and what the plan saw on the way."""

    allocation: Allocation
    report: PlanReport = field(default_factory=PlanReport)


class Selection(NamedTuple):
    """Score of an allocation on the selection split, in percent, with its standard error and n."""

    score: float
    stderr: float
    n: int


class Evidence(Protocol):
    """What a plan may ask; each question can cost time, so a plan asks only what it needs."""

    low: str  # name of the low tier
    high: str  # name of the high tier
    margin: int  # bytes that the real files of a plan took more than `size` said

    @property
    def order(self) -> list[int]:
        """The layers, most compressible first."""
        ...

    def entropies(self) -> list[float]:
        """Bits per layer."""
        ...

    def size(self, layer: int, tier: str) -> int:
        """Bytes of a layer's file in a tier."""
        ...

    def error(self, layer: int, tier: str) -> float:
        """Measured error of one layer in a tier, all others in 16 bit."""
        ...

    def select(self, allocation: Allocation) -> Selection:
        """Score on questions of the selection split, never of the report split."""
        ...

    def divergence(self, allocation: Allocation) -> float:
        """KL to the 16-bit model on the selection split, in nats per answer token."""
        ...

    def rest_bytes(self) -> int:
        """Bytes of everything that is not a decoder linear."""
        ...

    def weights(self) -> int:
        """Number of weights in the decoder linears."""
        ...


Plan = Callable[[AllocationConfig, Evidence], Chosen]


def prefix(evidence: Evidence, k: int) -> Allocation:
    """The first k layers of the order low, the others high."""
    tiers = [evidence.high] * len(evidence.order)
    for layer in evidence.order[:k]:
        tiers[layer] = evidence.low
    return Allocation(tuple(tiers))


def uniform(config: AllocationConfig, evidence: Evidence) -> Chosen:
    """Every layer in the high tier."""
    return Chosen(prefix(evidence, 0))


def count(config: AllocationConfig, evidence: Evidence) -> Chosen:
    """The first k layers of the order go low."""
    k = config.k or 0
    layers = len(evidence.order)
    if k > layers:
        raise ConfigError(
            f"allocation.k={k} is not possible: the model has {layers} decoder layers"
        )
    return Chosen(prefix(evidence, k))


def threshold(config: AllocationConfig, evidence: Evidence) -> Chosen:
    """Every layer whose entropy is at most the threshold goes low.

    The threshold is in bits, or a quantile of the layers' entropies.
    """
    entropies = evidence.entropies()
    limit = config.entropy_max
    if limit is None:
        limit = float(np.quantile(entropies, config.quantile or 0.0))
    elif not min(entropies) <= limit <= max(entropies):
        raise ConfigError(
            f"allocation.entropy_max={limit} lies outside the layers' entropies, "
            f"{min(entropies):.3f} to {max(entropies):.3f} bits: no layer or every layer would go "
            "low. Use allocation=uniform or allocation=count for that"
        )
    tiers = [evidence.low if entropy <= limit else evidence.high for entropy in entropies]
    return Chosen(Allocation(tuple(tiers)), PlanReport(entropy_max=limit))


class Budget(NamedTuple):
    """Bytes that the decoder linears may take, and the setting that says so."""

    bytes: int
    setting: str


def linears_budget(config: AllocationConfig, evidence: Evidence) -> Budget:
    """The budget of a config that names one, in bits per weight or in bytes of the checkpoint."""
    if config.bytes is not None:
        checkpoint_bytes = knapsack.parse_bytes(config.bytes)
        available = checkpoint_bytes - evidence.rest_bytes()
        return Budget(available - evidence.margin, f"allocation.bytes={config.bytes}")
    available = int((config.bits or 0.0) * evidence.weights() / 8)
    return Budget(available - evidence.margin, f"allocation.bits={config.bits}")


def linears_bytes(allocation: Allocation, evidence: Evidence) -> int:
    """Bytes of all layers' files in an allocation."""
    return sum(evidence.size(layer, tier) for layer, tier in enumerate(allocation.tiers))


def _too_small(budget: Budget, least_bytes: int, evidence: Evidence) -> ConfigError:
    """The error for a budget that not even the smallest plan keeps."""
    bits = 8 * least_bytes / evidence.weights()
    checkpoint_bytes = least_bytes + evidence.rest_bytes()
    return ConfigError(
        f"{budget.setting} is not possible: the smallest plan has {bits:.3f} stored bits per "
        f"weight, and the whole checkpoint then takes {checkpoint_bytes / 1e6:.2f} MB"
    )


def budget(config: AllocationConfig, evidence: Evidence) -> Chosen:
    """The best plan within a budget of stored bytes.

    Without `tiers` in the config: along the order, as few layers low as fit. With them: a tier of
    these for each layer so that the sum of the measured errors is the least.
    """
    allowed = linears_budget(config, evidence)
    if config.tiers:
        return _least_error(config.tiers, evidence, allowed)
    return _fewest_low(evidence, allowed)


def _fewest_low(evidence: Evidence, allowed: Budget) -> Chosen:
    """As few layers low, along the order, as keep a budget."""
    layers = len(evidence.order)
    for k in range(layers + 1):
        allocation = prefix(evidence, k)
        total = linears_bytes(allocation, evidence)
        if total <= allowed.bytes:
            return Chosen(allocation, PlanReport(budget_bytes=allowed.bytes, bytes=total))
    raise _too_small(allowed, linears_bytes(prefix(evidence, layers), evidence), evidence)


def _least_error(tiers: list[str], evidence: Evidence, allowed: Budget) -> Chosen:
    """A tier of `tiers` for each layer: the least sum of errors that keeps a budget."""
    options: list[list[knapsack.Option]] = []
    for layer in range(len(evidence.order)):
        options.append(
            [
                knapsack.Option(tier, evidence.size(layer, tier), evidence.error(layer, tier))
                for tier in tiers
            ]
        )
    least_bytes = sum(min(option.bytes for option in layer_options) for layer_options in options)
    if least_bytes > allowed.bytes:
        raise _too_small(allowed, least_bytes, evidence)
    solution = knapsack.solve(options, allowed.bytes)
    report = PlanReport(
        budget_bytes=allowed.bytes,
        bytes=sum(option.bytes for option in solution),
        error=sum(option.error for option in solution),
    )
    return Chosen(Allocation(tuple(option.tier for option in solution)), report)


def quality(config: AllocationConfig, evidence: Evidence) -> Chosen:
    """The largest k whose selection score is at most `drop` points below the high-tier model's.

    Every k is scored, since scores need not fall one by one; where they rise again is reported.
    """
    points: list[SelectionPoint] = []
    for k in range(len(evidence.order) + 1):
        selection = evidence.select(prefix(evidence, k))
        points.append(SelectionPoint(k, selection.score, selection.stderr, selection.n))
    least_score = points[0].score - (config.drop or 0.0)
    largest_k = max(point.k for point in points if point.score >= least_score)
    rises = [after.k for before, after in pairwise(points) if after.score > before.score]
    return Chosen(prefix(evidence, largest_k), PlanReport(points=points, not_monotone_at=rises))


def search(config: AllocationConfig, evidence: Evidence) -> Chosen:
    """The plan of least measured error within the budget, then better by swaps.

    A swap exchanges the tiers of two layers. It stays if the plan keeps the budget and the KL to
    the 16-bit model's answers on the selection split falls. Pairs whose errors are nearest to
    paying off come first; `swaps` of them are tried.
    """
    allowed = linears_budget(config, evidence)
    tiers = config.tiers or [evidence.low, evidence.high]
    start = _least_error(tiers, evidence, allowed)
    if config.swaps == 0:
        return start
    best = start.allocation
    kl_before_swaps = evidence.divergence(best)
    best_kl = kl_before_swaps
    measured = {best}
    swaps: list[Swap] = []
    while len(swaps) < config.swaps:
        candidate = _most_promising_swap(best, measured, evidence, allowed.bytes)
        if candidate is None:
            break
        measured.add(candidate)
        candidate_kl = evidence.divergence(candidate)
        is_better = candidate_kl < best_kl
        swaps.append(Swap(str(candidate), candidate_kl, is_better))
        if is_better:
            best = candidate
            best_kl = candidate_kl
    report = replace(
        start.report,
        bytes=linears_bytes(best, evidence),
        kl_before_swaps=kl_before_swaps,
        kl=best_kl,
        swaps=swaps,
    )
    return Chosen(best, report)


def _most_promising_swap(
    allocation: Allocation, measured: set[Allocation], evidence: Evidence, limit: int
) -> Allocation | None:
    """The exchange of two layers' tiers that lowers the sum of errors most, or raises it least.

    Args:
        allocation: What to start from.
        measured: Allocations that are not wanted again.
        evidence: Gives sizes and errors.
        limit: Bytes that the decoder linears may take.

    Returns:
        The allocation after the swap; None if no new one keeps the limit. Ties go by tier names.
    """
    candidates: list[tuple[float, tuple[str, ...]]] = []
    tiers = allocation.tiers
    for i in range(len(tiers)):
        for j in range(i):
            swapped = allocation.replace({i: tiers[j], j: tiers[i]})
            # Two layers in one tier give the allocation itself, which was measured.
            if swapped in measured or linears_bytes(swapped, evidence) > limit:
                continue
            gained = evidence.error(i, tiers[j]) + evidence.error(j, tiers[i])
            change = gained - evidence.error(i, tiers[i]) - evidence.error(j, tiers[j])
            candidates.append((change, swapped.tiers))
    if not candidates:
        return None
    _, best_tiers = min(candidates)
    return Allocation(best_tiers)


PLANS: dict[str, Plan] = {
    "uniform": uniform,
    "count": count,
    "threshold": threshold,
    "budget": budget,
    "quality": quality,
    "search": search,
}


def make(config: AllocationConfig, evidence: Evidence) -> Chosen:
    """The allocation of the plan that a config names."""
    return PLANS[config.name](config, evidence)
