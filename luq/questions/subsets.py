"""Which questions are asked: whole units, in proportion to their strata.

A *unit* is what is independent: a question, an MME pair, an MMBench base question with its
rotations. A *stratum* is a kind of unit, such as a category. The same seed chooses the same units
on every machine.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from luq.questions.prompts import Doc, mmbench_base
from luq.questions.tables import Questions

# Of real datasets, which have one split, every tenth unit is for selection and the others are for
# the report.
SELECTION = 10
SAMPLING = 19  # tells this use of a seed from the project's others

Stratum = tuple[str, ...]  # values of the columns that make strata


def _mme_pair(doc: Doc) -> str:
    """MME asks two questions about an image. Some images stand in several categories."""
    return f"{doc['category']}/{doc['question_id']}"


class Grouping(NamedTuple):
    """How a benchmark's rows belong together."""

    unit: Callable[[Doc], str] | None = None  # the name of a row's unit; None: each row is one
    unit_columns: tuple[str, ...] = ()  # that `unit` reads
    strata: tuple[str, ...] = ()  # columns that make strata


GROUPINGS = {
    "mme": Grouping(_mme_pair, ("category", "question_id"), strata=("category",)),
    "mmbench": Grouping(mmbench_base, ("index",), strata=("category",)),
    "vqav2": Grouping(strata=("answer_type",)),
    "pope": Grouping(strata=("category", "answer")),
    "chartqa": Grouping(strata=("type",)),
    "mathvista": Grouping(strata=("question_type", "answer_type")),
}
_PLAIN = Grouping()  # of the other benchmarks: questions are independent, and all of one stratum


def unit_of(benchmark: str, row: int, doc: Doc) -> str:
    """The name of the unit that a row belongs to."""
    grouping = GROUPINGS.get(benchmark, _PLAIN)
    return str(row) if grouping.unit is None else grouping.unit(doc)


@dataclass(frozen=True)
class Subset:
    """Which of a table's questions are asked.

    `samples`: units, None for all; then the seed chooses nothing, and `subset` leaves it out.
    """

    split: str = "report"  # report, selection or all
    samples: int | None = None
    seed: int = 0


def subset(split: str, samples: int | None, seed: int) -> Subset:
    """The questions that a config asks, equal for configs that ask the same."""
    return Subset(split, samples, 0 if samples is None else seed)


def choose(questions: Questions, subset: Subset) -> list[int]:
    """The rows of the units that are asked, in the data's order.

    Args:
        questions: of one benchmark. If its source has a table per split, this is the table of the
            split that is asked; otherwise each unit's name decides its split.
        subset: which of them are asked. Fewer samples are part of more, for the same seed.

    Returns:
        Row ids, ascending.
    """
    docs = _grouping_columns(questions)
    units: dict[str, list[int]] = {}  # name -> rows
    for row, doc in enumerate(docs):
        name = unit_of(questions.benchmark, row, doc)
        if questions.has_splits or _is_in_split(questions.benchmark, name, subset.split):
            units.setdefault(name, []).append(row)
    groups = list(units.values())
    if subset.samples is not None and subset.samples < len(groups):
        columns = GROUPINGS.get(questions.benchmark, _PLAIN).strata
        strata: dict[Stratum, list[list[int]]] = {}
        generator = np.random.default_rng([subset.seed, SAMPLING])
        for index in generator.permutation(len(groups)).tolist():
            rows = groups[index]
            # The rows of a unit are all of one stratum: ask the first.
            stratum = tuple(str(docs[rows[0]][column]) for column in columns)
            strata.setdefault(stratum, []).append(rows)
        groups = _proportional(strata, subset.samples)
    return sorted(row for rows in groups for row in rows)


def choose_of_parts(sizes: dict[str, int], subset: Subset) -> dict[str, list[int]]:
    """The questions of a benchmark's parts that are asked, each part taking its share.

    Args:
        sizes: name of a part -> how many questions it has. Each question is a unit.
        subset: which of them are asked.

    Returns:
        Name of a part -> its rows, ascending; without parts of which none is asked.
    """
    questions: list[tuple[str, int]] = []
    for part, size in sizes.items():
        for row in range(size):
            if _is_in_split(part, str(row), subset.split):
                questions.append((part, row))
    chosen = [[index] for index in range(len(questions))]
    if subset.samples is not None and subset.samples < len(questions):
        strata: dict[Stratum, list[list[int]]] = {}
        generator = np.random.default_rng([subset.seed, SAMPLING])
        for index in generator.permutation(len(questions)).tolist():
            strata.setdefault((questions[index][0],), []).append([index])
        chosen = _proportional(strata, subset.samples)
    rows: dict[str, list[int]] = {}
    for index in sorted(index for unit in chosen for index in unit):
        part, row = questions[index]
        rows.setdefault(part, []).append(row)
    return rows


def grouping_columns(benchmark: str) -> list[str]:
    """The columns that say to which unit and stratum a row belongs; none: each row is a unit."""
    grouping = GROUPINGS.get(benchmark, _PLAIN)
    return list(dict.fromkeys((*grouping.unit_columns, *grouping.strata)))


def _grouping_columns(questions: Questions) -> list[Doc]:
    """Of each row, the columns that say to which unit and stratum it belongs."""
    columns = grouping_columns(questions.benchmark)
    if not columns:
        # `datasets` forgets how many rows a table without columns has.
        return [{} for _ in range(len(questions.docs))]
    docs: list[Doc] = questions.docs.select_columns(columns).to_list()
    return docs


def _is_in_split(benchmark: str, unit: str, split: str) -> bool:
    """Whether a unit of a dataset with one split belongs to a split of ours."""
    if split == "all":
        return True
    # A hash of the name: a unit keeps its split whatever other units a release has.
    name_hash = hashlib.sha256(f"{benchmark}:{unit}".encode()).digest()
    is_for_selection = int.from_bytes(name_hash[:4]) % SELECTION == 0
    return is_for_selection == (split == "selection")


def _proportional(strata: dict[Stratum, list[list[int]]], samples: int) -> list[list[int]]:
    """The first units of each stratum, as many as its share of the samples.

    The next unit always comes from the stratum that lags most behind its share, so that more
    samples extend fewer.

    Args:
        strata: units, as lists of rows, in the sequence in which they are chosen.
        samples: how many units are chosen in all; at most as many as there are.
    """
    population = sum(len(units) for units in strata.values())
    chosen: list[list[int]] = []
    counts = dict.fromkeys(sorted(strata), 0)  # units that were chosen; ties go to the first name
    for size in range(1, samples + 1):
        lags: dict[Stratum, float] = {}
        for stratum, count in counts.items():
            lags[stratum] = size * len(strata[stratum]) / population - count
        last = max(lags, key=lags.__getitem__)
        chosen.append(strata[last][counts[last]])
        counts[last] += 1
    return chosen
