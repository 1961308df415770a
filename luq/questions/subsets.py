"""Which questions are asked: whole units, in proportion to their strata, the same for a seed
everywhere.

A *unit* is what is independent: a question, an MME pair, an MMBench base question with its
rotations.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from luq.questions.sources import Questions

# Of real datasets, which have one split, every tenth unit is for selection and the others for
# the report.
SELECTION = 10
SAMPLING = 19  # tells this use of a seed from the project's others


class Kind(NamedTuple):
    """How a benchmark's rows belong together: columns -> name of the unit, and the columns that
    make strata.
    """

    columns: tuple[str, ...] = ()
    unit: Callable[..., str] | None = None
    strata: tuple[str, ...] = ()


KINDS = {
    "mme": Kind(
        ("category", "question_id"),
        lambda category, question: f"{category}/{question}",
        ("category",),
    ),
    "mmbench": Kind(("index",), lambda index: str(int(index) % 1_000_000), ("category",)),
    "vqav2": Kind(strata=("answer_type",)),
    "pope": Kind(strata=("category", "answer")),
    "chartqa": Kind(strata=("type",)),
    "mathvista": Kind(strata=("question_type", "answer_type")),
}


def unit_of(benchmark: str, row: int, doc: dict[str, Any]) -> str:
    """The name of the unit that a row belongs to."""
    kind = KINDS.get(benchmark, Kind())
    return kind.unit(*(doc[c] for c in kind.columns)) if kind.unit else str(row)


def _in_split(benchmark: str, unit: str, split: str) -> bool:
    drawn = (
        int.from_bytes(hashlib.sha256(f"{benchmark}:{unit}".encode()).digest()[:4]) % SELECTION == 0
    )
    return split == "all" or drawn == (split == "selection")


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


def choose(questions: Questions, asked: Subset) -> list[int]:
    """Row ids of the units that are asked, in the data's order.

    Strata get their share of the units: the next unit always comes from the stratum that is
    furthest behind, so that more samples extend fewer. A source with a table per split has only
    questions of the split that was opened; of others the split is drawn by unit.
    """
    kind = KINDS.get(questions.benchmark, Kind())
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys((*kind.columns, *kind.strata)):
        columns[name] = questions.docs.select_columns([name])[name]
    units = _units(questions, kind, columns)
    if not questions.has_splits:
        units = {
            name: rows
            for name, rows in units.items()
            if _in_split(questions.benchmark, name, asked.split)
        }
    if asked.samples is None or asked.samples >= len(units):
        return sorted(row for rows in units.values() for row in rows)
    names = list(units)
    generator = np.random.default_rng([asked.seed, SAMPLING])
    strata: dict[tuple[str, ...], list[list[int]]] = {}
    for index in generator.permutation(len(names)):
        rows = units[names[int(index)]]
        stratum = tuple(str(columns[name][rows[0]]) for name in kind.strata)
        strata.setdefault(stratum, []).append(rows)
    chosen: list[int] = []
    taken = dict.fromkeys(strata, 0)
    for count in range(1, asked.samples + 1):

        def arrears(stratum: tuple[str, ...], count: int = count) -> float:
            """Units that a stratum's share of `count` has beyond those that were taken."""
            return count * len(strata[stratum]) / len(units) - taken[stratum]

        behind = max(sorted(strata), key=arrears)
        chosen += strata[behind][taken[behind]]
        taken[behind] += 1
    return sorted(chosen)


def _units(questions: Questions, kind: Kind, columns: dict[str, list[Any]]) -> dict[str, list[int]]:
    """Name of each unit -> its rows."""
    units: dict[str, list[int]] = {}
    for row in range(len(questions.docs)):
        name = str(row)
        if kind.unit:
            name = kind.unit(*(columns[column][row] for column in kind.columns))
        units.setdefault(name, []).append(row)
    return units
