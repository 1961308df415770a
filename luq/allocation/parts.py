"""A tier for each part of a model: what the plans with a budget choose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from luq.allocation.allocations import Allocation
from luq.allocation.evidence import Evidence, Part
from luq.allocation.knapsack import Option
from luq.config import AllocationConfig
from luq.models.families import fused_groups


@dataclass(frozen=True)
class Parts:
    """The parts of a model, in order, and the tiers that each may get."""

    parts: list[Part]
    tiers: list[str]
    evidence: Evidence
    header_bytes: int  # of all files, where sizes of parts are without them

    @staticmethod
    def of(config: AllocationConfig, evidence: Evidence) -> "Parts":
        """The parts that a config wants: layers, linears, or groups of linears that are tied."""
        tiers = config.tiers or [evidence.low, evidence.high]
        layers = range(len(evidence.order))
        if config.unit == "layer":
            return Parts([Part(layer) for layer in layers], tiers, evidence, 0)
        parts: list[Part] = []
        for layer in layers:
            linears = evidence.linears(layer)
            groups = fused_groups(linears) if config.tie else [(name,) for name in linears]
            parts += [Part(layer, group) for group in groups]
        header_bytes = sum(evidence.header_size(layer, tiers) for layer in layers)
        return Parts(parts, tiers, evidence, header_bytes)

    def options(self) -> list[list[Option]]:
        """Bytes and error of each part in each tier."""
        options: list[list[Option]] = []
        for part in self.parts:
            options.append([self._option(part, tier) for tier in self.tiers])
        return options

    def _option(self, part: Part, tier: str) -> Option:
        return Option(tier, self.evidence.size(part, tier), self.evidence.error(part, tier))

    def bytes(self, chosen: Sequence[str]) -> int:
        """Bytes of all files with a tier for each part."""
        sizes = [self.evidence.size(part, tier) for part, tier in self._pairs(chosen)]
        return self.header_bytes + sum(sizes)

    def allocation(self, chosen: Sequence[str]) -> Allocation:
        """The allocation of a tier for each part."""
        if all(not part.linears for part in self.parts):
            return Allocation(tuple(chosen))
        layers: dict[int, dict[str, str]] = {}
        for part, tier in self._pairs(chosen):
            layers.setdefault(part.layer, {}).update(dict.fromkeys(part.linears, tier))
        # In the order of the layer's linears, whatever was tied.
        by_linear = [
            {name: tiers[name] for name in self.evidence.linears(layer)}
            for layer, tiers in layers.items()
        ]
        return Allocation.of_linears(by_linear)

    def _pairs(self, chosen: Sequence[str]) -> Iterator[tuple[Part, str]]:
        return zip(self.parts, chosen, strict=True)
