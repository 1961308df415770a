"""Plans: which tier each layer gets.

A plan is a function of the config and of `Evidence`, through which it asks for what it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from luq.allocation import knapsack
from luq.allocation.allocations import Allocation
from luq.allocation.evidence import Evidence, Part
from luq.allocation.parts import Parts
from luq.allocation.reports import PlanReport, SelectionPoint, Swap
from luq.config import AllocationConfig
from luq.errors import ConfigError


@dataclass(frozen=True)
class Chosen:
    """A plan's allocation, and what the plan saw on the way."""

    allocation: Allocation
    report: PlanReport = field(default_factory=PlanReport)


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


def layers_bytes(allocation: Allocation, evidence: Evidence) -> int:
    """Bytes of all layers' files, each layer wholly in one tier."""
    sizes = [evidence.size(Part(layer), tier) for layer, tier in enumerate(allocation.tiers)]
    return sum(sizes)


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
    these for each layer or linear so that the sum of the measured errors is the least.
    """
    allowed = linears_budget(config, evidence)
    if config.tiers:
        parts = Parts.of(config, evidence)
        start = _least_error(parts, allowed)
        return Chosen(parts.allocation(start.tiers), start.report)
    return _fewest_low(evidence, allowed)


def _fewest_low(evidence: Evidence, allowed: Budget) -> Chosen:
    """As few layers low, along the order, as keep a budget."""
    layers = len(evidence.order)
    for k in range(layers + 1):
        allocation = prefix(evidence, k)
        total = layers_bytes(allocation, evidence)
        if total <= allowed.bytes:
            return Chosen(allocation, PlanReport(budget_bytes=allowed.bytes, bytes=total))
    raise _too_small(allowed, layers_bytes(prefix(evidence, layers), evidence), evidence)


def _least_error(parts: Parts, allowed: Budget) -> "Start":
    """A tier for each part: the least sum of errors that keeps a budget."""
    options = parts.options()
    least_bytes = parts.header_bytes
    least_bytes += sum(min(option.bytes for option in of_part) for of_part in options)
    if least_bytes > allowed.bytes:
        raise _too_small(allowed, least_bytes, parts.evidence)
    solution = knapsack.solve(options, allowed.bytes - parts.header_bytes)
    report = PlanReport(
        budget_bytes=allowed.bytes,
        bytes=solution.bytes + parts.header_bytes,
        error=solution.error,
        error_gap=solution.gap or None,
        linears=_names(parts),
    )
    return Start(tuple(option.tier for option in solution.options), report)


class Start(NamedTuple):
    """A tier for each part, and what is said of it."""

    tiers: tuple[str, ...]
    report: PlanReport


def _names(parts: Parts) -> list[str]:
    """The linears that get tiers of their own; empty where layers do."""
    names = [name for part in parts.parts for name in part.linears]
    return list(dict.fromkeys(names))


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

    A swap exchanges the tiers of two layers, or linears. It stays if the plan keeps the budget and
    the KL to the 16-bit model's answers on the selection split falls. Pairs whose errors are
    nearest to paying off come first; `swaps` of them are tried.
    """
    allowed = linears_budget(config, evidence)
    parts = Parts.of(config, evidence)
    start = _least_error(parts, allowed)
    if config.swaps == 0:
        return Chosen(parts.allocation(start.tiers), start.report)
    best = start.tiers
    kl_before_swaps = evidence.divergence(parts.allocation(best))
    best_kl = kl_before_swaps
    measured = {best}
    swaps: list[Swap] = []
    while len(swaps) < config.swaps:
        candidate = _most_promising_swap(best, measured, parts, allowed.bytes)
        if candidate is None:
            break
        measured.add(candidate)
        allocation = parts.allocation(candidate)
        candidate_kl = evidence.divergence(allocation)
        is_better = candidate_kl < best_kl
        swaps.append(Swap(str(allocation), candidate_kl, is_better))
        if is_better:
            best = candidate
            best_kl = candidate_kl
    report = replace(
        start.report,
        bytes=parts.bytes(best),
        kl_before_swaps=kl_before_swaps,
        kl=best_kl,
        swaps=swaps,
    )
    return Chosen(parts.allocation(best), report)


def _most_promising_swap(
    tiers: tuple[str, ...], measured: set[tuple[str, ...]], parts: Parts, limit: int
) -> tuple[str, ...] | None:
    """The exchange of two parts' tiers that lowers the sum of errors most, or raises it least.

    Args:
        tiers: Of each part; what to start from.
        measured: Tiers of parts that are not wanted again.
        parts: Give sizes and errors.
        limit: Bytes that the decoder linears may take.

    Returns:
        The tiers after the swap; None if no new ones keep the limit. Ties go by tier names.
    """
    options = [{option.tier: option for option in of_part} for of_part in parts.options()]
    room = limit - parts.bytes(tiers)
    candidates: list[tuple[float, tuple[str, ...]]] = []
    for i in range(len(tiers)):
        for j in range(i):
            if tiers[i] == tiers[j]:
                continue
            before = options[i][tiers[i]], options[j][tiers[j]]
            after = options[i][tiers[j]], options[j][tiers[i]]
            added = sum(option.bytes for option in after) - sum(option.bytes for option in before)
            swapped = list(tiers)
            swapped[i], swapped[j] = tiers[j], tiers[i]
            if added > room or tuple(swapped) in measured:
                continue
            change = sum(option.error for option in after) - sum(option.error for option in before)
            candidates.append((change, tuple(swapped)))
    if not candidates:
        return None
    _, best_tiers = min(candidates)
    return best_tiers


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
