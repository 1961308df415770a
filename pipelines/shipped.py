"""Folders that were exported for llama.cpp and answered there what their runs were asked.

outputs/gguf/KEY.json     what was seen of one folder, in one version of llama.cpp
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from luq.config.building import build
from luq.errors import ConfigError, ModelError, StoreError
from luq.evaluation.agreement import Agreement
from luq.evaluation.artefacts import GgufFiles
from luq.export import checksums
from luq.export.about import ABOUT, GGUF_LAYOUT, MMPROJ, MODEL, ExportedFolder, read_about
from luq.store.keys import digest
from luq.store.sealed import read_table
from pipelines import console, runs_folder
from pipelines.record import BenchmarkScore, Interval, RunRecord
from pipelines.sheet import Column, Sheet, text_column

FOLDER = "gguf"  # of outputs
NOTHING = "-"


@dataclass(frozen=True)
class Alike:
    """How alike the answers to one benchmark are: those of the run, and llama.cpp's."""

    n: int  # questions that both answered
    same_answers: int
    prompts: int  # of which both sides have the tokens
    same_prompts: int
    kl: Interval | None  # of the answer's first token, run to llama.cpp, nats

    @classmethod
    def of(cls, agreement: Agreement) -> "Alike":
        """The record of an agreement."""
        kl = None if agreement.kl is None else Interval(*agreement.kl)
        return cls(
            agreement.n, agreement.same_answers, agreement.prompts, agreement.same_prompts, kl
        )


@dataclass(frozen=True)
class ShippedRecord:
    """What was seen of a folder in llama.cpp."""

    key: str
    run: str  # key of the run that it was exported from
    name: str  # of the folder
    library: str  # llama-cpp-python and its version
    file_bytes: int
    recoded: dict[str, str]  # tier -> type; the files are then not what the run scored
    differences: list[str]  # what llama.cpp is known to compute otherwise
    scores: dict[str, BenchmarkScore]
    mean_score: float
    mean_retention: float | None  # of the 16-bit model in transformers
    run_mean_score: float
    alike: dict[str, Alike]
    alike_in_all: Alike
    answers: dict[str, str]  # benchmark -> key
    used: list[str]  # STAGE/KEY of all that it rests on
    finished: float  # seconds since the epoch


def is_gguf_folder(folder: Path) -> bool:
    """Whether a folder was exported for llama.cpp."""
    return (folder / ABOUT).is_file() and read_about(folder).layout == GGUF_LAYOUT


def checked(folder: Path) -> ExportedFolder:
    """What luq.json says of a folder whose files are those that were exported.

    Raises:
        ConfigError: it is not for llama.cpp, or has nothing that sees images.
        ModelError: it was not exported by LUQ, or a file is damaged, missing or foreign.
    """
    about = read_about(folder)
    if about.layout != GGUF_LAYOUT:
        raise ConfigError(
            f"{folder} was exported as {about.layout}: --gguf asks what `luq export --format gguf` "
            "wrote"
        )
    checksums.verify(folder)
    if MODEL not in about.files:
        raise ModelError(f"{folder / ABOUT} names no {MODEL}: export the folder again")
    if MMPROJ not in about.files:
        raise ConfigError(
            f"{folder} has no {MMPROJ}: it is a language model alone, and benchmarks show images"
        )
    return about


def run_of(outputs: Path, folder: Path, about: ExportedFolder) -> RunRecord:
    """The run that a folder was exported from."""
    if about.run is None:
        raise ConfigError(f"{folder} was exported from no run: there are no questions to ask again")
    file = runs_folder.record_file(outputs, about.run.key)
    if not file.exists():
        raise ConfigError(
            f"the run {about.run.key}, from which {folder} was exported, is not in {outputs}: give "
            f"the folder of its runs with --outputs, or make it again: {about.run.command}"
        )
    return runs_folder.read(file)


def files_of(folder: Path, about: ExportedFolder) -> GgufFiles:
    """A folder's files as they stand in keys."""
    sums = about.files
    return GgufFiles(sums[MODEL].sha256, sums[MMPROJ].sha256, folder / MODEL, folder / MMPROJ)


def key_of(run: str, files: GgufFiles, library: str) -> str:
    """The key of what is seen of a run's folder in a version of llama.cpp."""
    return digest(FOLDER, run, files.key, library)


def record_file(outputs: Path, key: str) -> Path:
    """Where the record of a key stands, or would stand."""
    return outputs / FOLDER / f"{key}.json"


def iterate(outputs: Path) -> Iterator[ShippedRecord]:
    """All records of folders, by key.

    Raises:
        StoreError: one cannot be read.
    """
    for file in sorted((outputs / FOLDER).glob("*.json")):
        try:
            yield build(ShippedRecord, read_table(file), "record", strict=False)
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"{file} cannot be read ({error}): delete it, and evaluate the folder again"
            ) from error


def find(outputs: Path, folder: Path) -> ShippedRecord:
    """The latest record of a folder.

    Raises:
        ConfigError: there is none.
    """
    about = checked(folder)
    record = run_of(outputs, folder, about)
    files = files_of(folder, about)
    records: list[ShippedRecord] = []
    for shipped in iterate(outputs):
        if shipped.key == key_of(record.key, files, shipped.library):
            records.append(shipped)
    if not records:
        raise ConfigError(
            f"{folder} was not asked yet: luq evaluate --gguf {shlex.quote(str(folder))} "
            f"--outputs {shlex.quote(str(outputs))}"
        )
    return max(records, key=lambda shipped: shipped.finished)


def as_run(shipped: ShippedRecord, record: RunRecord) -> RunRecord:
    """A run's record with the answers of its folder, for comparisons."""
    artefacts = replace(record.artefacts, answers=shipped.answers)
    return replace(
        record,
        key=shipped.key,
        name=shipped.name,
        scores=shipped.scores,
        mean_score=shipped.mean_score,
        mean_retention=shipped.mean_retention,
        fidelity={},
        artefacts=artefacts,
    )


def show(shipped: ShippedRecord, record: RunRecord) -> None:
    """Print what was seen of a folder, a row per benchmark."""
    table = Sheet(
        f"{shipped.name}: the run in transformers, its files in llama.cpp",
        [
            text_column("benchmark"),
            Column("n", rank=1),
            Column("run"),
            Column("llama.cpp"),
            Column("same answers"),
            Column("same prompts", rank=2),
            Column("KL", rank=3),
        ],
    )
    last = list(shipped.alike)[-1]
    for benchmark, alike in shipped.alike.items():
        table.add_row(
            benchmark,
            *_cells(record.scores[benchmark].score, shipped.scores[benchmark].score, alike),
            ends_section=benchmark == last,
        )
    table.add_row("all", *_cells(shipped.run_mean_score, shipped.mean_score, shipped.alike_in_all))
    console.out.print(table)
    console.out.print(
        f"{shipped.library}; scores in percent; KL of the answers' first tokens in nats, "
        f"with its 95 % interval; "
        f"{shipped.file_bytes:,} bytes in the files"
    )
    for tier, types in shipped.recoded.items():
        console.out.print(f"coded again: {tier} in {types}: the files are not what the run scored")
    for difference in shipped.differences:
        console.out.print(f"known to differ: {difference}")


def _cells(run: float, llama_cpp: float, alike: Alike) -> list[str]:
    kl = NOTHING
    if alike.kl is not None:
        kl = f"{alike.kl.mean:.1e} [{alike.kl.low:.0e}, {alike.kl.high:.0e}]"
    return [
        str(alike.n),
        f"{run:.1f}",
        f"{llama_cpp:.1f}",
        f"{alike.same_answers} of {alike.n}",
        f"{alike.same_prompts} of {alike.prompts}",
        kl,
    ]
