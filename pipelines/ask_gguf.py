"""`luq evaluate --gguf DIR`: a folder for llama.cpp answers there what its run was asked."""

import shlex
import time
from pathlib import Path
from typing import Any

from luq.config.building import plain
from luq.errors import ConfigError, DataError, ModelError
from luq.evaluation.agreement import Agreement, agreement, pooled
from luq.evaluation.answers import Scored, read_kept, rows_of, scored
from luq.evaluation.artefacts import FirstTokens, GgufAnswers, GgufFiles
from luq.evaluation.llama_cpp import libraries
from luq.export.about import ExportedFolder
from luq.graph import QuestionSet, question_set
from luq.models.checkpoint import checkpoint
from luq.store.artefact import Artefact
from luq.store.sealed import sealed
from luq.store.store import Store, write_json
from pipelines import console, shipped
from pipelines.clock import StageClock
from pipelines.display import Display
from pipelines.execute import HOLDINGS
from pipelines.record import RunRecord
from pipelines.scores import score_part
from pipelines.shipped import Alike, ShippedRecord


def evaluate(outputs: Path, folder: Path) -> None:
    """Ask a folder in llama.cpp what its run was asked, and print both side by side.

    Args:
        outputs: where the run's record and store are.
        folder: what `luq export --format gguf` wrote.

    Raises:
        LuqError: it is no such folder, or damaged; llama.cpp or the run is not there; or the run
            asked nothing that llama.cpp can be asked.
    """
    about = shipped.checked(folder)
    library = f"llama-cpp-python {libraries().version}"
    record = shipped.run_of(outputs, folder, about)
    clock = StageClock(Display())
    store = Store(outputs / "store", clock, HOLDINGS)
    clock.store = store
    questions = question_set(record.config.evaluation, store.root)
    if not questions.tables:
        raise ConfigError(
            f"the run {record.name} answered no built-in benchmark: llama.cpp is asked those alone"
        )
    files = shipped.files_of(folder, about)
    shipped_record = _Asked(store, record, questions, files, library).compared(about)
    write_json(shipped.record_file(outputs, shipped_record.key), sealed(plain(shipped_record)))
    shipped.show(shipped_record, record)
    console.out.print(
        f"paired, with intervals: luq compare {record.key} {shlex.quote(str(folder))}"
    )


class _Asked:
    """The artefacts of one folder beside its run.

    Args:
        store: with the run's answers and packed layers.
        record: the run's.
        questions: what it was asked.
        files: of the folder.
        library: that answers.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        questions: QuestionSet,
        files: GgufFiles,
        library: str,
    ):
        self.store = store
        self.record = record
        self.checkpoint = checkpoint(record.config.model)
        if self.checkpoint.digest != record.model_fingerprint:
            raise ModelError(
                f"{self.checkpoint.folder} is not the checkpoint that the run {record.key} "
                "quantized: give it back, or run again"
            )
        self.library = library
        self.files = files
        system_prompt = record.config.model.system_prompt
        subset = questions.subset
        self.answers: dict[str, GgufAnswers] = {}
        self.first: dict[str, FirstTokens] = {}
        parts = tuple(record.artefacts.parts.items())
        layers = tuple(record.artefacts.layers)
        for name, table in questions.tables.items():
            self.answers[name] = GgufAnswers(files, library, system_prompt, table, subset)
            self.first[name] = FirstTokens(
                self.checkpoint, layers, parts, table, subset, questions.batching
            )

    def compared(self, about: ExportedFolder) -> ShippedRecord:
        """Ask, and compare."""
        scores: dict[str, Scored] = {}
        reference: dict[str, Scored] = {}
        run_scores: dict[str, Scored] = {}
        agreements: dict[str, Agreement] = {}
        for benchmark, answers in self.answers.items():
            first = self.store.get(self.first[benchmark])
            rows = self.store.get(answers)
            run_key = self.record.artefacts.answers[benchmark]
            float_key = self.record.artefacts.float_answers[benchmark]
            run_rows = rows_of(read_kept(self.store.verify("evaluation", run_key)))
            if [row["id"] for row in run_rows] != [row["id"] for row in rows]:
                raise DataError(
                    f"{benchmark} has other questions than the run was asked: give its data back, "
                    "or run again"
                )
            scores[benchmark] = scored(benchmark, rows, answers.key)
            run_scores[benchmark] = scored(benchmark, run_rows, run_key)
            float_rows = read_kept(self.store.verify("evaluation", float_key))
            reference[benchmark] = scored(benchmark, float_rows, float_key)
            agreements[benchmark] = agreement(run_rows, rows, first)
        part = score_part(scores, reference, None)
        run_part = score_part(run_scores, reference, None)
        artefacts: list[Artefact[Any]] = [*self.answers.values(), *self.first.values()]
        return ShippedRecord(
            key=shipped.key_of(self.record.key, self.files, self.library),
            run=self.record.key,
            name=self.files.model_file.parent.name,
            library=self.library,
            file_bytes=about.file_bytes,
            recoded=about.recoded,
            differences=about.differences,
            scores=part.scores,
            mean_score=part.mean_score,
            mean_retention=part.mean_retention,
            run_mean_score=run_part.mean_score,
            alike={benchmark: Alike.of(comparison) for benchmark, comparison in agreements.items()},
            alike_in_all=Alike.of(pooled(list(agreements.values()))),
            answers={benchmark: answers.key for benchmark, answers in self.answers.items()},
            used=[artefact.label for artefact in artefacts],
            finished=time.time(),
        )
