"""Where a benchmark's questions come from: a plug-in, a local file or folder, or the hub.

A `QuestionTable` is what stands in keys: the task, and the content of what is read. Rows and images
are read from memory-mapped tables when they are needed, and decoded batch by batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from luq.config import EvaluationConfig
from luq.config.checks import VOLATILE
from luq.errors import DataError
from luq.plugins import plugin
from luq.questions import prompts
from luq.store.artefact import Artefact, Tools
from luq.store.digests import file_digest
from luq.store.keys import Identified, digest

if TYPE_CHECKING:
    from PIL.Image import Image

TASKS = Path(__file__).parent / "tasks"
IMAGE_COLUMNS = ("image", "decoded_image")
HUB = "hub"


class Spec(NamedTuple):
    """What a task YAML says of its dataset.

    `images`: the configuration, split and key of a table of images of its own.
    """

    path: str
    name: str | None
    split: str
    data: str  # name of the local file or folder
    columns: list[str]
    optional: list[str]
    images: dict[str, str] | None
    calibration: str | None  # the split that no benchmark asks


class _TextLoader(yaml.SafeLoader):
    """Reads lm-eval's task YAML with the names of functions as texts."""


class _FunctionLoader(yaml.SafeLoader):
    """Reads lm-eval's task YAML; `!function module.name` is what stands under that name."""


def _function_name(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    module, _, name = _function_name(loader, node).rpartition(".")
    return getattr(import_module(module), name)


_TextLoader.add_constructor("!function", _function_name)
_FunctionLoader.add_constructor("!function", _function)


def _merged(benchmark: str, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    """A benchmark's task YAML with those it includes."""
    merged: dict[str, Any] = {}
    file: str | None = f"{benchmark}.yaml"
    while file:
        content = yaml.load((TASKS / file).read_text(encoding="utf-8"), loader)
        merged = content | merged
        file = content.get("include")
    del merged["include"]
    return merged


def task_config(benchmark: str) -> dict[str, Any]:
    """A benchmark's task as lm-eval takes it, with its functions."""
    return _merged(benchmark, _FunctionLoader)


@lru_cache(maxsize=32)
def task_digest(benchmark: str) -> str:
    """Digest of all that a task's YAML says: dataset, prompts, stop strings, answer length."""
    return digest("task", _merged(benchmark, _TextLoader))


@lru_cache(maxsize=32)
def spec(benchmark: str) -> Spec:
    """What a benchmark's task says of its dataset."""
    task = _merged(benchmark, _TextLoader)
    about = task["metadata"]
    return Spec(
        path=task["dataset_path"],
        name=task.get("dataset_name"),
        split=task["test_split"],
        data=about.get("data", benchmark),
        columns=about["columns"],
        optional=about.get("optional", []),
        images=about.get("images"),
        calibration=about.get("calibration_split"),
    )


@dataclass(frozen=True)
class LazyImage:
    """An image that stays encoded on disk until it is converted: all that lm-eval does with it."""

    table: Any
    row: int
    what: str

    def convert(self, mode: str = "RGB") -> "Image":
        """The decoded image; a DataError if it cannot be decoded."""
        from PIL import Image

        if self.row < 0:
            raise DataError(f"{self.what}: there is no such image in the table of images")
        encoded = self.table[self.row][self.table.column_names[0]]
        file = BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]
        try:
            return Image.open(file).convert(mode)
        except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
            raise DataError(f"{self.what}: the image does not decode ({error})") from error


@dataclass(frozen=True)
class Questions:
    """One benchmark's rows.

    `docs` has no image; `image_rows[i]` is where doc i's image is in `images`. `has_splits`: the
    source has its own questions for the selection and the report.
    """

    benchmark: str
    docs: Any = field(repr=False)
    images: Any = field(repr=False)
    image_rows: Sequence[int] = field(repr=False)
    has_splits: bool = False

    def image(self, row: int) -> LazyImage:
        """The image of a row."""
        return LazyImage(self.images, self.image_rows[row], f"{self.benchmark} row {row}")


class Location(NamedTuple):
    """A dataset as `datasets` reads it: a path, and its parquet files if it is no repository."""

    path: str
    files: list[str] | None


@dataclass(frozen=True, eq=False, repr=False)
class QuestionTable(Identified):
    """A benchmark's questions as they stand in keys: by task and content, never by place."""

    benchmark: str
    content: Artefact[Path] | str  # what a plug-in makes, or the digest of what was read
    task: str  # digest of the task's YAML
    prompts: int  # version of the prompts' wording
    locations: tuple[Location, ...] = field(default=(), metadata=VOLATILE)
    spec: Spec | None = field(default=None, metadata=VOLATILE)
    cache: Path = field(default=Path(), metadata=VOLATILE)

    def open(self, tools: Tools) -> Questions:
        """The rows, opened once."""
        tables = tools.hold(_OpenTables, None, _OpenTables)
        if self not in tables:
            tables[self] = self._open(tools)
        return tables[self]

    def _open(self, tools: Tools) -> Questions:
        about = self.spec or spec(self.benchmark)
        if isinstance(self.content, Artefact):
            with tools.progress.stage("data"):
                file = tools.store.get(self.content) / f"{about.data}.parquet"
            locations = (Location("parquet", [str(file.resolve())]),)
            questions = _read_questions(self.benchmark, about, locations, self.cache).questions
            return replace(questions, has_splits=True)
        opened = _read_questions(self.benchmark, about, self.locations, self.cache)
        if self.locations[0].files is None and opened.content != self.content:
            raise DataError(
                f"the questions of {self.benchmark} ({self.locations[0].path}) changed since this "
                "run began: run it again"
            )
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
        return _table(benchmark, about, shipped.questions(split), (), cache)
    locations = _locations(about, source, (config.organisation, config.fallback))
    content = _content(benchmark, about, locations, cache, download)
    return _table(benchmark, about, content, locations, cache)


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
    locations = _locations(about, source, organisations)
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
    return QuestionTable(benchmark, content, task, prompts.VERSION, locations, about, cache)


def _content(
    benchmark: str, about: Spec, locations: tuple[Location, ...], cache: Path, download: bool
) -> str:
    """Digest of what holds the questions; only a repository has to be opened for it."""
    files = locations[0].files
    if files is not None:
        return digest("questions", [_file_identity(file) for file in files])
    return _read_questions(benchmark, about, locations, cache, download).content


def _file_identity(file: str) -> list[Any]:
    return [Path(file).name, *file_digest(Path(file))]


class _Table(NamedTuple):
    """A table of `datasets`, and the identities of what it was read from."""

    rows: Any
    identities: list[list[Any]]


def _read(location: Location, name: str | None, split: str, cache: Path, download: bool) -> _Table:
    """A split of a dataset, which `datasets` prepares in `cache`."""
    is_here = location.files is not None or Path(location.path).is_dir()
    if not is_here:
        builder = _hub_builder(location.path, name, cache, download)
        builder.download_and_prepare()
        # The hash of a repository's builder is the commit, also where it is read from the cache.
        return _Table(builder.as_dataset(split=split), [[name, split, builder.hash]])
    from datasets import load_dataset_builder

    if location.files:
        files = {split: location.files}
        builder = load_dataset_builder(location.path, cache_dir=str(cache), data_files=files)
    else:
        builder = load_dataset_builder(location.path, name, cache_dir=str(cache))
    builder.download_and_prepare()
    by_split = builder.config.data_files
    read = by_split.get(split) or [file for some in by_split.values() for file in some]
    identities = [_file_identity(str(file)) for file in read]
    return _Table(builder.as_dataset(split=split), identities)


def _hub_builder(path: str, name: str | None, cache: Path, download: bool) -> Any:
    """The builder of a repository on the hub; without download, of its newest copy in `cache`.

    Without a connection `datasets` itself turns to the cache.
    """
    from datasets import load_dataset_builder
    from datasets.packaged_modules.cache.cache import Cache

    if download:
        return load_dataset_builder(path, name, cache_dir=str(cache))
    dataset = path.rpartition("/")[2]
    return Cache(str(cache), dataset, name, version="auto", hash="auto", repo_id=path)


def _local(folder: Path, about: Spec) -> Location:
    """A local source: its parquet files, or the clone of a dataset repository."""
    if folder.is_file():
        return Location("parquet", [str(folder.resolve())])
    single = folder / f"{about.data}.parquet"
    if single.exists():
        return Location("parquet", [str(single.resolve())])
    if (folder / about.data).is_dir():
        folder = folder / about.data
    shards = sorted(str(file.resolve()) for file in folder.glob("*.parquet"))
    if shards:
        return Location("parquet", shards)
    if not (folder / "README.md").exists():
        raise DataError(
            f"{folder / about.data}.parquet is missing: give a parquet file, a folder with "
            f"{about.data}.parquet or with the clone of {about.path} as {about.data}/"
        )
    return Location(str(folder.resolve()), None)


def _locations(about: Spec, source: str, organisations: tuple[str, str]) -> tuple[Location, ...]:
    """What to try in turn: the organisation of the config first, then its old name."""
    if source != HUB:
        return (_local(Path(source).expanduser(), about),)
    owner, _, name = about.path.partition("/")
    if owner != EvaluationConfig.organisation:  # a dataset of its own authors
        return (Location(about.path, None),)
    paths = dict.fromkeys(f"{organisation}/{name}" for organisation in organisations)
    return tuple(Location(path, None) for path in paths)


def _first_readable(
    locations: tuple[Location, ...], name: str | None, split: str, cache: Path, download: bool
) -> _Table:
    failures: list[str] = []
    for location in locations:
        try:
            return _read(location, name, split, cache, download)
        except Exception as error:  # noqa: BLE001 (datasets and the hub raise many kinds)
            reason = str(error).splitlines()[0] if str(error) else ""
            place = location.files[0] if location.files else location.path
            failures.append(f"{place}: {type(error).__name__} {reason}")
    raise DataError(
        f"the questions cannot be read ({'; '.join(failures)}): connect to the hub, or set "
        "evaluation.data or evaluation.sources"
    )


class _Opened(NamedTuple):
    questions: Questions
    content: str


def _read_questions(
    benchmark: str,
    about: Spec,
    locations: tuple[Location, ...],
    cache: Path,
    download: bool = True,
) -> _Opened:
    """Read a benchmark's table, find its images, and check its columns."""
    from datasets import Image as ImageFeature

    folder = cache / "datasets"
    table = _first_readable(locations, about.name, about.split, folder, download)
    names = table.rows.column_names
    identities = table.identities
    image = next((column for column in IMAGE_COLUMNS if column in names), None)
    needed = list(about.columns)
    image_rows: Sequence[int]
    if image or about.images is None or locations[0].files:
        needed.append(image or "image")
        images = table.rows
        image_rows = range(len(images))
    else:
        of_images = about.images
        more = _first_readable(locations, of_images["name"], of_images["split"], folder, download)
        images = more.rows
        identities = identities + more.identities
        image = "image"
        row_of_key = {key: row for row, key in enumerate(images.select_columns(["id"])["id"])}
        image_rows = [row_of_key.get(key, -1) for key in table.rows[of_images["key"]]]
    missing = [column for column in needed if column not in names]
    if missing:
        place = locations[0].files or locations[0].path
        raise DataError(
            f"the questions of {benchmark} ({place}) lack the column {', '.join(missing)}: "
            f"they have {', '.join(names)}"
        )
    optional = [column for column in about.optional if column in names]
    docs = table.rows.select_columns([*about.columns, *optional])
    images = images.select_columns([image]).cast_column(image, ImageFeature(decode=False))
    return _Opened(Questions(benchmark, docs, images, image_rows), digest("questions", identities))
