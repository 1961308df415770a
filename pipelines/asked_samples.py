"""A few of the questions that a run asks, and how many it will ask, without reading all of them.

Nothing is fetched or written: rows come from a plug-in, from the beginning of a local file, or from
what `datasets` has prepared of a repository.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from luq.plugins import PLUGINS, Plugin, plugin
from luq.questions.folders import Files
from luq.questions.sources import QuestionTable
from luq.questions.specs import Spec, spec
from luq.questions.subsets import Subset, choose, grouping_columns
from luq.questions.tables import Questions, image_column, read_questions

UNITS = 8  # of a benchmark that are looked at
PICTURE = "image"


class Asked(NamedTuple):
    """Some rows of a benchmark, how many a run asks, and what their table takes to be made.

    `seconds` and `bytes` are of a plug-in's table; others are there.
    """

    questions: Questions  # those rows alone
    rows: int
    seconds: float = 0.0
    bytes: float = 0.0


def asked(table: QuestionTable, subset: Subset) -> Asked:
    """Some of a benchmark's questions, and how many of them are asked.

    Args:
        table: the benchmark.
        subset: which of its units are asked.

    Raises:
        DataError: they cannot be read.
    """
    about = table.spec or spec(table.benchmark)
    if not table.locations:
        return _of_plugin(table, subset)
    location = table.locations[0]
    if location.files is not None:
        pictured = location.image_files or location.files
        return _of_files(table, about, subset, location.files, pictured)
    opened = read_questions(table.benchmark, about, table.locations, table.cache, download=False)
    questions = opened.questions
    rows = choose(questions, subset)
    first = rows[:UNITS]
    docs = questions.docs.select(first)
    image_rows = [questions.image_rows[row] for row in first]
    few = replace(questions, docs=docs, image_rows=image_rows, protocol=table.protocol)
    return Asked(few, len(rows))


def _of_plugin(table: QuestionTable, subset: Subset) -> Asked:
    shipped = _maker(table)
    shipped.first_rows(table.benchmark, 1)  # what is imported does not count
    begin = time.perf_counter()
    rows = shipped.first_rows(table.benchmark, UNITS)
    seconds = time.perf_counter() - begin
    units = shipped.units(table.benchmark)
    asked_units = units if subset.samples is None else min(units, subset.samples)
    name = next(name for name, value in rows[0].items() if isinstance(value, dict))
    pictures = [row[name]["bytes"] for row in rows]
    docs = [{key: value for key, value in row.items() if key != name} for row in rows]
    questions = _in_memory(table, docs, pictures)
    size = sum(len(picture) for picture in pictures)
    scale = units / UNITS  # of all that the plug-in makes, over what was made here
    count = round(asked_units * len(rows) / UNITS)
    return Asked(questions, count, seconds * scale, size * scale)


def _maker(table: QuestionTable) -> Plugin:
    """The plug-in that makes a table."""
    for name in PLUGINS:
        shipped = plugin(name)
        if shipped is None:
            continue
        if any(table.content == shipped.questions(split) for split in ("report", "selection")):
            return shipped
    raise LookupError(f"no plug-in makes the questions of {table.benchmark}")


def _of_files(
    table: QuestionTable, about: Spec, subset: Subset, files: Files, pictured: Files
) -> Asked:
    import pyarrow.parquet as parquet
    from datasets import Dataset

    names = grouping_columns(table.benchmark) or about.columns[:1]
    grouped = Dataset(parquet.read_table([str(path) for path in files.paths], columns=names))
    questions = Questions(table.benchmark, grouped, None, range(len(grouped)))
    count = len(choose(questions, subset))
    rows = _first_rows(files)
    columns = [name for name in (*about.columns, *about.optional) if name in rows[0]]
    docs = [{name: row[name] for name in columns} for row in rows]
    pictures = _first_rows(pictured)
    name = image_column(Dataset.from_list(pictures).features, f"the questions of {about.data}")
    encoded = [_bytes_of(row[name]) for row in pictures]
    return Asked(_in_memory(table, docs, encoded), count)


def _first_rows(files: Files) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(files.paths[0]) as file:
        batch = next(file.iter_batches(batch_size=UNITS))
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


def _bytes_of(picture: Any) -> bytes | None:
    encoded: bytes | None = picture["bytes"] if isinstance(picture, dict) else picture
    return encoded


def _in_memory(
    table: QuestionTable, docs: list[dict[str, Any]], pictures: Sequence[bytes | None]
) -> Questions:
    """Rows in memory with a picture each; where there are fewer pictures, they come again."""
    from datasets import Dataset

    cells = [{PICTURE: {"bytes": picture, "path": None}} for picture in pictures]
    places = [row % len(cells) for row in range(len(docs))]
    return Questions(
        table.benchmark,
        Dataset.from_list(docs),
        Dataset.from_list(cells),
        places,
        has_splits=True,
        protocol=table.protocol,
    )
