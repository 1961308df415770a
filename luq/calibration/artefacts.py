"""The calibration set as an artefact, and its samples."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from luq.calibration.own import OwnSamples, own_samples
from luq.config import CalibrationConfig
from luq.errors import DataError
from luq.models.checkpoint import Checkpoint
from luq.plugins import plugin
from luq.questions import prompts
from luq.questions.overlap import SharedRow, shared_rows
from luq.questions.sources import QuestionTable, calibration_table
from luq.questions.subsets import Subset, choose
from luq.questions.tables import Questions
from luq.questions.text import TextSource, text_source
from luq.store.artefact import Artefact, Tools
from luq.store.store import write_json

if TYPE_CHECKING:
    from luq.calibration.mixing import AskedQuestion
    from luq.calibration.samples import CalibrationSet

OVERLAP = "overlap.json"


@dataclass(frozen=True)
class GeneratedQuestions:
    """Questions that a plug-in makes as they are needed."""

    plugin: str
    version: int
    prompts: int  # version of the prompts' wording


@dataclass(frozen=True)
class CalibrationSummary:
    """What a calibration set is: the hash of its content, its tokens, its share of multimodal ones.

    `sources` names the passage or question of every sample.
    """

    hash: str
    tokens: int
    alpha: float
    sources: list[str]


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Artefact[CalibrationSummary]):
    """The tokens that a model sees while it is profiled and quantized.

    The store has their summary; the samples themselves are made again by every process that needs
    them (`samples_of`), which is quicker than to read their pixels.
    """

    stage: ClassVar[str] = "calibration"
    version: ClassVar[int] = 2
    checkpoint: Checkpoint
    settings: CalibrationConfig
    questions: tuple[QuestionTable, ...] | GeneratedQuestions | OwnSamples | None
    text: TextSource | None

    @property
    def may_share_questions(self) -> bool:
        """Whether an evaluation could ask what is here: a plug-in's questions no split asks."""
        return isinstance(self.questions, tuple | OwnSamples)

    @property
    def description(self) -> str:
        return "the calibration set"

    def make(self, folder: Path, tools: Tools) -> None:
        samples = samples_of(self, tools)
        sources = [sample.source for sample in samples.samples]
        summary = CalibrationSummary(samples.hash, samples.tokens, samples.alpha, sources)
        write_json(folder / "calibration.json", asdict(summary))

    def read(self, folder: Path) -> CalibrationSummary:
        content = (folder / "calibration.json").read_text(encoding="utf-8")
        return CalibrationSummary(**json.loads(content))


@dataclass(frozen=True, eq=False, repr=False)
class SharedQuestions(Artefact[list[SharedRow]]):
    """The questions of a benchmark that are asked and that the model was calibrated on."""

    stage: ClassVar[str] = "overlap"
    version: ClassVar[int] = 1
    calibration: Calibration
    table: QuestionTable
    subset: Subset

    @property
    def description(self) -> str:
        return f"the questions of {self.table.benchmark} that the calibration has too"

    def make(self, folder: Path, tools: Tools) -> None:
        asked_questions = self.table.open(tools)
        rows = choose(asked_questions, self.subset)
        questions = self.calibration.questions
        if isinstance(questions, OwnSamples):
            write_json(folder / OVERLAP, questions.shared_with(asked_questions, rows))
            return
        names = tools.store.get(self.calibration).sources
        calibrated: dict[str, Questions] = {}
        if isinstance(questions, tuple):
            for table in questions:
                calibrated[table.benchmark] = table.open(tools)
        write_json(folder / OVERLAP, shared_rows(asked_questions, rows, calibrated, names))

    def read(self, folder: Path) -> list[SharedRow]:
        pairs = json.loads((folder / OVERLAP).read_text(encoding="utf-8"))
        return [SharedRow(*pair) for pair in pairs]


def check_shared(shared: list[SharedRow]) -> None:
    """A DataError if questions are asked that the model is calibrated on."""
    if shared:
        first = shared[0]
        raise DataError(
            f"calibration.source and evaluation.data share {len(shared)} questions with their "
            f"images, for example {first.calibrated} and {first.asked}: calibrate on other "
            "questions"
        )


def calibration(
    checkpoint: Checkpoint, settings: CalibrationConfig, cache: Path, download: bool = True
) -> Calibration:
    """The calibration set that a config asks for.

    Raises:
        DataError: a source of questions or text cannot be read, or (without download) is not here.
    """
    if settings.is_own:
        return own_calibration(checkpoint, settings, own_samples(settings.source))
    questions: tuple[QuestionTable, ...] | GeneratedQuestions | None = None
    shipped = plugin(settings.source)
    if settings.alpha > 0 and shipped is not None:
        questions = GeneratedQuestions(settings.source, shipped.version, prompts.VERSION)
    elif settings.alpha > 0:
        questions = tuple(
            calibration_table(benchmark, settings.source, cache, download)
            for benchmark in settings.benchmarks
        )
    text = text_source(settings.text, "calibration") if settings.alpha < 1 else None
    return Calibration(checkpoint, settings, questions, text)


def own_calibration(
    checkpoint: Checkpoint, settings: CalibrationConfig, samples: OwnSamples
) -> Calibration:
    """The calibration set of a user's own samples; weighting and type are as the settings say."""
    own_settings = CalibrationConfig(
        name=settings.name,
        alpha=1.0,
        weighting=settings.weighting,
        compute=settings.compute,
        image_factor=settings.image_factor,
    )
    return Calibration(checkpoint, own_settings, samples, None)


def samples_of(calibration: Calibration, tools: Tools) -> "CalibrationSet":
    """The samples of a calibration set, made once and held.

    Raises:
        DataError: they are not those that the store's artefacts were made with.
    """
    from luq.calibration.mixing import build, whole
    from luq.calibration.samples import CalibrationSet
    from luq.models.vlm import loaded

    def make() -> CalibrationSet:
        vlm = loaded(tools, calibration.checkpoint)
        if isinstance(calibration.questions, OwnSamples):
            samples = whole(vlm, calibration.settings, calibration.questions)
        else:
            questions = _asked(calibration, tools)
            samples = build(vlm, calibration.settings, questions, calibration.text)
        if tools.store.has(calibration):
            expected = tools.store.get(calibration).hash
            if samples.hash != expected:
                raise DataError(
                    f"the calibration set has another content ({samples.hash}) than when it was "
                    f"first made ({expected}): an installed package prepares images or text "
                    f"differently. Delete {tools.store.folder(calibration)} and run again"
                )
        return replace(samples, compute=calibration.settings.compute)

    return tools.hold(CalibrationSet, calibration, make)


def _asked(calibration: Calibration, tools: Tools) -> Iterator["AskedQuestion"]:
    from luq.calibration.mixing import generated_questions, training_questions

    settings = calibration.settings
    if isinstance(calibration.questions, GeneratedQuestions):
        shipped = plugin(calibration.questions.plugin)
        if shipped is not None:
            return generated_questions(
                shipped.calibration_questions(settings.benchmarks, settings.seed)
            )
    if not isinstance(calibration.questions, tuple):
        return iter(())
    tables = {table.benchmark: table.open(tools) for table in calibration.questions}
    return training_questions(settings.seed, tables)
