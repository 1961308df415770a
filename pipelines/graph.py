"""A run as a graph of artefacts: load -> calibrate -> profile -> allocate -> quantize -> evaluate.

Every arrow is an artefact in the store. This file only connects them: what an artefact is stands
beside the code that makes it. An allocation is a result, and packed layers depend on its value, so
the graph has two phases: `allocate` (in `pipelines.allocate`) resolves it, `layers` and what
follows are then known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from luq.allocation.plans import Allocation
from luq.calibration.artefacts import Calibration, calibration
from luq.config import EvaluationConfig, RunConfig, TierConfig
from luq.errors import ConfigError, DataError
from luq.evaluation.artefacts import (
    Answers,
    Batching,
    Fidelity,
    Layers,
    ReferenceProbabilities,
    TextLosses,
)
from luq.formats.artefacts import Rest
from luq.models.checkpoint import Checkpoint, checkpoint
from luq.profiling.artefacts import EntropyProfile, ForwardScores, WeightScores
from luq.quantization.artefacts import PackedLayer
from luq.questions.sources import QuestionTable, evaluation_table
from luq.questions.specs import spec
from luq.questions.subsets import Subset, subset
from luq.questions.text import TextSource, text_source
from luq.store.keys import digest


@dataclass(frozen=True)
class QuestionSet:
    """What is asked of a model: tables by benchmark, and which of their questions."""

    tables: dict[str, QuestionTable]
    subset: Subset
    fidelity: Subset | None  # for KL and likelihoods; None: not measured
    batching: Batching


class Graph:
    """The artefacts of one run.

    Args:
        config: the run.
        cache: the store's folder, where `datasets` may keep what it prepares.
        download: whether a checkpoint or questions that are not here may be fetched.

    Raises:
        LuqError: something that the run needs is missing, or a setting does not fit the checkpoint.
    """

    def __init__(self, config: RunConfig, cache: Path, download: bool = True):
        self.config = config
        self.cache = cache
        self.download = download
        self.checkpoint: Checkpoint = checkpoint(config.model, download)
        _check_layers(config, self.checkpoint.layers)
        self.calibration: Calibration = calibration(
            self.checkpoint, config.calibration, cache, download
        )
        self.questions = self.question_set(config.evaluation)
        self.text = self._text()
        _check_leak(self.calibration, self.questions)

    @cached_property
    def tiers(self) -> dict[str, TierConfig]:
        """The tiers that this run may use, by name."""
        quantizer = self.config.quantizer
        names = (quantizer.low, quantizer.high, *self.config.allocation.tiers)
        return {name: quantizer.tiers[name] for name in dict.fromkeys(names)}

    @cached_property
    def key(self) -> str:
        """Of all that determines the run's numbers: the key of its record."""
        config = self.config
        parts = [self.profile, config.profile, config.order, config.allocation]
        parts += [config.quantizer.low, config.quantizer.high, config.quantizer.propagation]
        parts += [self.tiers, self.questions, self.text, config.evaluation.text_tokens]
        return digest("run", parts, config.evaluation.text_length)

    # profile

    @cached_property
    def profile(self) -> EntropyProfile:
        """Entropies per layer and modality."""
        settings = self.config.profile
        return EntropyProfile(
            self.calibration, settings.clusters, settings.tokens, settings.seeds, settings.seed
        )

    @property
    def forward_scores(self) -> ForwardScores:
        """Scores from one pass over the calibration samples."""
        return ForwardScores(self.calibration)

    @property
    def weight_scores(self) -> WeightScores:
        """Scores from the weights alone."""
        return WeightScores(self.checkpoint.weights)

    @property
    def rest(self) -> Rest:
        """The sizes of what stays in 16 bit."""
        return Rest(self.checkpoint.weights)

    # quantize

    def layers(self, allocation: Allocation, propagation: str | None = None) -> Layers:
        """The packed layers of an allocation.

        With `exact` propagation each layer is quantized for what the layers before it, as packed
        here, give it (the paper's way); with `high` for what the model all in the high tier gives;
        with `float` for what the 16-bit model gives.
        """
        propagation = propagation or self.config.quantizer.propagation
        before: list[PackedLayer] = []
        if propagation == "high":
            before += self.uniform(self.config.quantizer.high, "exact")
        layers: list[PackedLayer] = []
        for index, name in enumerate(allocation.tiers):
            layers.append(self._layer(index, name, before[:index]))
            if propagation == "exact":
                before.append(layers[-1])
        return tuple(layers)

    def _layer(self, index: int, name: str, before: Sequence[PackedLayer]) -> PackedLayer:
        tier = self.config.quantizer.tiers[name]
        weights = self.checkpoint.weights
        if tier.data_free:
            return PackedLayer(weights, index, tier, name=name)
        return PackedLayer(weights, index, tier, self.calibration, tuple(before), name)

    def uniform(self, name: str, propagation: str | None = None) -> Layers:
        """Every layer in one tier."""
        return self.layers(Allocation((name,) * self.checkpoint.layers), propagation)

    @cached_property
    def float_tier(self) -> str:
        """The name of the tier that keeps 16-bit weights; a ConfigError if there is none."""
        for name, tier in self.config.quantizer.tiers.items():
            if tier.method == "float16":
                return name
        raise ConfigError(
            "quantizer.tiers has no float16 tier: retention needs the model's own 16-bit score"
        )

    @cached_property
    def float_layers(self) -> Layers:
        """The same model in 16 bit."""
        return self.uniform(self.float_tier)

    # evaluate

    def question_set(self, config: EvaluationConfig) -> QuestionSet:
        """The questions that an evaluation config asks."""
        tables = {
            name: evaluation_table(name, config, self.cache, self.download)
            for name in config.benchmarks
        }
        fidelity = None
        if config.fidelity != 0:
            counts = [n for n in (config.fidelity, config.samples) if n is not None]
            fidelity = subset(config.split, min(counts, default=None), config.seed)
        asked = subset(config.split, config.samples, config.seed)
        return QuestionSet(tables, asked, fidelity, Batching(config.batch_size, config.strict))

    def selection_set(self, samples: int | None) -> QuestionSet:
        """Questions of the selection split: those by which a plan chooses, never the report's."""
        config = self.config.evaluation
        if config.split != "report":
            raise ConfigError(
                f"evaluation.split={config.split}: a plan that chooses on the selection split "
                "needs 'report' there"
            )
        return self.question_set(replace(config, split="selection", samples=samples, fidelity=None))

    def answers(self, layers: Layers, questions: QuestionSet) -> dict[str, Answers]:
        """What packed layers say, by benchmark."""
        return {
            name: Answers(self.checkpoint, layers, table, questions.subset, questions.batching)
            for name, table in questions.tables.items()
        }

    def fidelity(self, layers: Layers, questions: QuestionSet) -> dict[str, Fidelity]:
        """How far packed layers moved the probabilities, by benchmark; empty if not asked for."""
        measured: dict[str, Fidelity] = {}
        if questions.fidelity is None:
            return measured
        for name, table in questions.tables.items():
            reference = ReferenceProbabilities(
                self.checkpoint, self.float_layers, table, questions.fidelity, questions.batching
            )
            measured[name] = Fidelity(layers, reference)
        return measured

    def _text(self) -> TextSource | None:
        """Held-out text for perplexity; None if the config asks for none."""
        config = self.config.evaluation
        return text_source(config.text, "report") if config.text_tokens else None

    def text_losses(self, layers: Layers) -> TextLosses | None:
        """Losses of packed layers on held-out text; None if the config asks for none."""
        config = self.config.evaluation
        if self.text is None:
            return None
        return TextLosses(
            self.checkpoint, layers, self.text, config.text_tokens, config.text_length
        )


def _check_layers(config: RunConfig, layers: int) -> None:
    k = config.allocation.k
    if config.allocation.name == "count" and k is not None and k > layers:
        raise ConfigError(
            f"allocation.k={k} is not possible: {config.model.name} has {layers} decoder layers"
        )


def _check_leak(calibration: Calibration, questions: QuestionSet) -> None:
    """A DataError if the evaluation asks what the model is calibrated on."""
    if not isinstance(calibration.questions, tuple):
        return
    for table in questions.tables.values():
        for known in calibration.questions:
            # textvqa_ocr asks textvqa's questions with another prompt
            same_data = spec(table.benchmark).data == spec(known.benchmark).data
            if same_data and table.content == known.content:
                raise DataError(
                    f"calibration.source and evaluation.data give the same {table.benchmark}: "
                    "calibrate on other questions"
                )
