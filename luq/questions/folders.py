"""Which files of a local source hold a benchmark's questions: those of one split, and all of it.

A clone's README says which files belong to which configuration and split; it is read as `datasets`
reads it. Without one, the names do: the hub's shards are called
`SPLIT-00000-of-00003-HASH.parquet`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luq.errors import DataError

README = "README.md"
SHARD = re.compile(r"(?P<split>.+?)-(?P<index>\d{5})-of-(?P<total>\d{5})(?:-[0-9a-f]+)?")
# How file names call a split; `datasets` reads the words of a line as one split too.
SYNONYMS = (
    ("train", "training"),
    ("validation", "valid", "val", "dev"),
    ("test", "testing"),
    ("testdev",),
    ("testmini",),
)
_SPLIT_WORDS = frozenset(word for words in SYNONYMS for word in words)
_WORD = re.compile(r"[a-z]+")
_LFS_POINTER = b"version https://git-lfs"


class Wanted(NamedTuple):
    """A table of a dataset repository: its configuration (None: the default one) and its split."""

    name: str | None
    split: str


class Files(NamedTuple):
    """The files of a table, and how many rows the README says that they have, if it does."""

    paths: list[Path]
    rows: int | None = None


def table_files(folder: Path, table: Wanted, cache: Path) -> Files:
    """The parquet files of one table in the clone of a dataset repository, or in a part of one.

    Args:
        folder: a clone, a configuration's folder in it, or any folder of parquet files.
        table: which one of it.
        cache: a folder in which `datasets` has prepared nothing: what it prepared from another
            clone of the same name, it would take for this one's.

    Returns:
        Its files in the order of their names; none if the folder has no parquet file.

    Raises:
        DataError: the folder has other splits, a shard is missing or doubled, or a file is only
            Git LFS's pointer.
    """
    folder = folder.absolute()
    configs = _readme(folder).get("configs")
    if isinstance(configs, list) and configs:
        files = _by_readme(folder, configs, table, cache)
    else:
        files = Files(_by_names(folder, table))
    check_files(files.paths)
    return files


def check_files(files: list[Path]) -> None:
    """A DataError if some files are not parquet's, or not all shards of what they are shards of."""
    for file in files:
        _check_file(file)
    _check_shards(files)


def _readme(folder: Path) -> dict[str, Any]:
    """The YAML head of a folder's README; empty without one."""
    file = folder / README
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    _, fence, after_fence = text.partition("---")
    head, closing, _ = after_fence.partition("\n---")
    if not fence or not closing or text.lstrip()[:3] != "---":
        return {}
    try:
        content = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"the head of {file} is no YAML: clone the dataset again") from error
    return content if isinstance(content, dict) else {}


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested lists and tables."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _by_readme(folder: Path, configs: list[Any], table: Wanted, cache: Path) -> Files:
    """The files that a README gives to a split of a configuration."""
    from datasets import load_dataset_builder

    readme = folder / README
    for config in configs:
        paths = [config.get("data_files"), config.get("data_dir")] if config else []
        for text in _texts(paths):
            if "://" in text or os.path.isabs(text) or ".." in Path(text).parts:
                raise DataError(
                    f"{readme} names {text}, which is not in its folder: clone the dataset again"
                )
    try:
        builder = load_dataset_builder(
            str(folder.resolve()), table.name, cache_dir=str(cache / "listed")
        )
    except Exception as error:  # datasets raises many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{readme}: its configuration {table.name or 'default'} cannot be read ({lines[0]}): "
            "clone the dataset again"
        ) from error
    by_split = builder.config.data_files or {}
    if table.split not in by_split:
        raise _no_such_split(folder, table.split, [str(split) for split in by_split])
    paths = sorted(Path(str(file)) for file in by_split[table.split])
    splits = builder.info.splits or {}
    described = splits.get(table.split)
    return Files(paths, described.num_examples if described is not None else None)


def _by_names(folder: Path, table: Wanted) -> list[Path]:
    """The files of a split by their names; all files if no name says a split."""
    files = _parquet_files(folder, table)
    by_split: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for file in files:
        split = _split_of(file)
        if split is None:
            unnamed.append(file)
        else:
            by_split.setdefault(split, []).append(file)
    if not by_split:
        return unnamed
    # The split's own name first: a folder may hold both `dev` and `validation`.
    if table.split in by_split:
        return by_split[table.split]
    for words in SYNONYMS:
        named = [split for split in by_split if split in words]
        if table.split in words and len(named) == 1:
            return by_split[named[0]]
    raise _no_such_split(folder, table.split, sorted(by_split))


def _parquet_files(folder: Path, table: Wanted) -> list[Path]:
    """The parquet files of the nearest place that has some: the configuration's folder first."""
    root = folder / table.name if table.name and (folder / table.name).is_dir() else folder
    for place in (root, root / "data", root / table.split):
        files = sorted(place.glob("*.parquet"))
        if files:
            return files
    return []


def _split_of(file: Path) -> str | None:
    """The split that a file's name says; None if it says none."""
    shard = SHARD.fullmatch(file.stem)
    if shard is not None:
        # Some repositories put more before it: mmbench_en_dev-00000-of-00001.
        split_names = _split_words(shard["split"])
        return split_names[0] if len(split_names) == 1 else shard["split"]
    split_names = _split_words(file.stem)
    return split_names[0] if len(split_names) == 1 else None


def _split_words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word in _SPLIT_WORDS]


def _no_such_split(folder: Path, split: str, splits: list[str]) -> DataError:
    return DataError(
        f"{folder} has no split {split}, only {', '.join(splits) or 'none'}: download the files of "
        f"{split}, or name a parquet file"
    )


def _check_shards(files: Iterable[Path]) -> None:
    """A DataError unless the numbered ones of some files are complete and single.

    `SPLIT-00001-of-00003` says that there are three.
    """
    by_series: dict[tuple[Path, str], dict[int, Path]] = {}
    totals: dict[tuple[Path, str], int] = {}
    for file in files:
        shard = SHARD.fullmatch(file.stem)
        if shard is None:
            continue
        series = (file.parent, shard["split"])
        index = int(shard["index"])
        total = totals.setdefault(series, int(shard["total"]))
        shards = by_series.setdefault(series, {})
        if int(shard["total"]) != total or index in shards:
            conflicting_file = next(iter(shards.values())) if index not in shards else shards[index]
            raise DataError(
                f"{file.parent} holds {conflicting_file.name} and {file.name}, of two versions of "
                f"the dataset: delete the files of one"
            )
        shards[index] = file
    for (folder, split), shards in by_series.items():
        total = totals[folder, split]
        missing = [index for index in range(total) if index not in shards]
        if missing:
            names = ", ".join(f"{split}-{index:05}-of-{total:05}" for index in missing[:5])
            raise DataError(
                f"{folder} lacks {len(missing)} of {total} shards ({names}): download the dataset "
                "again"
            )


def _check_file(file: Path) -> None:
    """A DataError unless a file is parquet's by its name, and no pointer to one."""
    if file.suffix != ".parquet":
        raise DataError(f"{file} is no parquet file: convert the dataset to parquet")
    try:
        with file.open("rb") as handle:
            head = handle.read(len(_LFS_POINTER))
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error})") from error
    if head == _LFS_POINTER:
        raise DataError(
            f"{file} is only Git LFS's pointer to the file: run `git lfs pull` in the clone"
        )
