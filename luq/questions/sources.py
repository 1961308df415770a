"""Where a benchmark's questions come from: a plug-in, a local file or folder, or the hub.

A `QuestionTable` is what stands in keys: the task, and the content of what is read.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from luq.config import EvaluationConfig
from luq.config.checks import VOLATILE
from luq.errors import DataError
from luq.plugins import plugin
from luq.questions import prompts
from luq.questions.folders import Files, Wanted, check_files, table_files
from luq.questions.prompts import DEFAULT_PROTOCOL
from luq.questions.specs import Spec, spec, task_digest
from luq.questions.tables import Location, Questions, change_error, file_identities, read_questions
from luq.store.artefact import Artefact, Tools
from luq.store.keys import Identified, digest

HUB = "hub"


@dataclass(frozen=True, eq=False, repr=False)
class QuestionTable(Identified):
    """A benchmark's questions as they stand in keys: by task and content, never by place."""

    benchmark: str
    content: Artefact[Path] | str  # what a plug-in makes, or the digest of what was read
    task: str  # digest of the task's YAML
    prompts: int  # version of the prompts' wording
    protocol: str = DEFAULT_PROTOCOL  # whose wording it is
    locations: tuple[Location, ...] = field(default=(), metadata=VOLATILE)
    spec: Spec | None = field(default=None, metadata=VOLATILE)
    cache: Path = field(default=Path(), metadata=VOLATILE)

    def worded(self, protocol: str) -> "QuestionTable":
        """The table as it is asked in a protocol; the same where that has no wording of its own."""
        benchmark_protocol = prompts.protocol_of(self.benchmark, protocol)
        return replace(
            self, protocol=benchmark_protocol, task=task_digest(self.benchmark, benchmark_protocol)
        )

    def open(self, tools: Tools) -> Questions:
        """The rows, opened once."""
        tables = tools.hold(_OpenTables, None, _OpenTables)
        if self not in tables:
            tables[self] = replace(self._open(tools), protocol=self.protocol)
        return tables[self]

    def check(self, tools: Tools) -> None:
        """Open a table that is not made here, before any work.

        Raises:
            DataError: a column is missing, or the rows cannot be read.
        """
        if not isinstance(self.content, Artefact):
            self.open(tools)

    def _open(self, tools: Tools) -> Questions:
        about = self.spec or spec(self.benchmark)
        if isinstance(self.content, Artefact):
            with tools.progress.stage("data"):
                file = tools.store.get(self.content) / f"{about.data}.parquet"
            locations = (Location(str(file), Files([file])),)
            questions = read_questions(self.benchmark, about, locations, self.cache).questions
            return replace(questions, has_splits=True)
        opened = read_questions(self.benchmark, about, self.locations, self.cache)
        if opened.content != self.content:
            raise change_error(self.benchmark, self.locations[0].path)
        return opened.questions


class _OpenTables(dict[QuestionTable, Questions]):
    """The tables that are open."""


def evaluation_table(
    benchmark: str, config: EvaluationConfig, cache: Path, download: bool = True
) -> QuestionTable:
    """The questions that an evaluation asks of a benchmark.

    Args:
        benchmark: its name.
        config: where questions come from, and which split of a plug-in's.
        cache: folder in which `datasets` may keep what it prepares.
        download: whether questions that are not there may be fetched from the hub.

    Raises:
        DataError: they cannot be read, or (without download) are not there.
    """
    about = spec(benchmark)
    source = config.sources.get(benchmark) or config.sources.get(about.data) or config.data
    shipped = plugin(source)
    if shipped is not None:
        split = "selection" if config.split == "selection" else "report"
        table = _table(benchmark, about, shipped.questions(split), (), cache)
        return table.worded(config.protocol)
    locations = _locations(about, source, (config.organisation, config.fallback), cache)
    content = _content(benchmark, about, locations, cache, download)
    return _table(benchmark, about, content, locations, cache).worded(config.protocol)


def calibration_table(
    benchmark: str, source: str, cache: Path, download: bool = True
) -> QuestionTable:
    """A benchmark's questions for calibration: the training split on the hub, or a folder's.

    Raises:
        DataError: there are none, they cannot be read, or (without download) they are not here.
    """
    about = spec(benchmark)
    if about.calibration is None and source == HUB:
        raise DataError(
            f"{benchmark} has no training split on the hub: calibrate on textvqa, or set "
            "calibration.source to a folder"
        )
    about = about._replace(split=about.calibration or "train")
    organisations = EvaluationConfig.organisation, EvaluationConfig.fallback
    locations = _locations(about, source, organisations, cache)
    content = _content(benchmark, about, locations, cache, download)
    return _table(benchmark, about, content, locations, cache)


def _table(
    benchmark: str,
    about: Spec,
    content: Artefact[Path] | str,
    locations: tuple[Location, ...],
    cache: Path,
) -> QuestionTable:
    task = task_digest(benchmark)
    return QuestionTable(
        benchmark, content, task, prompts.VERSION, locations=locations, spec=about, cache=cache
    )


def _content(
    benchmark: str, about: Spec, locations: tuple[Location, ...], cache: Path, download: bool
) -> str:
    """Digest of what holds the questions; only a repository has to be opened for it."""
    location = locations[0]
    if location.files is not None:
        return digest("questions", file_identities(location))
    return read_questions(benchmark, about, locations, cache, download).content


def _local(source: Path, about: Spec, cache: Path) -> Location:
    """A local source: a parquet file, or the clone of a dataset repository or a part of one.

    Raises:
        DataError: there is neither, or what is there is incomplete.
    """
    single = source if source.is_file() else source / f"{about.data}.parquet"
    if single.is_file():
        check_files([single])
        return Location(str(single), Files([single.resolve()]))
    folder = source / about.data if (source / about.data).is_dir() else source
    files = table_files(folder, Wanted(about.name, about.split), cache)
    if not files.paths:
        raise DataError(
            f"{source / about.data}.parquet is missing: give a parquet file, a folder with "
            f"{about.data}.parquet or with the clone of {about.path} as {about.data}/"
        )
    return Location(str(folder), files, _local_images(folder, about, cache))


def _local_images(folder: Path, about: Spec, cache: Path) -> Files | None:
    """The table of images beside the questions' table; None if it has none of its own."""
    if about.images is None:
        return None
    name = about.images["name"]
    # The user may name the clone, or the folder of the questions in it.
    for root in (folder, folder.parent):
        if (root / name).is_dir():
            files = table_files(root, Wanted(name, about.images["split"]), cache)
            return files if files.paths else None
    return None


def _locations(
    about: Spec, source: str, organisations: tuple[str, str], cache: Path
) -> tuple[Location, ...]:
    """What to try in turn: the organisation of the config first, then its old name."""
    if source != HUB:
        return (_local(Path(source).expanduser(), about, cache / "datasets"),)
    owner, _, name = about.path.partition("/")
    if owner != EvaluationConfig.organisation:  # a dataset of its own authors
        return (Location(about.path),)
    paths = dict.fromkeys(f"{organisation}/{name}" for organisation in organisations)
    return tuple(Location(path) for path in paths)
