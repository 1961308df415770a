"""A run as a graph of artefacts: load -> calibrate -> profile -> allocate -> quantize -> evaluate.

Every arrow is an artefact in the store. This file only connects them: what an artefact is stands
beside the code that makes it. An allocation is a result, and packed layers depend on its value, so
the graph has two phases: `allocate` (in `pipelines.allocate`) resolves it, `layers` and what
follows are then known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from luq.allocation.knapsack import parse_bytes
from luq.allocation.plans import Allocation
from luq.calibration.artefacts import Calibration, SharedQuestions, calibration
from luq.config import EvaluationConfig, RunConfig, TierConfig
from luq.config.unread import chooses_by_questions, measures_kl
from luq.errors import ConfigError, DataError
from luq.evaluation.answers import Kept
from luq.evaluation.artefacts import (
    Answers,
    Batching,
    Fidelity,
    Layers,
    ReferenceProbabilities,
    TaskAnswers,
    TextLosses,
)
from luq.formats.artefacts import Rest
from luq.models.checkpoint import (
    Checkpoint,
    checkpoint,
    context_length,
    linear_shapes,
    rest_weights,
)
from luq.profiling.artefacts import EntropyProfile, ForwardScores, WeightScores
from luq.profiling.entropies import subsample_of
from luq.quantization.artefacts import PackedLayer
from luq.questions.lm_eval_tasks import TaskTable, check_include_path, is_built_in, task_table
from luq.questions.overlap import check_texts, same_files
from luq.questions.sources import QuestionTable, evaluation_table
from luq.questions.specs import spec
from luq.questions.subsets import Subset, subset
from luq.questions.text import TextSource, text_source
from luq.store.artefact import Artefact
from luq.store.keys import digest

BYTES_16_BIT = 2


@dataclass(frozen=True)
class QuestionSet:
    """What is asked of a model: tables by benchmark, and which of their questions."""

    tables: dict[str, QuestionTable]
    subset: Subset
    fidelity: Subset | None  # for KL and likelihoods; None: not measured
    batching: Batching
    tasks: dict[str, TaskTable] = field(default_factory=dict)  # of lm-eval, not built in


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
        _check_budget(config, self.checkpoint, self.tiers)
        _check_windows(config, self.checkpoint.folder)
        _check_sources(config.evaluation)
        _check_modality(config)
        check_include_path(config.evaluation.include_path)
        _check_divergences(config)
        if self.is_profiled:
            # The smallest modality has no more tokens; how many it has is known with the samples.
            most_vectors = min(config.profile.tokens, config.calibration.tokens)
            subsample_of([most_vectors], config.profile.clusters)
        self.questions = self.question_set(config.evaluation)
        self.text = self._text()
        if self.is_calibrated:
            self._check_leaks(self.calibration)

    @cached_property
    def calibration(self) -> Calibration:
        """The tokens that the model is calibrated on."""
        return calibration(self.checkpoint, self.config.calibration, self.cache, self.download)

    @cached_property
    def tiers(self) -> dict[str, TierConfig]:
        """The tiers that this run may use, by name."""
        quantizer = self.config.quantizer
        names = (quantizer.low, quantizer.high, *self.config.allocation.tiers)
        return {name: quantizer.tiers[name] for name in dict.fromkeys(names)}

    @cached_property
    def is_uniform(self) -> bool:
        """Whether the settings alone say that all layers get one tier: nothing is ranked then."""
        plan = self.config.allocation
        takes_none_or_all = plan.name == "count" and plan.k in (0, self.checkpoint.layers)
        return plan.name == "uniform" or takes_none_or_all

    @cached_property
    def is_profiled(self) -> bool:
        """Whether the plan or the record wants scores of the layers."""
        return not self.is_uniform or bool(self.config.profile.orders)

    @cached_property
    def is_calibrated(self) -> bool:
        """Whether anything of the run sees calibration samples."""
        plan = self.config.allocation
        quantizer = self.config.quantizer
        tier = quantizer.tiers[quantizer.low if plan.name == "count" and plan.k else quantizer.high]
        return self.is_profiled or not tier.data_free

    @cached_property
    def key(self) -> str:
        """Of all that determines the run's numbers: the key of its record."""
        config = self.config
        parts: list[Any] = [config.allocation]
        if self.is_profiled:
            parts += [self.profile, config.profile, config.order]
        else:
            parts.append(self.calibration if self.is_calibrated else self.checkpoint)
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
        tables: dict[str, QuestionTable] = {}
        tasks: dict[str, TaskTable] = {}
        for name in config.benchmarks:
            if is_built_in(name):
                tables[name] = evaluation_table(name, config, self.cache, self.download)
            else:
                tasks[name] = task_table(name, config, self.download)
        fidelity = None
        if config.fidelity != 0:
            counts = [n for n in (config.fidelity, config.samples) if n is not None]
            fidelity = subset(config.split, min(counts, default=None), config.seed)
        asked = subset(config.split, config.samples, config.seed)
        batching = Batching(config.batch_size, config.strict)
        return QuestionSet(tables, asked, fidelity, batching, tasks)

    def selection_set(self, samples: int | None) -> QuestionSet:
        """Questions of the selection split: those by which a plan chooses, never the report's."""
        config = self.config.evaluation
        if config.split != "report":
            raise ConfigError(
                f"evaluation.split={config.split}: a plan that chooses on the selection split "
                "needs 'report' there"
            )
        return self.question_set(replace(config, split="selection", samples=samples, fidelity=None))

    def answers(self, layers: Layers, questions: QuestionSet) -> dict[str, Artefact[Kept]]:
        """What packed layers say, by benchmark."""
        subset, batching = questions.subset, questions.batching
        answers: dict[str, Artefact[Kept]] = {}
        for name, table in questions.tables.items():
            answers[name] = Answers(self.checkpoint, layers, table, subset, batching)
        for name, task in questions.tasks.items():
            answers[name] = TaskAnswers(self.checkpoint, layers, task, subset, batching)
        return answers

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

    def _check_leaks(self, calibration: Calibration) -> None:
        """A DataError if the evaluation has what the model is calibrated on.

        Files of questions are compared whole here; their rows as soon as it is known which of them
        the calibration takes (`shared_questions`).
        """
        if isinstance(calibration.questions, tuple):
            for table in self.questions.tables.values():
                for known in calibration.questions:
                    if same_files(table, known):
                        raise DataError(
                            "calibration.source and evaluation.data give the same "
                            f"{table.benchmark}, as {known.benchmark}: calibrate on other questions"
                        )
        texts = (calibration.text, self.text)
        if calibration.text is None or self.text is None:
            return
        if calibration.text.name == self.text.name:
            return  # the parts of one source, which share nothing
        # `status` and `--plan` fetch nothing
        if self.download or all(text.is_here for text in texts if text is not None):
            check_texts(calibration.text, self.text)

    def shared_questions(self) -> list[SharedQuestions]:
        """What the calibration shares with each benchmark, of all that is asked in this run."""
        # A plug-in makes its own questions for calibration, which no split of it asks.
        if not self.is_calibrated or not isinstance(self.calibration.questions, tuple):
            return []
        asked = [self.questions]
        if chooses_by_questions(self.config):
            asked.append(self.selection_set(None))
        return [
            SharedQuestions(self.calibration, table, questions.subset)
            for questions in asked
            for table in questions.tables.values()
        ]

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


def _check_budget(config: RunConfig, checkpoint: Checkpoint, tiers: dict[str, TierConfig]) -> None:
    """Say before any work that no plan of these tiers can keep a budget."""
    plan = config.allocation
    if plan.name not in ("budget", "search"):
        return
    names = plan.tiers or [config.quantizer.low, config.quantizer.high]
    smallest = min(names, key=lambda name: tiers[name].least_bits)
    least_bits = tiers[smallest].least_bits
    if plan.bits is not None and plan.bits < least_bits:
        raise ConfigError(
            f"allocation.bits={plan.bits} is not possible: the smallest plan has "
            f"{least_bits:.3f} stored bits per weight or more (of {', '.join(names)}, every layer "
            f"in {smallest})"
        )
    if plan.bytes is not None:
        shapes = linear_shapes(checkpoint.folder).values()
        weights = checkpoint.layers * sum(rows * columns for rows, columns in shapes)
        linears_bytes = weights * least_bits / 8
        rest_bytes = BYTES_16_BIT * rest_weights(checkpoint.folder)
        if parse_bytes(plan.bytes) < linears_bytes + rest_bytes:
            raise ConfigError(
                f"allocation.bytes={plan.bytes} is not possible: with the smallest plan (of "
                f"{', '.join(names)}, every layer in {smallest}) the whole checkpoint takes "
                f"{(linears_bytes + rest_bytes) / 1e6:.2f} MB or more, {rest_bytes / 1e6:.2f} MB "
                "of it for what stays in 16 bit"
            )


def _check_windows(config: RunConfig, folder: Path) -> None:
    """Say before any work that a text window is longer than what the model was made for."""
    context = context_length(folder)
    lengths: dict[str, int] = {}
    if config.calibration.alpha < 1:
        lengths["calibration.sample_tokens"] = config.calibration.sample_tokens
    if config.evaluation.text_tokens:
        lengths["evaluation.text_length"] = config.evaluation.text_length
    for setting, length in lengths.items():
        if context is not None and length > context:
            raise ConfigError(
                f"{setting}={length} is not possible: {config.model.name} has a context of "
                f"{context} tokens (max_position_embeddings in {folder / 'config.json'}). Use "
                f"{setting}={context} or less"
            )


def _check_modality(config: RunConfig) -> None:
    """Say before any work that layers cannot be ranked by tokens that there are not."""
    if config.calibration.alpha == 0 and config.order.modality == "image":
        raise ConfigError(
            "order.modality=image is not possible: the calibration set (alpha=0) has no image "
            "tokens. Calibrate with images, or choose order.modality=text"
        )


def _check_divergences(config: RunConfig) -> None:
    """Say before any work that no benchmark has the probabilities by which layers are chosen."""
    swaps = config.allocation.name == "search" and config.allocation.swaps
    has_tables = any(is_built_in(name) for name in config.evaluation.benchmarks)
    if (swaps or measures_kl(config)) and not has_tables:
        raise ConfigError(
            f"evaluation.benchmarks={config.evaluation.benchmarks} is not possible here: the plan "
            "or the order goes by the KL of answers, which only built-in benchmarks have. Add one "
            "of them"
        )


def _check_sources(config: EvaluationConfig) -> None:
    """A ConfigError for a source of a benchmark that is not asked."""
    for name in config.sources:
        # textvqa_ocr reads textvqa's data
        data = {spec(asked).data for asked in config.benchmarks if is_built_in(asked)}
        if name not in {*config.benchmarks, *data}:
            raise ConfigError(
                f"evaluation.sources.{name} would be ignored: {name} is not among "
                f"evaluation.benchmarks={config.benchmarks}. Add it there, or leave the source out"
            )
