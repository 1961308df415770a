"""Plans: which tier each layer gets. An `Allocation` is plain data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from luq import registry
from luq.allocation import knapsack
from luq.config import AllocationConfig
from luq.errors import ConfigError


@dataclass(frozen=True)
class Allocation:
    """Layer -> tier name.

    Allocation(("gptq4", "billm", "billm"))      # by hand
    make(config, given)                          # as a plan of the registry says
    str(Allocation(("gptq4", "billm", "billm"))) # "0:gptq4 1-2:billm"
    """

    tiers: tuple[str, ...]

    def __str__(self) -> str:
        parts = []
        for tier, run in groupby(enumerate(self.tiers), key=lambda item: item[1]):
            layers = [i for i, _ in run]
            span = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
            parts.append(f"{span}:{tier}")
        return " ".join(parts)

    def count(self, tier: str) -> int:
        return self.tiers.count(tier)

    def replace(self, changes: dict[int, str]) -> "Allocation":
        """The same allocation with other tiers for some layers."""
        return Allocation(tuple(changes.get(i, tier) for i, tier in enumerate(self.tiers)))


@dataclass(frozen=True)
class Chosen:
    """A plan's allocation, and what it saw on the way (plain data for the record)."""

    allocation: Allocation
    report: dict[str, Any] = field(default_factory=dict)


class Selection(NamedTuple):
    """Score of an allocation on the selection split, in percent, with its standard error and n."""

    score: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Given:
    """What a plan may ask for. The callables cost time, and are called only by the plans that need them."""

    order: list[int]
    entropies: Callable[[], list[float]]  # bits per layer
    low: str
    high: str
    size: Callable[[int, str], int]  # bytes of a layer's file in a tier
    error: Callable[
        [int, str], float
    ]  # measured error of one layer in a tier, all others in 16 bit
    select: Callable[
        [Allocation], Selection
    ]  # questions of the selection split, never of the report split
    divergence: Callable[
        [Allocation], float
    ]  # KL to the 16-bit model on the selection split, nats per answer token
    rest_bytes: Callable[[], int]  # of everything that is not a decoder linear
    weights: Callable[[], int]  # of the decoder linears
    margin: int = 0  # bytes that the real files of a plan took more than `size` said

    def prefix(self, k: int) -> Allocation:
        """The first k layers of the order low, the others high."""
        chosen = set(self.order[:k])
        return Allocation(
            tuple(self.low if i in chosen else self.high for i in range(len(self.order)))
        )


def make(config: AllocationConfig, given: Given) -> Chosen:
    """The allocation of the plan that `config` names."""
    chosen: Chosen = registry.load("plan", config.name)(config, given)
    return chosen


def uniform(config: AllocationConfig, given: Given) -> Chosen:
    """Every layer in the high tier."""
    return Chosen(given.prefix(0))


def count(config: AllocationConfig, given: Given) -> Chosen:
    """The first k layers of the order go low."""
    k = config.k or 0
    if k > len(given.order):
        raise ConfigError(
            f"allocation.k={k} is not possible: the model has {len(given.order)} decoder layers"
        )
    return Chosen(given.prefix(k))


def threshold(config: AllocationConfig, given: Given) -> Chosen:
    """Every layer whose entropy is at most the threshold goes low, in bits or as a quantile of the layers' entropies."""
    entropies, edge = given.entropies(), config.entropy_max
    if edge is None:
        edge = float(np.quantile(entropies, config.quantile or 0.0))
    elif not min(entropies) <= edge <= max(entropies):
        raise ConfigError(
            f"allocation.entropy_max={edge} lies outside the layers' entropies, {min(entropies):.3f} to {max(entropies):.3f} "
            "bits: no layer or every layer would go low. Use allocation=uniform or allocation=count for that"
        )
    tiers = tuple(given.low if e <= edge else given.high for e in entropies)
    return Chosen(Allocation(tiers), {"entropy_max": edge})


def linears_budget(config: AllocationConfig, given: Given) -> int:
    """Bytes that the decoder linears may take."""
    if config.bits is not None:
        return int(config.bits * given.weights() / 8) - given.margin
    assert config.bytes is not None
    return knapsack.parse_bytes(config.bytes) - given.rest_bytes() - given.margin


def _check_least(config: AllocationConfig, given: Given, least: int, budget: int) -> None:
    if least > budget:
        asked = (
            f"allocation.bits={config.bits}"
            if config.bits is not None
            else f"allocation.bytes={config.bytes}"
        )
        raise ConfigError(
            f"{asked} is not possible: the smallest plan has {8 * least / given.weights():.3f} stored bits per weight, and the "
            f"whole checkpoint then takes {(least + given.rest_bytes()) / 1e6:.2f} MB"
        )


def budget(config: AllocationConfig, given: Given) -> Chosen:
    """The best plan within a budget of stored bytes.

    Two tiers: along the order, as few layers low as fit. More: the least sum of measured errors, exactly.
    """
    limit, layers = linears_budget(config, given), range(len(given.order))
    if len(config.tiers) > 2:
        return _cheapest(config, given, limit)
    for k in range(len(given.order) + 1):
        plan = given.prefix(k)
        total = sum(given.size(i, plan.tiers[i]) for i in layers)
        if total <= limit:
            return Chosen(plan, {"budget_bytes": limit, "bytes": total})
    _check_least(config, given, total, limit)
    raise AssertionError("unreachable")


def _cheapest(config: AllocationConfig, given: Given, limit: int) -> Chosen:
    tiers, layers = config.tiers or [given.low, given.high], range(len(given.order))
    options = [
        [knapsack.Option(t, given.size(i, t), given.error(i, t)) for t in tiers] for i in layers
    ]
    _check_least(config, given, sum(min(o.bytes for o in layer) for layer in options), limit)
    picked = knapsack.solve(options, limit)
    report = {
        "budget_bytes": limit,
        "bytes": sum(o.bytes for o in picked),
        "error": sum(o.error for o in picked),
    }
    return Chosen(Allocation(tuple(o.tier for o in picked)), report)


def quality(config: AllocationConfig, given: Given) -> Chosen:
    """The largest k whose selection score is at most `drop` points below the high-tier model's.

    Every k is scored, since scores need not fall one by one; where they rise again is reported.
    """
    points = [given.select(given.prefix(k)) for k in range(len(given.order) + 1)]
    drop = config.drop or 0.0
    k = max(i for i, point in enumerate(points) if point.score >= points[0].score - drop)
    rises = [i for i in range(1, len(points)) if points[i].score > points[i - 1].score]
    return Chosen(
        given.prefix(k),
        {
            "points": [{"k": i, **point._asdict()} for i, point in enumerate(points)],
            "not_monotone_at": rises,
        },
    )


def search(config: AllocationConfig, given: Given) -> Chosen:
    """The plan of least measured error within the budget, then better by swaps, measured on the selection split.

    A swap exchanges the tiers of two layers and is kept if the plan still fits and the KL to the 16-bit model's answers
    falls. Pairs whose errors are nearest to paying off come first; `swaps` of them are tried.
    """
    start = _cheapest(config, given, linears_budget(config, given))
    plan, limit = start.allocation, start.report["budget_bytes"]
    tried: list[dict[str, Any]] = []
    if config.swaps == 0:
        return start
    best = first = given.divergence(plan)
    seen = {plan}
    while len(tried) < config.swaps:
        fresh = [p for p in _neighbours(plan, given, limit) if p not in seen]
        if not fresh:
            break
        seen.add(fresh[0])
        found = given.divergence(fresh[0])
        tried.append({"allocation": str(fresh[0]), "kl": found, "kept": found < best})
        if found < best:
            plan, best = fresh[0], found
    total = sum(given.size(i, t) for i, t in enumerate(plan.tiers))
    return Chosen(
        plan, {**start.report, "bytes": total, "kl_before_swaps": first, "kl": best, "swaps": tried}
    )


def _neighbours(plan: Allocation, given: Given, limit: int) -> list[Allocation]:
    """Plans within the budget that differ by one exchange of two layers' tiers, the most promising first."""
    found = []
    for i in range(len(plan.tiers)):
        for j in range(i):
            a, b = plan.tiers[i], plan.tiers[j]
            if a == b:
                continue
            swapped = plan.replace({i: b, j: a})
            change = given.error(i, b) + given.error(j, a) - given.error(i, a) - given.error(j, b)
            if sum(given.size(at, t) for at, t in enumerate(swapped.tiers)) <= limit:
                found.append((change, swapped))
    return [swapped for _, swapped in sorted(found, key=lambda pair: (pair[0], pair[1].tiers))]
