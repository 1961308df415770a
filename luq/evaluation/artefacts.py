"""What packed layers answer, and how far their probabilities moved, as artefacts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from luq.config.checks import VOLATILE
from luq.errors import StoreError
from luq.evaluation.answers import (
    ANSWERS,
    FIDELITY,
    RESULTS,
    Kept,
    TaskResult,
    read_kept,
    write_result,
)
from luq.evaluation.predictions import (
    AnswerRow,
    FidelityRows,
    PromptRow,
    read_answers,
    read_fidelity,
    refuse_errors,
    write_rows,
)
from luq.models.checkpoint import Checkpoint
from luq.quantization.artefacts import PackedLayer, Parts, folders_of
from luq.questions.lm_eval_tasks import TaskTable
from luq.questions.sources import QuestionTable
from luq.questions.subsets import Subset, choose
from luq.questions.text import TextSource
from luq.store.artefact import Artefact, Tools
from luq.store.keys import Identified
from luq.store.store import write_json

if TYPE_CHECKING:
    from luq.evaluation.lm import LoadedVLM
    from luq.models.vlm import VLM

T = TypeVar("T")
REFERENCE = "reference.safetensors"
PROMPTS = "prompts.jsonl"
LOSSES = "losses.json"
Layers = tuple[PackedLayer, ...]


@dataclass(frozen=True)
class Batching:
    """How questions are put, where that can change an answer: in which company."""

    batch_size: int = 32  # padding changes last bits
    compute: str = "model"  # the type in which products are computed: the model's, or bfloat16
    strict: bool = field(default=False, metadata=VOLATILE)  # the first bad row is an error


@dataclass(frozen=True, eq=False, repr=False)
class Asked(Artefact[T], abstract=True):
    """What comes of asking a model with these packed layers the questions of one benchmark.

    `parts` are what is packed beside the decoder's linears; parts that are not there are 16-bit.
    """

    version: ClassVar[int] = 3
    checkpoint: Checkpoint
    layers: Layers
    table: QuestionTable
    subset: Subset
    batching: Batching = Batching()
    parts: Parts = ()


@dataclass(frozen=True, eq=False, repr=False)
class Answers(Asked[Kept]):
    """What the model says."""

    stage: ClassVar[str] = "evaluation"

    @property
    def description(self) -> str:
        return f"the answers to {self.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation import ask
        from luq.evaluation.predictions import Predictions

        questions = self.table.open(tools)
        ids = choose(questions, self.subset)
        under_way = Predictions(tools.store.resumable(self, "partial.jsonl"))
        if under_way.reused:
            tools.progress.note(
                f"{under_way.reused} of {len(ids)} answers to {self.table.benchmark} are kept from "
                "before the interruption"
            )
        packed = Packed(self.layers, self.parts)
        lm = installed_lm(self.checkpoint, packed, self.batching, tools)
        with tools.progress.bar(self.table.benchmark, len(ids)) as advance:
            rows = ask.ask(
                lm, questions, ids, under_way, self.batching.strict, lambda n: advance("", n)
            )
        write_rows(folder / ANSWERS, ask.with_docs(questions, rows))

    def read(self, folder: Path) -> list[AnswerRow]:
        rows = read_answers(folder / ANSWERS)
        if self.batching.strict:  # answers that were kept without it too
            refuse_errors(self.table.benchmark, rows)
        return rows


@dataclass(frozen=True, eq=False, repr=False)
class TaskAnswers(Artefact[Kept]):
    """What the model says to a task of lm-eval's, with lm-eval's score."""

    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 1
    checkpoint: Checkpoint
    layers: Layers
    table: TaskTable
    subset: Subset
    batching: Batching = Batching()
    parts: Parts = ()

    @property
    def description(self) -> str:
        return f"the answers to {self.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation.lm_eval_tasks import TaskLM, run_task
        from luq.evaluation.predictions import Predictions

        task = self.table.opened()
        under_way = Predictions(tools.store.resumable(self, "partial.jsonl"))
        vlm = installed(self.checkpoint, Packed(self.layers, self.parts), tools)
        how = self.batching.batch_size, self.batching.compute
        lm = tools.hold(TaskLM, (self.checkpoint, *how), lambda: TaskLM(vlm, *how))
        lm.begin_task(under_way, self.batching.strict, tools.progress)
        result, lm_eval = run_task(lm, task, self.subset)
        write_result(folder, result, lm_eval)

    def read(self, folder: Path) -> TaskResult:
        result = read_kept(folder)
        if not isinstance(result, TaskResult):
            raise StoreError(f"{folder} lacks {RESULTS}: delete the folder, and run again")
        if self.batching.strict:
            refuse_errors(self.table.benchmark, result.rows)
        return result


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceProbabilities(Asked[Path]):
    """What the 16-bit model thinks of the reference answers' tokens; its value is a file."""

    stage: ClassVar[str] = "reference"

    @property
    def description(self) -> str:
        return f"the 16-bit model's probabilities of {self.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation import fidelity

        questions = self.table.open(tools)
        ids = choose(questions, self.subset)
        lm = installed_lm(self.checkpoint, Packed(self.layers), self.batching, tools)
        with tools.progress.bar(self.table.benchmark, len(ids)) as advance:
            logs = fidelity.log_probabilities(
                lm, questions, ids, self.batching.strict, lambda n: advance("", n)
            )
            fidelity.write_reference(folder / REFERENCE, logs)

    def read(self, folder: Path) -> Path:
        return folder / REFERENCE


@dataclass(frozen=True, eq=False, repr=False)
class Fidelity(Artefact[FidelityRows]):
    """How far packed layers moved the probabilities of the reference answers from 16 bit."""

    stage: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 1
    layers: Layers
    reference: ReferenceProbabilities
    parts: Parts = ()

    @property
    def description(self) -> str:
        return f"the fidelity on {self.reference.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation import fidelity

        reference = self.reference
        reference_file = tools.store.get(reference)
        questions = reference.table.open(tools)
        ids = choose(questions, reference.subset)
        packed = Packed(self.layers, self.parts)
        lm = installed_lm(reference.checkpoint, packed, reference.batching, tools)
        with tools.progress.bar(reference.table.benchmark, len(ids)) as advance:
            logs = fidelity.log_probabilities(
                lm, questions, ids, reference.batching.strict, lambda n: advance("", n)
            )
            expected = fidelity.read_reference(reference_file)
            rows = fidelity.measure(logs, expected)
        write_rows(folder / FIDELITY, [*rows.measured, *rows.left_out])

    def read(self, folder: Path) -> FidelityRows:
        rows = read_fidelity(folder / FIDELITY)
        if self.reference.batching.strict:
            refuse_errors(self.reference.table.benchmark, rows.left_out)
        return rows


@dataclass(frozen=True, eq=False, repr=False)
class TextLosses(Artefact[list[float]]):
    """Mean negative log-likelihood (nats per token) of sequences of held-out text."""

    stage: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 2
    checkpoint: Checkpoint
    layers: Layers
    text: TextSource
    tokens: int  # at most so many in all
    length: int  # of a sequence
    parts: Parts = ()
    compute: str = "model"  # as of `Batching`

    @property
    def description(self) -> str:
        return "the perplexity"

    def check(self, tools: Tools) -> None:
        """A DataError if the text is too short, before any layer is packed for it."""
        from luq.evaluation.perplexity import text_tokens
        from luq.models.vlm import loaded

        tokenizer = loaded(tools, self.checkpoint).processor.tokenizer
        text_tokens(tokenizer, self.text, self.tokens, self.length)

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation.perplexity import text_losses, text_tokens

        vlm = installed(self.checkpoint, Packed(self.layers, self.parts), tools)
        sequences = text_tokens(vlm.processor.tokenizer, self.text, self.tokens, self.length)
        write_json(folder / LOSSES, text_losses(vlm, sequences, self.compute))

    def read(self, folder: Path) -> list[float]:
        losses: list[float] = json.loads((folder / LOSSES).read_text(encoding="utf-8"))
        return losses


@dataclass(frozen=True, eq=False, repr=False)
class GgufFiles(Identified):
    """A language model and its tower for llama.cpp, as they stand in keys: by their bytes."""

    model: str  # sha256
    mmproj: str
    model_file: Path = field(metadata=VOLATILE)
    mmproj_file: Path = field(metadata=VOLATILE)


@dataclass(frozen=True, eq=False, repr=False)
class GgufAnswers(Artefact[list[AnswerRow]]):
    """What a folder says in llama.cpp to the questions of one benchmark."""

    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 1
    files: GgufFiles
    library: str  # version of llama-cpp-python
    system_prompt: str
    table: QuestionTable
    subset: Subset

    @property
    def description(self) -> str:
        return f"llama.cpp's answers to {self.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation import ask
        from luq.evaluation.llama_cpp import LlamaCppLM
        from luq.evaluation.predictions import Predictions

        questions = self.table.open(tools)
        ids = choose(questions, self.subset)
        under_way = Predictions(tools.store.resumable(self, "partial.jsonl"))
        lm = tools.hold(LlamaCppLM, (self.files, self.system_prompt), self._opened)
        with tools.progress.bar(self.table.benchmark, len(ids)) as advance:
            rows = ask.ask(lm, questions, ids, under_way, advance=lambda n: advance("", n))
        write_rows(folder / ANSWERS, ask.with_docs(questions, rows))

    def _opened(self) -> Any:
        from luq.evaluation.llama_cpp import LlamaCpp, LlamaCppLM

        llama = LlamaCpp(self.files.model_file, self.files.mmproj_file)
        return LlamaCppLM(llama, self.system_prompt)

    def read(self, folder: Path) -> list[AnswerRow]:
        return read_answers(folder / ANSWERS)


@dataclass(frozen=True, eq=False, repr=False)
class FirstTokens(Artefact[list[PromptRow]]):
    """What a run's packed model reads of one benchmark's questions, and would say first.

    `layers` and `parts` are keys of what the run packed: nothing is packed for this.
    """

    stage: ClassVar[str] = "first_tokens"
    version: ClassVar[int] = 1
    checkpoint: Checkpoint
    layers: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]  # part, key
    table: QuestionTable
    subset: Subset
    batching: Batching

    @property
    def description(self) -> str:
        return f"the first tokens of the answers to {self.table.benchmark}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.evaluation import fidelity
        from luq.models.vlm import loaded

        questions = self.table.open(tools)
        ids = choose(questions, self.subset)
        vlm = loaded(tools, self.checkpoint)
        layers = [tools.store.verify("layers", key) for key in self.layers]
        parts = {part: tools.store.verify("parts", key) for part, key in self.parts}
        install_folders(vlm, layers, parts)
        batch_size = self.batching.batch_size
        lm = held_lm(vlm, self.checkpoint, self.batching, tools)
        rows: list[PromptRow] = []
        with tools.progress.bar(self.table.benchmark, len(ids)) as advance:
            for start in range(0, len(ids), batch_size):
                batch = ids[start : start + batch_size]
                rows += fidelity.first_tokens(lm, questions, batch)
                advance("", len(batch))
        write_rows(folder / PROMPTS, rows)

    def read(self, folder: Path) -> list[PromptRow]:
        lines = (folder / PROMPTS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


class Packed(NamedTuple):
    """What of a model is packed: its decoder's layers, and parts beside them."""

    layers: Layers
    parts: Parts = ()


def installed(checkpoint: Checkpoint, packed: Packed, tools: Tools) -> "VLM":
    """The loaded model with what is packed in it, checked bit for bit against its files."""
    from luq.models.vlm import loaded

    vlm = loaded(tools, checkpoint)
    layers = [tools.store.get(layer).folder for layer in packed.layers]
    install_folders(vlm, layers, folders_of(packed.parts, tools))
    return vlm


def install_folders(vlm: "VLM", layers: list[Path], parts: dict[str, Path]) -> None:
    """Put packed layers, and packed parts by name, in a loaded model; compare them bit for bit."""
    from luq.quantization.rest import assert_parts_installed, install_parts
    from luq.quantization.walk import assert_installed, install

    if install(vlm, layers):
        assert_installed(vlm, layers)
    if install_parts(vlm, parts):
        assert_parts_installed(vlm, parts)


def installed_lm(
    checkpoint: Checkpoint, packed: Packed, batching: Batching, tools: Tools
) -> "LoadedVLM":
    """The lm-eval model around the loaded model with what is packed in it."""
    vlm = installed(checkpoint, packed, tools)
    return held_lm(vlm, checkpoint, batching, tools)


def held_lm(vlm: "VLM", checkpoint: Checkpoint, batching: Batching, tools: Tools) -> "LoadedVLM":
    """The lm-eval model around a loaded model, made once."""
    from luq.evaluation.ask import make_lm
    from luq.evaluation.lm import LoadedVLM

    how = batching.batch_size, batching.compute
    return tools.hold(LoadedVLM, (checkpoint, *how), lambda: make_lm(vlm, *how))
