"""The tiers of one decoder layer's linears."""

from collections.abc import Mapping
from dataclasses import dataclass

from luq.config.quantizer.base import TierConfig


@dataclass(frozen=True)
class LinearTier:
    """A linear, by its name within the layer, and its tier."""

    linear: str
    tier: TierConfig


@dataclass(frozen=True)
class LayerTiers:
    """How the linears of a layer are stored: in one tier, but for those that are named.

    A layer all in one tier has no `others`, however it was asked for: `of` sees to that.
    """

    tier: TierConfig
    others: tuple[LinearTier, ...] = ()  # by name

    @staticmethod
    def of(tier: TierConfig, linear_tiers: Mapping[str, TierConfig]) -> "LayerTiers":
        """The tiers of a layer, without those among `linear_tiers` that are the layer's own."""
        different: list[LinearTier] = []
        for name, linear_tier in sorted(linear_tiers.items()):
            if linear_tier != tier:
                different.append(LinearTier(name, linear_tier))
        return LayerTiers(tier, tuple(different))

    def of_linear(self, name: str) -> TierConfig:
        """The tier of a linear."""
        for entry in self.others:
            if entry.linear == name:
                return entry.tier
        return self.tier

    @property
    def distinct(self) -> tuple[TierConfig, ...]:
        """Each tier that occurs, once."""
        return tuple(dict.fromkeys((self.tier, *(entry.tier for entry in self.others))))

    @property
    def data_free(self) -> bool:
        """Whether no linear needs calibration data."""
        return all(tier.data_free for tier in self.distinct)

    @property
    def is_exact(self) -> bool:
        """Whether no linear loses anything."""
        return all(tier.is_exact for tier in self.distinct)

    @property
    def sees_packed_groups(self) -> bool:
        """Whether the layer is quantized group by group: if one of its tiers wants it so."""
        return any(tier.sees_packed_groups for tier in self.distinct)
