"""An allocation: which tier each layer, or each of its linears, gets. Plain data."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple


class LinearTier(NamedTuple):
    """A linear that is in another tier than most of its layer."""

    layer: int
    linear: str  # its name within the layer, as in `mlp.down_proj`
    tier: str


@dataclass(frozen=True)
class Allocation:
    """Layer -> tier name, and the linears that are in another tier than most of their layer.

    Allocation(("gptq4", "billm", "billm"))      # by hand
    Allocation.of_linears([{"mlp.up_proj": "trellis2", "mlp.down_proj": "trellis3"}])
    str(Allocation(("gptq4", "billm", "billm"))) # "0:gptq4 1-2:billm"
    """

    tiers: tuple[str, ...]
    others: tuple[LinearTier, ...] = ()

    @staticmethod
    def of_linears(layers: Sequence[Mapping[str, str]]) -> "Allocation":
        """The allocation of a tier for each linear.

        Args:
            layers: Of each layer the tiers by linear. The layer's own is that of most linears; of
                as many, that of the earlier one.
        """
        tiers: list[str] = []
        linear_tiers: list[LinearTier] = []
        for index, by_linear in enumerate(layers):
            usual = Counter(by_linear.values()).most_common(1)[0][0]
            tiers.append(usual)
            for linear, tier in by_linear.items():
                if tier != usual:
                    linear_tiers.append(LinearTier(index, linear, tier))
        return Allocation(tuple(tiers), tuple(linear_tiers))

    def __str__(self) -> str:
        return " ".join(f"{span}:{tiers}" for span, tiers in runs(self._layers()))

    def _layers(self) -> Iterator[str]:
        """Each layer's tiers in words: `trellis2,o+down=trellis3`."""
        for index, tier in enumerate(self.tiers):
            linears: dict[str, list[str]] = {}  # by tier
            for linear, linear_tier in self.others_of(index).items():
                linears.setdefault(linear_tier, []).append(_short(linear))
            parts = [f"{'+'.join(names)}={linear_tier}" for linear_tier, names in linears.items()]
            yield ",".join([tier, *parts])

    def others_of(self, layer: int) -> dict[str, str]:
        """Linear -> tier, of a layer's linears that are not in the layer's own."""
        return {entry.linear: entry.tier for entry in self.others if entry.layer == layer}

    def tier_of(self, layer: int, linear: str) -> str:
        """The tier of one linear."""
        return self.others_of(layer).get(linear, self.tiers[layer])

    def names(self) -> set[str]:
        """The tiers that occur."""
        return {*self.tiers, *(entry.tier for entry in self.others)}

    def count(self, tier: str) -> int:
        """Layers of which all linears are in a tier."""
        mixed = {entry.layer for entry in self.others}
        return sum(name == tier and layer not in mixed for layer, name in enumerate(self.tiers))

    def replace(self, changes: Mapping[int, str]) -> "Allocation":
        """The same allocation with some layers wholly in other tiers."""
        tiers = list(self.tiers)
        for layer, tier in changes.items():
            tiers[layer] = tier
        unchanged = tuple(entry for entry in self.others if entry.layer not in changes)
        return Allocation(tuple(tiers), unchanged)


def _short(linear: str) -> str:
    """What people call a linear: `down` for `mlp.down_proj`."""
    return linear.rpartition(".")[2].removesuffix("_proj")


def runs(layers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Spans of equal neighbours, as `3` or `3-7`, and what they are."""
    first = 0
    for tiers, run in groupby(layers):
        last = first + len(list(run)) - 1
        yield (f"{first}" if first == last else f"{first}-{last}"), tiers
        first = last + 1
