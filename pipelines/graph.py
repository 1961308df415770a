"""A run as a graph of artefacts: load -> calibrate -> profile -> allocate -> quantize -> evaluate.

Every arrow is an artefact in the store: what it is stands beside the code that makes it, and how
those of one model are connected is `luq.graph.ModelGraph`. Here a config says which they are. An
allocation is a result, and packed layers depend on its value, so the graph has two phases:
`allocate` (in `luq.planning`) resolves it, `layers` and what follows are then known.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from luq.allocation.knapsack import parse_bytes
from luq.calibration.artefacts import Calibration, SharedQuestions, calibration
from luq.calibration.own import OwnSamples, check_own_texts
from luq.config import EvaluationConfig, RunConfig, TierConfig
from luq.config.quantizer import HEAD, PROJECTOR, VISION
from luq.config.unread import chooses_by_questions, measures_errors, measures_kl
from luq.errors import ConfigError, DataError
from luq.evaluation.artefacts import (
    Answers,
    Fidelity,
    Layers,
    ReferenceProbabilities,
    TaskAnswers,
    TextLosses,
)
from luq.formats.artefacts import Rest
from luq.graph import (
    ModelGraph,
    QuestionSet,
    check_parts,
    check_sight,
    check_token_weights,
    check_widths,
    part_settings,
    question_set,
    shared_questions,
)
from luq.models.checkpoint import (
    Checkpoint,
    check_context,
    checkpoint,
    has_matrices,
    least_rest_bytes,
    linear_shapes,
    part_widths,
)
from luq.planning import GRADIENTS, check_draws
from luq.profiling.artefacts import ForwardScores, WeightScores
from luq.profiling.entropies import subsample_of
from luq.quantization.artefacts import (
    BlockErrors,
    DeltaLosses,
    FisherLosses,
    LinearOutputErrors,
    OutputErrors,
    PackedLayer,
    Parts,
    Refinement,
)
from luq.questions.lm_eval_tasks import check_include_path, is_built_in
from luq.questions.overlap import check_texts, same_files
from luq.questions.text import TextSource, text_source
from luq.store.artefact import Artefact
from luq.store.keys import digest

BYTES_16_BIT = 2
# Whose versions are in the keys of runs, which hold none of what they make: a record of an older
# version is not the run that is asked for.
MAKERS: tuple[type[Artefact[Any]], ...] = (
    PackedLayer,
    ForwardScores,
    WeightScores,
    OutputErrors,
    LinearOutputErrors,
    DeltaLosses,
    FisherLosses,
    BlockErrors,
    Answers,
    TaskAnswers,
    ReferenceProbabilities,
    Fidelity,
    TextLosses,
    Rest,
)


class Graph(ModelGraph):
    """The artefacts of one run.

    Args:
        config: the run.
        cache: the store's folder, where `datasets` may keep what it prepares.
        download: whether a checkpoint or questions that are not here may be fetched.

    Raises:
        LuqError: something that the run needs is missing, or a setting does not fit the checkpoint.
    """

    config: RunConfig

    def __init__(self, config: RunConfig, cache: Path, download: bool = True):
        self.config = config
        self.cache = cache
        self.download = download
        self.checkpoint: Checkpoint = checkpoint(config.model, download)
        _check_layers(config, self.checkpoint.layers)
        _check_budget(config, self.checkpoint, self.tiers)
        _check_gradients(config)
        _check_windows(config, self.checkpoint)
        _check_modality(config)
        _check_images(config, self.checkpoint)
        check_parts(self.checkpoint, config)
        check_widths(self.checkpoint, self.used_tiers)
        check_token_weights(self.checkpoint, config.quantizer)
        _check_part_images(config)
        _check_part_linears(config, self.checkpoint)
        check_include_path(config.evaluation.include_path)
        _check_divergences(config)
        if self.is_profiled:
            # The smallest modality has no more tokens; how many it has is known with the samples.
            most_vectors = min(config.profile.tokens, config.calibration.tokens)
            subsample_of([most_vectors], config.profile.clusters)
        self.questions = self.question_set(config.evaluation)
        self.text = self._text()
        if self.is_calibrated:
            check_draws(config.order, self.calibration)
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

    @property
    def used_tiers(self) -> dict[str, TierConfig]:
        """Those that layers may get: all but the low one of a uniform plan."""
        if self.config.allocation.name != "uniform":
            return self.tiers
        high = self.config.quantizer.high
        return {high: self.tiers[high]}

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
        parts = self.parts(None)
        sees_parts = plan.vision.is_given or any(part.calibration is not None for part in parts)
        sees_samples = not tier.data_free or (quantizer.refine.is_on and not tier.is_exact)
        return self.is_profiled or sees_samples or sees_parts

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """The calibration sets that the run needs."""
        if self.is_profiled:
            return self.draws
        return (self.calibration,) if self.is_calibrated else ()

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
        parts += [Refinement.of(config.quantizer.refine), config.quantizer.held_out]
        parts += [self.token_gradients, [kind.version for kind in MAKERS]]
        if self.parts(None):
            parts.append(self.parts(None))
        if self.uniform_towers:
            parts.append(self.uniform_towers)  # what the names of the plan's tiers mean
        if measures_errors(config):
            # By name: the default was another one, and a key leaves defaults out.
            parts.append(config.allocation.error)
        return digest("run", parts, config.evaluation.text_length)

    def question_set(self, config: EvaluationConfig) -> QuestionSet:
        """The questions that an evaluation config asks."""
        return question_set(config, self.cache, self.download)

    def selection_set(self, samples: int | None) -> QuestionSet:
        """Questions of the selection split: those by which a plan chooses, never the report's."""
        config = self.config.evaluation
        if config.split != "report":
            raise ConfigError(
                f"evaluation.split={config.split}: a plan that chooses on the selection split "
                "needs 'report' there"
            )
        return self.question_set(replace(config, split="selection", samples=samples, fidelity=None))

    def _check_leaks(self, calibration: Calibration) -> None:
        """A DataError if the evaluation has what the model is calibrated on.

        Files of questions are compared whole here; their rows as soon as it is known which of them
        the calibration takes (`shared_questions`).
        """
        if isinstance(calibration.questions, tuple):
            for table in self.questions.tables.values():
                for calibration_table in calibration.questions:
                    if same_files(table, calibration_table):
                        raise DataError(
                            "calibration.source and evaluation.data give the same "
                            f"{table.benchmark}, as {calibration_table.benchmark}: calibrate on "
                            "other questions"
                        )
        texts = (calibration.text, self.text)
        samples = calibration.questions
        if isinstance(samples, OwnSamples) and self.text is not None:
            self._check_own_texts(samples, self.text)
        if calibration.text is None or self.text is None:
            return
        if calibration.text.name == self.text.name:
            return  # the parts of one source, which share nothing
        # `status` and `--plan` fetch nothing
        if self.download or all(text.is_here for text in texts if text is not None):
            check_texts(calibration.text, self.text)

    def _check_own_texts(self, samples: OwnSamples, text: TextSource) -> None:
        # `status` and `--plan` fetch nothing
        if self.download or text.is_here:
            check_own_texts(samples, text)

    def shared_questions(self) -> list[SharedQuestions]:
        """What the calibration shares with each benchmark, of all that is asked in this run."""
        question_sets = [self.questions] if self.is_calibrated else []
        if question_sets and chooses_by_questions(self.config):
            question_sets.append(self.selection_set(None))
        shared: list[SharedQuestions] = []
        for draw in self.calibrations:
            for questions in question_sets:
                shared += shared_questions(draw, questions)
        return shared

    def _text(self) -> TextSource | None:
        """Held-out text for perplexity; None if the config asks for none."""
        config = self.config.evaluation
        return text_source(config.text, "report") if config.text_tokens else None

    def text_losses(self, layers: Layers, parts: Parts = ()) -> TextLosses | None:
        """Losses of packed layers and parts on held-out text; None if the config asks for none."""
        config = self.config.evaluation
        if self.text is None:
            return None
        return TextLosses(
            self.checkpoint,
            layers,
            self.text,
            config.text_tokens,
            config.text_length,
            parts,
            config.compute,
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
        weights = sum(rows * columns for rows, columns in shapes)
        linears_bytes = weights * least_bits / 8
        rest_bytes = least_rest_bytes(checkpoint.folder, part_bits(config))
        if parse_bytes(plan.bytes) < linears_bytes + rest_bytes:
            raise ConfigError(
                f"allocation.bytes={plan.bytes} is not possible: with the smallest plan (of "
                f"{', '.join(names)}, every layer in {smallest}) the whole checkpoint takes "
                f"{(linears_bytes + rest_bytes) / 1e6:.2f} MB or more, {rest_bytes / 1e6:.2f} MB "
                "of it for what is no linear of the decoder"
            )


def part_bits(config: RunConfig) -> dict[str, float]:
    """The least bits per weight of the parts that are packed."""
    quantizer = config.quantizer
    bits = {part: quantizer.tiers[name].least_bits for part, name in quantizer.parts.items()}
    vision = config.allocation.vision
    if vision.is_given:
        bits[VISION] = min(quantizer.tiers[name].least_bits for name in vision.tiers)
    return bits


def _check_gradients(config: RunConfig) -> None:
    """Say before any work that a streamed model gives no gradients."""
    error = config.allocation.error
    if measures_errors(config) and error in GRADIENTS and config.model.stream:
        raise ConfigError(
            f"allocation.error={error} is not possible with model.stream=true: it needs the "
            "gradients of all layers at once. Use allocation.error=output_error"
        )


def _check_windows(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Say before any work that a text window is longer than what the model was made for."""
    lengths: dict[str, int] = {}
    if config.calibration.alpha < 1:
        lengths["calibration.sample_tokens"] = config.calibration.sample_tokens
    if config.evaluation.text_tokens:
        lengths["evaluation.text_length"] = config.evaluation.text_length
    check_context(checkpoint, lengths)


def _check_modality(config: RunConfig) -> None:
    """Say before any work that layers cannot be ranked by tokens that there are not."""
    if config.calibration.alpha == 0 and config.order.modality == "image":
        raise ConfigError(
            "order.modality=image is not possible: the calibration set (alpha=0) has no image "
            "tokens. Calibrate with images, or choose order.modality=text"
        )


def _check_images(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Say before any work that a language model cannot be shown images."""
    check_sight(checkpoint, config.evaluation.benchmarks)
    calibration = config.calibration
    if calibration.alpha > 0 and not calibration.is_own and not checkpoint.sees_images:
        raise ConfigError(
            f"calibration.alpha={calibration.alpha:g} is not possible: {config.model.name} is a "
            "language model that sees no images. Use calibration=text"
        )


def _check_part_images(config: RunConfig) -> None:
    """Say before any work that there are no images by which tower or projector could be packed."""
    quantizer = config.quantizer
    if config.calibration.alpha > 0 or config.calibration.is_own:
        return
    if config.allocation.vision.is_given:
        raise ConfigError(
            f"{part_settings(config)[VISION]} is not possible: the calibration set (alpha=0) has "
            "no images by which the errors of blocks could be measured. Calibrate with images "
            "(calibration=multimodal), or give the whole tower a tier (quantizer.vision=rtn4)"
        )
    for part in (VISION, PROJECTOR):
        name = quantizer.parts.get(part)
        if name is not None and not quantizer.tiers[name].data_free:
            raise ConfigError(
                f"quantizer.{part}={name} is not possible: the calibration set (alpha=0) has no "
                "images for it. Calibrate with images (calibration=multimodal), or give it a tier "
                "that needs no data (rtn4)"
            )


def _check_part_linears(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Say before any work that a part has nothing that could be packed."""
    for part, setting in part_settings(config).items():
        if part != HEAD and not has_matrices(checkpoint.folder, part):
            raise ConfigError(
                f"{setting} is not possible: {config.model.name} has no linears there that could "
                "be packed. Leave it out"
            )
        _check_part_widths(config, checkpoint, part, setting)


def _check_part_widths(config: RunConfig, checkpoint: Checkpoint, part: str, setting: str) -> None:
    """Say before any work that a part's tier does not take the rows of one of its matrices."""
    names = [config.quantizer.parts[part]] if part in config.quantizer.parts else []
    if part == VISION:
        names += config.allocation.vision.tiers
    for name in names:
        for columns in sorted(part_widths(checkpoint.folder, part)):
            reason = config.quantizer.tiers[name].refusal(columns)
            if reason is not None:
                raise ConfigError(
                    f"{setting} is not possible for {config.model.name}: a weight of its {part} "
                    f"{reason}"
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
