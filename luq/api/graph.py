"""The artefacts of a loaded model: what `luq.graph.ModelGraph` is for the API."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luq.api.loaded import LoadedModel
from luq.calibration.artefacts import Calibration, calibration, own_calibration
from luq.calibration.own import own_samples
from luq.config import (
    AllocationConfig,
    CalibrationConfig,
    OrderConfig,
    ProfileConfig,
    QuantizerConfig,
    TierConfig,
)
from luq.config.named_tiers import NAMED_TIERS, named_tier, named_tiers
from luq.errors import ConfigError
from luq.graph import ModelGraph, QuestionSet
from luq.models.checkpoint import check_context

Tier = str | TierConfig | Mapping[str, Any]
Samples = str | Path | Iterable[Mapping[str, Any]] | CalibrationConfig
FLOAT = "float16"


@dataclass(frozen=True)
class GraphSettings:
    """What decides which layer gets which tier (`luq.graph.PlanSettings`)."""

    quantizer: QuantizerConfig
    allocation: AllocationConfig = field(default_factory=lambda: AllocationConfig("uniform"))
    order: OrderConfig = field(default_factory=OrderConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)


class LoadedGraph(ModelGraph):
    """The artefacts of a loaded model."""

    def __init__(self, model: LoadedModel, settings: GraphSettings, samples: Calibration | None):
        self.checkpoint = model.checkpoint
        self.config = settings
        self.samples = samples

    @property
    def calibration(self) -> Calibration:
        if self.samples is None:
            raise ConfigError(
                "a tier of this plan needs calibration samples: luq.quantize(model, plan, samples)"
            )
        return self.samples

    def selection_set(self, samples: int | None) -> QuestionSet:
        raise ConfigError("the API asks no questions of the selection split: use `luq run`")


def quantizer_of(
    low: Tier,
    high: Tier,
    propagation: str = QuantizerConfig.propagation,
    others: Sequence[Tier] = (),
) -> QuantizerConfig:
    """The named tiers, those that were given, and which of them are low and high."""
    low_name, low_tier = named_tier(low)
    high_name, high_tier = named_tier(high)
    chosen_tiers = {low_name: low_tier, high_name: high_tier, **named_tiers(others)}
    return QuantizerConfig(low_name, high_name, propagation, NAMED_TIERS | chosen_tiers)


def with_parts(
    quantizer: QuantizerConfig, parts: Mapping[str, Tier | None], candidates: Sequence[Tier] = ()
) -> QuantizerConfig:
    """A quantizer with tiers for what is no decoder linear, and candidates for the layers."""
    named = {part: named_tier(tier) for part, tier in parts.items() if tier is not None}
    part_tiers = {name: tier for name, tier in named.values()}
    tiers = quantizer.tiers | part_tiers | named_tiers(candidates)
    names: dict[str, Any] = {part: entry.name for part, entry in named.items()}
    return replace(quantizer, tiers=tiers, **names)


def calibration_of(model: LoadedModel, source: Samples) -> Calibration:
    """The calibration set that a user gave."""
    if not isinstance(source, CalibrationConfig):
        settings = CalibrationConfig(name="own", alpha=1.0)
        return own_calibration(model.checkpoint, settings, own_samples(source))
    if source.alpha < 1 and not source.is_own:
        lengths = {"calibration.sample_tokens": source.sample_tokens}
        check_context(model.checkpoint, lengths)
    return calibration(model.checkpoint, source, model.store.root)
