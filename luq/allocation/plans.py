"""Plans: which layers of an order get the low tier. An `Allocation` is plain data."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from luq.config import AllocationConfig
from luq.errors import ConfigError


@dataclass(frozen=True)
class Allocation:
    """Layer -> tier name.

    Allocation(("gptq4", "billm", "billm"))      # by hand
    count(config, order, entropies)              # the first k layers of an order go low
    threshold(config, order, entropies)          # every layer whose entropy is at most a threshold goes low
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


def low_layers(allocation: AllocationConfig, order: list[int], entropies: list[float]) -> list[int]:
    """The layers that the plan of `allocation` sends to the low tier."""
    from luq import registry

    return registry.load("plan", allocation.name)(allocation, order, entropies)


def allocate(plan: AllocationConfig, order: list[int], entropies: list[float], low: str, high: str) -> Allocation:
    """The allocation of a plan over tiers `low` and `high`."""
    chosen = set(low_layers(plan, order, entropies))
    return Allocation(tuple(low if i in chosen else high for i in range(len(entropies))))


def uniform(config: AllocationConfig, order: list[int], entropies: list[float]) -> list[int]:
    """No layer goes low."""
    return []


def count(config: AllocationConfig, order: list[int], entropies: list[float]) -> list[int]:
    """The first k layers of the order."""
    k = config.k or 0
    if k > len(order):
        raise ConfigError(f"allocation.k={k} is not possible: the model has {len(order)} decoder layers")
    return order[:k]


def threshold(config: AllocationConfig, order: list[int], entropies: list[float]) -> list[int]:
    """Every layer whose entropy is at most the threshold, in bits or as a quantile of the layers' entropies."""
    edge = config.entropy_max
    if edge is None:
        edge = float(np.quantile(entropies, config.quantile or 0.0))
    elif not min(entropies) <= edge <= max(entropies):
        raise ConfigError(
            f"allocation.entropy_max={edge} lies outside the layers' entropies, {min(entropies):.3f} to {max(entropies):.3f} "
            "bits: no layer or every layer would go low. Use allocation=uniform or allocation=count for that"
        )
    return [i for i in range(len(entropies)) if entropies[i] <= edge]
