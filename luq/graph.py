"""One model's artefacts and how they are connected, for runs (`pipelines.graph`) and the API alike.

What an artefact is stands beside the code that makes it. Who makes a `ModelGraph` says which
checkpoint, calibration and settings it is of.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from luq.allocation.allocations import Allocation
from luq.calibration.artefacts import Calibration, SharedQuestions
from luq.config import (
    AllocationConfig,
    EvaluationConfig,
    LayerTiers,
    OrderConfig,
    ProfileConfig,
    QuantizerConfig,
    TierConfig,
    VisionBudget,
)
from luq.config.quantizer import EMBEDDINGS, HEAD, PROJECTOR, VISION
from luq.errors import ConfigError
from luq.evaluation.answers import Kept
from luq.evaluation.artefacts import (
    Answers,
    Batching,
    Fidelity,
    Layers,
    ReferenceProbabilities,
    TaskAnswers,
)
from luq.formats.artefacts import Rest
from luq.models.checkpoint import Checkpoint, linear_shapes
from luq.profiling.artefacts import EntropyProfile, ForwardScores, WeightScores
from luq.quantization.artefacts import (
    Gradients,
    ModalityGradients,
    PackedLayer,
    PackedPart,
    Parts,
    Refinement,
    TokenGradients,
)
from luq.questions.lm_eval_tasks import TaskTable, is_built_in, task_table
from luq.questions.sources import QuestionTable, evaluation_table
from luq.questions.specs import spec
from luq.questions.subsets import Subset, subset
from luq.store.artefact import Artefact


class PlanSettings(Protocol):
    """The settings that decide which layer gets which tier; `RunConfig` has them."""

    @property
    def profile(self) -> ProfileConfig: ...

    @property
    def order(self) -> OrderConfig: ...

    @property
    def allocation(self) -> AllocationConfig: ...

    @property
    def quantizer(self) -> QuantizerConfig: ...


@dataclass(frozen=True)
class QuestionSet:
    """What is asked of a model: tables by benchmark, and which of their questions."""

    tables: dict[str, QuestionTable]
    subset: Subset
    fidelity: Subset | None  # for KL and likelihoods; None: not measured
    batching: Batching
    tasks: dict[str, TaskTable] = field(default_factory=dict)  # of lm-eval, not built in


def question_set(config: EvaluationConfig, cache: Path, download: bool = True) -> QuestionSet:
    """The questions that an evaluation config asks.

    Args:
        config: benchmarks, where their questions come from, and how many are asked.
        cache: folder in which `datasets` may keep what it prepares.
        download: whether questions that are not there may be fetched from the hub.

    Raises:
        ConfigError: a source is of a benchmark that is not asked.
        DataError: they cannot be read, or (without download) are not there.
    """
    _check_sources(config)
    tables: dict[str, QuestionTable] = {}
    tasks: dict[str, TaskTable] = {}
    for name in config.benchmarks:
        if is_built_in(name):
            tables[name] = evaluation_table(name, config, cache, download)
        else:
            tasks[name] = task_table(name, config, download)
    fidelity = None
    if config.fidelity != 0:
        counts = [n for n in (config.fidelity, config.samples) if n is not None]
        fidelity = subset(config.split, min(counts, default=None), config.seed)
    asked_subset = subset(config.split, config.samples, config.seed)
    batching = Batching(config.batch_size, config.compute, config.strict)
    return QuestionSet(tables, asked_subset, fidelity, batching, tasks)


def check_sight(checkpoint: Checkpoint, benchmarks: Sequence[str]) -> None:
    """A ConfigError if a language model would be asked about images."""
    built_in = [name for name in benchmarks if is_built_in(name)]
    if built_in and not checkpoint.sees_images:
        raise ConfigError(
            f"{checkpoint.config.name} is a language model that sees no images, but "
            f"{', '.join(built_in)} ask about them: name text tasks of lm-eval, such as arc_easy"
        )


def _check_sources(config: EvaluationConfig) -> None:
    """A ConfigError for a source of a benchmark that is not asked."""
    for name in config.sources:
        # textvqa_ocr reads textvqa's data
        data = {spec(benchmark).data for benchmark in config.benchmarks if is_built_in(benchmark)}
        if name not in {*config.benchmarks, *data}:
            raise ConfigError(
                f"evaluation.sources.{name} would be ignored: {name} is not among "
                f"evaluation.benchmarks={config.benchmarks}. Add it there, or leave the source out"
            )


def shared_questions(calibration: Calibration, questions: QuestionSet) -> list[SharedQuestions]:
    """What a calibration set shares with each benchmark that is asked."""
    if not calibration.may_share_questions:
        return []
    return [
        SharedQuestions(calibration, table, questions.subset) for table in questions.tables.values()
    ]


def part_settings(config: PlanSettings) -> dict[str, str]:
    """Of each part that is packed the setting that says so."""
    parts = config.quantizer.parts
    settings = {part: f"quantizer.{part}={name}" for part, name in parts.items()}
    budget = config.allocation.vision
    if budget.is_given:
        settings[VISION] = f"allocation.vision.tiers=[{','.join(budget.tiers)}]"
    return settings


def check_parts(checkpoint: Checkpoint, config: PlanSettings) -> None:
    """A ConfigError if a tier is given to a part that the model does not have.

    A head that is the embeddings, too, is stored once, in their tier.
    """
    name = checkpoint.config.name
    quantizer = config.quantizer
    for part, setting in part_settings(config).items():
        if part in (VISION, PROJECTOR) and not checkpoint.sees_images:
            raise ConfigError(
                f"{setting} is not possible: {name} is a language model that sees no images. "
                "Leave it out"
            )
    _check_vision_budget(config.allocation.vision, quantizer)
    if quantizer.head is None or quantizer.head == quantizer.embeddings:
        return
    if checkpoint.has_tied_head:
        raise ConfigError(
            f"quantizer.head={quantizer.head} is not possible: the head of {name} is tied to the "
            f"embeddings, and stored with them once (quantizer.embeddings={quantizer.embeddings}). "
            "Leave quantizer.head out, and give quantizer.embeddings the tier"
        )


def _check_vision_budget(budget: VisionBudget, quantizer: QuantizerConfig) -> None:
    """A ConfigError for a budget of the tower's linears that none of its tiers can keep."""
    if budget.bits is None:
        return
    smallest = min(budget.tiers, key=lambda name: quantizer.tiers[name].least_bits)
    least_bits = quantizer.tiers[smallest].least_bits
    if budget.bits < least_bits:
        raise ConfigError(
            f"allocation.vision.bits={budget.bits} is not possible: of {', '.join(budget.tiers)}, "
            f"every block in {smallest} takes {least_bits:.3f} stored bits per weight or more"
        )


def check_widths(checkpoint: Checkpoint, tiers: Mapping[str, TierConfig]) -> None:
    """A ConfigError if one of the decoder's tiers does not take the rows of one of its linears."""
    shapes = linear_shapes(checkpoint.folder)
    for name, tier in tiers.items():
        for (layer, linear), (_, columns) in shapes.items():
            reason = tier.refusal(columns)
            if reason is not None:
                raise ConfigError(
                    f"tier {name} is not possible for {checkpoint.config.name}: {linear} of layer "
                    f"{layer} {reason}"
                )


def check_token_weights(checkpoint: Checkpoint, quantizer: QuantizerConfig) -> None:
    """A ConfigError if tokens should count by gradients of a model that is streamed."""
    name = quantizer.token_weights
    if name != "count" and checkpoint.config.stream:
        raise ConfigError(
            f"quantizer.token_weights={name} is not possible with model.stream=true: it needs the "
            "gradients of all layers at once. Use quantizer.token_weights=count"
        )


class ModelGraph(ABC):
    """The artefacts of one model: calibrated, profiled, packed, asked."""

    config: PlanSettings
    checkpoint: Checkpoint

    @property
    @abstractmethod
    def calibration(self) -> Calibration:
        """The tokens that the model is calibrated on."""

    @abstractmethod
    def selection_set(self, samples: int | None) -> QuestionSet:
        """Questions of the selection split: those by which a plan chooses, never the report's."""

    @cached_property
    def is_uniform(self) -> bool:
        """Whether the settings alone say that all layers get one tier: nothing is ranked then."""
        plan = self.config.allocation
        takes_none_or_all = plan.name == "count" and plan.k in (0, self.checkpoint.layers)
        return plan.name == "uniform" or takes_none_or_all

    # profile

    @cached_property
    def draws(self) -> tuple[Calibration, ...]:
        """The calibration sets over which the order's scores are means: the first is the run's own,
        the others differ from it in their seeds.
        """
        first = self.calibration
        seeds = range(first.settings.seed, first.settings.seed + self.config.order.draws)
        settings = [replace(first.settings, seed=seed) for seed in seeds]
        return tuple(replace(first, settings=of_draw) for of_draw in settings)

    @cached_property
    def profiles(self) -> tuple[EntropyProfile, ...]:
        """Entropies per layer and modality of every draw, each with K-means seeds of its own."""
        settings = self.config.profile
        profiles: list[EntropyProfile] = []
        for number, draw in enumerate(self.draws):
            seed = settings.seed + number
            profiles.append(
                EntropyProfile(draw, settings.clusters, settings.tokens, settings.seeds, seed)
            )
        return tuple(profiles)

    @property
    def profile(self) -> EntropyProfile:
        """That of the run's own calibration set, the first draw."""
        return self.profiles[0]

    @property
    def forward_scores(self) -> tuple[ForwardScores, ...]:
        """Scores from one pass over the calibration samples, of every draw."""
        return tuple(ForwardScores(draw) for draw in self.draws)

    @property
    def weight_scores(self) -> WeightScores:
        """Scores from the weights alone."""
        return WeightScores(self.checkpoint.weights)

    @property
    def rest(self) -> Rest:
        """The sizes of what stays in 16 bit."""
        return Rest(self.checkpoint.weights)

    # quantize

    def layers(
        self, allocation: Allocation, propagation: str | None = None, refined: bool = True
    ) -> Layers:
        """The packed layers of an allocation.

        With `exact` propagation each layer is quantized for what the layers before it, as packed
        here, give it (the paper's way); with `high` for what the model all in the high tier gives;
        with `float` for what the 16-bit model gives. They are refined as `quantizer.refine` says,
        unless plain ones are wanted.
        """
        propagation = propagation or self.config.quantizer.propagation
        before: list[PackedLayer] = []
        if propagation == "high":
            before += self.uniform(self.config.quantizer.high, "exact", refined)
        layers: list[PackedLayer] = []
        for index in range(len(allocation.tiers)):
            layers.append(self._layer(allocation, index, before[:index], refined))
            if propagation == "exact":
                before.append(layers[-1])
        return tuple(layers)

    def parts(self, tower: PackedPart | None) -> Parts:
        """What is packed beside the decoder's linears: the same for all allocations.

        Args:
            tower: the vision tower, where its tiers are planned (`luq.tower`); None: it is in
                `quantizer.vision`, or in 16 bit.
        """
        quantizer = self.config.quantizer
        parts: list[PackedPart] = []
        for part in (EMBEDDINGS, HEAD, VISION, PROJECTOR):
            name = quantizer.parts.get(part)
            if part == VISION and tower is not None:
                parts.append(tower)
            elif name is not None and not (part == HEAD and self.checkpoint.has_tied_head):
                tiers = LayerTiers(quantizer.tiers[name])
                before = tuple(packed_part for packed_part in parts if packed_part.part == VISION)
                parts.append(self._part(part, tiers, name, before if part == PROJECTOR else ()))
        return tuple(parts)

    @cached_property
    def uniform_towers(self) -> Parts:
        """The vision tower in each of the tiers that are planned for its blocks, all in one."""
        tiers = self.config.quantizer.tiers
        names = self.config.allocation.vision.tiers
        return tuple(self._part(VISION, LayerTiers(tiers[name]), name) for name in names)

    def tower(self, tiers: Mapping[str, str]) -> PackedPart:
        """The vision tower with a tier for each of its linears, by name."""
        allocation = Allocation.of_linears([tiers])  # as if it were one layer
        return self._part(VISION, *self._tiers_of(allocation, 0))

    def _part(self, part: str, tiers: LayerTiers, name: str, before: Parts = ()) -> PackedPart:
        weights = self.checkpoint.weights
        is_seen = part != EMBEDDINGS or self.checkpoint.has_tied_head
        if tiers.data_free or not is_seen:
            return PackedPart(weights, part, tiers.tier, others=tiers.others, name=name)
        return PackedPart(weights, part, tiers.tier, self.calibration, before, tiers.others, name)

    def _tiers_of(self, allocation: Allocation, index: int) -> tuple[LayerTiers, str]:
        """The tiers of a layer's linears, and what they are called together."""
        named = self.config.quantizer.tiers
        other_names = allocation.others_of(index)
        linear_tiers = {linear: named[name] for linear, name in other_names.items()}
        tiers = LayerTiers.of(named[allocation.tiers[index]], linear_tiers)
        return tiers, "+".join(dict.fromkeys((allocation.tiers[index], *other_names.values())))

    def _layer(
        self, allocation: Allocation, index: int, before: Sequence[PackedLayer], refined: bool
    ) -> PackedLayer:
        tiers, name = self._tiers_of(allocation, index)
        weights = self.checkpoint.weights
        refinement = None
        if refined and not tiers.is_exact:
            refinement = Refinement.of(self.config.quantizer.refine)
        if tiers.data_free and refinement is None:
            return PackedLayer(weights, index, tiers, name=name)
        # of tiers that need no data there is no Hessian
        held_out = 0.0 if tiers.data_free else self.config.quantizer.held_out
        return PackedLayer(
            weights,
            index,
            tiers,
            self.calibration,
            tuple(before),
            refinement,
            held_out,
            self.token_gradients,
            name,
        )

    @cached_property
    def token_gradients(self) -> Gradients | None:
        """The gradients by which calibration tokens count, if they do."""
        name = self.config.quantizer.token_weights
        if name == "count":
            return None
        gradients = TokenGradients(self.calibration)
        return ModalityGradients(gradients) if name == "modality" else gradients

    def uniform(self, name: str, propagation: str | None = None, refined: bool = True) -> Layers:
        """Every layer in one tier."""
        allocation = Allocation((name,) * self.checkpoint.layers)
        return self.layers(allocation, propagation, refined)

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

    def answers(
        self, layers: Layers, questions: QuestionSet, parts: Parts = ()
    ) -> dict[str, Artefact[Kept]]:
        """What packed layers and parts say, by benchmark."""
        subset, batching = questions.subset, questions.batching
        answers: dict[str, Artefact[Kept]] = {}
        for name, table in questions.tables.items():
            answers[name] = Answers(self.checkpoint, layers, table, subset, batching, parts)
        for name, task in questions.tasks.items():
            answers[name] = TaskAnswers(self.checkpoint, layers, task, subset, batching, parts)
        return answers

    def fidelity(
        self, layers: Layers, questions: QuestionSet, parts: Parts = ()
    ) -> dict[str, Fidelity]:
        """How far packed layers and parts moved the probabilities, by benchmark; empty if not asked
        for.
        """
        measured: dict[str, Fidelity] = {}
        if questions.fidelity is None:
            return measured
        for name, table in questions.tables.items():
            reference = ReferenceProbabilities(
                self.checkpoint, self.float_layers, table, questions.fidelity, questions.batching
            )
            measured[name] = Fidelity(layers, reference, parts)
        return measured
