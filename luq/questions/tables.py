"""Tables of questions and their images, read from local parquet files or from the hub.

Rows and images are read from memory-mapped tables when they are needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from luq.errors import DataError
from luq.questions import pictures
from luq.questions.folders import Files
from luq.questions.prompts import DEFAULT_PROTOCOL
from luq.questions.specs import Spec
from luq.store.digests import file_digest
from luq.store.keys import digest

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
# Columns of pictures by the names that datasets give them. MathVista has both: there `image` is a
# text, the path that the picture once had.
IMAGE_COLUMNS = ("image", "decoded_image")
IMAGE_KEY = "id"  # the column by which a table of images is found


@dataclass(frozen=True)
class LazyImage:
    """An image that stays encoded on disk until it is converted: all that lm-eval does with it.

    Its size is that of Pillow's images.
    """

    table: Any
    row: int
    what: str

    @property
    def size(self) -> tuple[int, int]:
        """Its width and height, upright, from its header; a DataError if that cannot be read."""
        return self._of(pictures.size_of)

    def convert(self, mode: str = "RGB") -> "Image":
        """The decoded image, upright; a DataError if it cannot be decoded."""
        return self._of(lambda encoded: pictures.decoded(encoded, mode))

    def _of(self, read: Callable[[bytes | None], T]) -> T:
        """What is read of the image's bytes."""
        if self.row < 0:
            raise DataError(f"{self.what}: there is no such image in the table of images")
        encoded = self.table[self.row][self.table.column_names[0]]
        try:
            return read(encoded and encoded["bytes"])
        except DataError as error:
            raise DataError(f"{self.what}: {error}") from error


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
    protocol: str = DEFAULT_PROTOCOL  # whose wording they have

    def image(self, row: int) -> LazyImage:
        """The image of a row."""
        return LazyImage(self.images, self.image_rows[row], f"{self.benchmark} row {row}")


class Location(NamedTuple):
    """Where a benchmark's tables are: a repository on the hub, or local parquet files."""

    path: str  # of the repository, or of what the user named
    files: Files | None = None  # of the questions; None: a repository
    image_files: Files | None = None  # of the table of images, if it is one of its own


def change_error(benchmark: str, path: str) -> DataError:
    """The error for questions that are others than those that stand in keys."""
    return DataError(
        f"the questions of {benchmark} ({path}) changed since this run began: run it again"
    )


def file_identities(location: Location) -> list[list[Any]]:
    """What tells the content of local files from any other: names, sizes and digests."""
    identities: list[list[Any]] = []
    for files in (location.files, location.image_files):
        for path in files.paths if files is not None else []:
            identities.append([path.name, *file_digest(path)])
    return identities


class _Table(NamedTuple):
    """A table of `datasets`, and the identities of what it was read from."""

    rows: Any
    identities: list[list[Any]]


def _read_files(location: Location, files: Files, cache: Path) -> Any:
    """The rows of local parquet files, which `datasets` prepares in `cache`.

    `datasets` takes what it once prepared for what is there now if names and times agree. So each
    state of the files has a folder of its own.

    Raises:
        DataError: they cannot be read, or have other rows than the README says.
    """
    from datasets import load_dataset_builder

    states: list[list[Any]] = []
    for path in files.paths:
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        states.append([str(path), *state, *file_digest(path)])
    folder = cache / "files" / digest("prepared", states)
    names = [escape(str(path)) for path in files.paths]
    try:
        builder = load_dataset_builder("parquet", data_files={"rows": names}, cache_dir=str(folder))
        builder.download_and_prepare()
        rows = builder.as_dataset(split="rows")
    except Exception as error:  # datasets and pyarrow raise many kinds
        cause = error.__cause__ or error
        raise DataError(
            f"{location.path} cannot be read as parquet ({pictures.reason(cause)}): copy or "
            "download it again"
        ) from error
    if files.rows is not None and len(rows) != files.rows:
        raise DataError(
            f"{location.path} holds {len(rows)} rows of the {files.rows} that its README says: "
            "download the dataset again"
        )
    return rows


def _read_repository(
    path: str, name: str | None, split: str, cache: Path, download: bool
) -> _Table:
    """A split of a dataset on the hub, which `datasets` prepares in `cache`."""
    builder = _hub_builder(path, name, cache, download)
    builder.download_and_prepare()
    # The hash of a repository's builder is the commit, also where it is read from the cache.
    return _Table(builder.as_dataset(split=split), [[name, split, builder.hash]])


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


def _first_readable(
    locations: tuple[Location, ...], name: str | None, split: str, cache: Path, download: bool
) -> _Table:
    """A table of the first repository that can be read."""
    failures: list[str] = []
    for location in locations:
        try:
            return _read_repository(location.path, name, split, cache, download)
        except Exception as error:  # noqa: BLE001 (datasets and the hub raise many kinds)
            failures.append(f"{location.path}: {pictures.reason(error)}")
    raise DataError(
        f"the questions cannot be read ({'; '.join(failures)}): connect to the hub, or name local "
        "ones: evaluation.data or evaluation.sources for what is asked, calibration.source for "
        "what is calibrated on"
    )


class _Tables(NamedTuple):
    """A benchmark's table, that of its images if they are apart, and the digest of both."""

    rows: Any
    images: Any | None
    content: str


def _local_tables(benchmark: str, location: Location, files: Files, cache: Path) -> _Tables:
    identities = file_identities(location)
    rows = _read_files(location, files, cache)
    images = None
    if location.image_files is not None:
        images = _read_files(location, location.image_files, cache)
    if file_identities(location) != identities:
        raise change_error(benchmark, location.path)
    return _Tables(rows, images, digest("questions", identities))


def _repository_tables(
    about: Spec, locations: tuple[Location, ...], cache: Path, download: bool
) -> _Tables:
    table = _first_readable(locations, about.name, about.split, cache, download)
    if about.images is None:
        return _Tables(table.rows, None, digest("questions", table.identities))
    name = about.images["name"]
    images = _first_readable(locations, name, about.images["split"], cache, download)
    identities = table.identities + images.identities
    return _Tables(table.rows, images.rows, digest("questions", identities))


class Opened(NamedTuple):
    """A benchmark's questions, and the digest of what they were read from."""

    questions: Questions
    content: str


def read_questions(
    benchmark: str,
    about: Spec,
    locations: tuple[Location, ...],
    cache: Path,
    download: bool = True,
) -> Opened:
    """Read a benchmark's table, find its images, and check its columns."""
    from datasets import Image as ImageFeature

    location = locations[0]
    folder = cache / "datasets"
    if location.files is not None:
        tables = _local_tables(benchmark, location, location.files, folder)
    else:
        tables = _repository_tables(about, locations, folder, download)
    names = tables.rows.column_names
    missing = [column for column in about.columns if column not in names]
    if missing:
        raise DataError(
            f"the questions of {benchmark} ({location.path}) lack the column "
            f"{', '.join(missing)}: they have {', '.join(names)}"
        )
    image_rows: Sequence[int]
    if about.images is not None and tables.images is not None:
        images = tables.images
        if IMAGE_KEY not in images.column_names:
            raise DataError(
                f"the images of {benchmark} ({location.path}) lack the column {IMAGE_KEY}: they "
                f"have {', '.join(images.column_names)}"
            )
        keys = images.select_columns([IMAGE_KEY])[IMAGE_KEY]
        rows_of_keys = {str(key): row for row, key in enumerate(keys)}
        image_rows = [rows_of_keys.get(str(key), -1) for key in tables.rows[about.images["key"]]]
    else:
        images = tables.rows
        image_rows = range(len(images))
    image = image_column(images.features, f"the questions of {benchmark} ({location.path})")
    optional = [column for column in about.optional if column in names]
    docs = tables.rows.select_columns([*about.columns, *optional])
    images = images.select_columns([image]).cast_column(image, ImageFeature(decode=False))
    questions = Questions(benchmark, docs, images, image_rows)
    return Opened(questions, tables.content)


def image_column(features: dict[str, Any], what: str) -> str:
    """The column that holds pictures, by its type; a DataError if there is none, or no telling."""
    columns = image_columns(features)
    for name in (*IMAGE_COLUMNS, *columns):
        if name in columns and (name in IMAGE_COLUMNS or len(columns) == 1):
            return name
    types = ", ".join(f"{name}: {getattr(kind, 'dtype', kind)}" for name, kind in features.items())
    raise DataError(f"{what} need one column of images, image or decoded_image: they have {types}")


def image_columns(features: dict[str, Any]) -> list[str]:
    """The columns of encoded pictures: of `datasets`' own type, records with bytes, or bytes."""
    from datasets import Image as ImageFeature

    columns: list[str] = []
    for name, feature in features.items():
        stored_type = feature.get("bytes") if isinstance(feature, dict) else feature
        is_bytes = getattr(stored_type, "dtype", "") in ("binary", "large_binary")
        if isinstance(feature, ImageFeature) or is_bytes:
            columns.append(name)
    return columns
