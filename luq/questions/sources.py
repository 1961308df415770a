"""Where a benchmark's questions come from: the pocket world, a local file or folder, or the hub.

Rows and images are read from memory-mapped tables when they are needed, and decoded batch by batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from luq import registry
from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.store import keys

TASKS = Path(__file__).parent / "tasks"
IMAGES = ("image", "decoded_image")


class Spec(NamedTuple):
    """What a task YAML says of its dataset. `images`: the configuration, split and key of a table of its own."""

    path: str
    name: str | None
    split: str
    data: str  # name of the local file or folder
    columns: list[str]
    optional: list[str]
    images: dict[str, str] | None
    calibration: str | None  # the split that no benchmark asks


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's task YAML; `!function module.name` is what stands under that name."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    module, _, name = str(loader.construct_scalar(node)).rpartition(".")
    return getattr(import_module(module), name)


_Loader.add_constructor("!function", _function)


def task_config(benchmark: str) -> dict[str, Any]:
    """A benchmark's task YAML with those it includes."""
    registry.check("benchmark", benchmark)
    merged: dict[str, Any] = {}
    file: str | None = f"{benchmark}.yaml"
    while file:
        read = yaml.load((TASKS / file).read_text(), _Loader)
        merged, file = read | merged, read.get("include")
    del merged["include"]
    return merged


@lru_cache(maxsize=32)
def spec(benchmark: str) -> Spec:
    """What a benchmark's task says of its dataset."""
    task = task_config(benchmark)
    about = task["metadata"]
    shared = (
        about.get("data", benchmark),
        about["columns"],
        about.get("optional", []),
        about.get("images"),
        about.get("calibration_split"),
    )
    return Spec(task["dataset_path"], task.get("dataset_name"), task["test_split"], *shared)


@dataclass(frozen=True)
class LazyImage:
    """An image that stays encoded on disk until it is converted, which is all that lm-eval does with it."""

    table: Any
    row: int
    what: str

    def convert(self, mode: str = "RGB") -> Image.Image:
        """The decoded image; a DataError if it cannot be decoded."""
        if self.row < 0:
            raise DataError(f"{self.what}: there is no such image in the table of images")
        encoded = self.table[self.row][self.table.column_names[0]]
        try:
            return Image.open(
                BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]
            ).convert(mode)
        except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
            raise DataError(f"{self.what}: the image does not decode ({error})") from error


@dataclass(frozen=True)
class Questions:
    """One benchmark's rows. `docs` has no image; `image_rows[i]` is where doc i's is in `images`."""

    benchmark: str
    docs: Any = field(repr=False)
    images: Any = field(repr=False)
    image_rows: Sequence[int] = field(repr=False)
    identity: str

    def image(self, row: int) -> LazyImage:
        return LazyImage(self.images, self.image_rows[row], f"{self.benchmark} row {row}")


def _file_identity(file: str) -> list[Any]:
    """A local file by its content; a file on the hub by its address, which holds the commit."""
    return [file] if "://" in file else [Path(file).name, *keys.file_digest(Path(file))]


def _read(
    path: str, name: str | None, split: str, cache: Path, files: list[str] | None = None
) -> tuple[Any, list[Any]]:
    from datasets import load_dataset_builder

    given = {"data_files": {split: files}} if files else {}
    builder = load_dataset_builder(path, name, cache_dir=str(cache), **given)
    builder.download_and_prepare()
    sources = builder.config.data_files or {}
    found = sources.get(split) or [file for some in sources.values() for file in some]
    return builder.as_dataset(split=split), [_file_identity(str(file)) for file in found]


def _local(folder: Path, wanted: Spec) -> tuple[str, list[str] | None]:
    """A local source as a dataset path, and its parquet files if it is no clone of a dataset repository."""
    if folder.is_file():
        return "parquet", [str(folder.resolve())]
    if (folder / f"{wanted.data}.parquet").exists():
        return "parquet", [str((folder / f"{wanted.data}.parquet").resolve())]
    if (folder / wanted.data).is_dir():
        folder = folder / wanted.data
    shards = sorted(str(f.resolve()) for f in folder.glob("*.parquet"))
    if shards:
        return "parquet", shards
    if not (folder / "README.md").exists():
        raise DataError(
            f"{folder / wanted.data}.parquet is missing: give a parquet file, a folder with {wanted.data}.parquet or with the "
            f"clone of {wanted.path} as {wanted.data}/"
        )
    return str(folder.resolve()), None


def _candidates(
    wanted: Spec, source: str, organisations: tuple[str, ...]
) -> list[tuple[str, list[str] | None]]:
    """Dataset paths to try in turn: the organisation of the config first, then its old name."""
    if source != "hub":
        return [_local(Path(source).expanduser(), wanted)]
    own, _, name = wanted.path.partition("/")
    if own != EvaluationConfig.organisation:  # a dataset of its own authors
        return [(wanted.path, None)]
    return [(f"{organisation}/{name}", None) for organisation in dict.fromkeys(organisations)]


def _attempt(
    candidates: list[tuple[str, list[str] | None]], name: str | None, split: str, cache: Path
) -> tuple[Any, list[Any]]:
    failed = []
    for path, files in candidates:
        try:
            return _read(path, None if files else name, split, cache, files)
        except Exception as error:  # noqa: BLE001 (datasets and the hub raise many kinds)
            reason = str(error).splitlines()[0] if str(error) else ""
            failed.append(f"{files[0] if files else path}: {type(error).__name__} {reason}")
    where = "; ".join(failed)
    raise DataError(
        f"the questions cannot be read ({where}): connect to the hub, or set evaluation.data or evaluation.sources"
    )


def load(
    benchmark: str, config: EvaluationConfig, cache: Path, pocket: Path | None = None
) -> Questions:
    """A benchmark's questions. `pocket` is the folder of the pocket benchmarks, for evaluation.data=pocket."""
    wanted = spec(benchmark)
    source = config.sources.get(benchmark) or config.sources.get(wanted.data) or config.data
    return _questions(
        benchmark,
        wanted,
        str(pocket) if source == "pocket" else source,
        (config.organisation, config.fallback),
        cache,
    )


def load_calibration(benchmark: str, source: str, cache: Path) -> Questions:
    """A benchmark's questions for calibration: the training split on the hub, or a folder's. A DataError if there is none."""
    wanted = spec(benchmark)
    if wanted.calibration is None and source == "hub":
        raise DataError(
            f"{benchmark} has no training split on the hub: calibrate on textvqa, or set calibration.source to a folder"
        )
    organisations = EvaluationConfig.organisation, EvaluationConfig.fallback
    return _questions(
        benchmark,
        wanted._replace(split=wanted.calibration or "train"),
        source,
        organisations,
        cache,
    )


def _questions(
    benchmark: str, wanted: Spec, source: str, organisations: tuple[str, ...], cache: Path
) -> Questions:
    """Read a benchmark's table, find its images, and check its columns."""
    from datasets import Image as ImageFeature

    candidates = _candidates(wanted, source, organisations)
    table, identity = _attempt(candidates, wanted.name, wanted.split, cache)
    image = next((c for c in IMAGES if c in table.column_names), None)
    if image or wanted.images is None or candidates[0][1]:
        needed, images = [*wanted.columns, image or "image"], table
        rows: Sequence[int] = range(len(table))
    else:
        more = _attempt(candidates, wanted.images["name"], wanted.images["split"], cache)
        needed, images, identity = wanted.columns, more[0], identity + more[1]
        image, at = "image", {key: i for i, key in enumerate(images.select_columns(["id"])["id"])}
        rows = [at.get(key, -1) for key in table[wanted.images["key"]]]
    missing = [c for c in needed if c not in table.column_names]
    if missing:
        raise DataError(
            f"the questions of {benchmark} ({candidates[0][1] or candidates[0][0]}) lack the column {', '.join(missing)}: "
            f"they have {', '.join(table.column_names)}"
        )
    docs = table.select_columns(
        [*wanted.columns, *(c for c in wanted.optional if c in table.column_names)]
    )
    images = images.select_columns([image]).cast_column(image, ImageFeature(decode=False))
    return Questions(benchmark, docs, images, rows, keys.key("questions", identity))
