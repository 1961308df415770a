"""Which questions are asked: whole units, in proportion to their strata, the same for a seed everywhere.

A *unit* is what is independent: a question, an MME pair, an MMBench base question with its rotations.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from luq.config import EvaluationConfig
from luq.questions.sources import Questions

SELECTION = 10  # of real datasets, which have one split, every tenth unit is for selection and the others for the report


class Kind(NamedTuple):
    """How a benchmark's rows belong together: columns -> name of the unit, and the columns that make strata."""

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


def choose(questions: Questions, config: EvaluationConfig) -> list[int]:
    """Row ids of `config.samples` units (None: all) of the split, in the data's order.

    Strata get their share of the units: the next unit always comes from the stratum that is furthest behind, so that
    more samples extend fewer. The pocket benchmarks have a file per split; of others the split is drawn by unit.
    """
    benchmark = questions.benchmark
    kind = KINDS.get(benchmark, Kind())
    columns = {
        c: questions.docs.select_columns([c])[c]
        for c in dict.fromkeys((*kind.columns, *kind.strata))
    }
    units: dict[str, list[int]] = {}
    for row in range(len(questions.docs)):
        name = kind.unit(*(columns[c][row] for c in kind.columns)) if kind.unit else str(row)
        units.setdefault(name, []).append(row)
    if not _is_pocket(config, benchmark):
        units = {
            name: rows for name, rows in units.items() if _in_split(benchmark, name, config.split)
        }
    if config.samples is None or config.samples >= len(units):
        return sorted(row for rows in units.values() for row in rows)
    names = list(units)
    strata: dict[tuple[str, ...], list[list[int]]] = {}
    for j in np.random.default_rng([config.seed, 19]).permutation(len(names)):
        rows = units[names[int(j)]]
        strata.setdefault(tuple(str(columns[c][rows[0]]) for c in kind.strata), []).append(rows)
    chosen: list[int] = []
    taken = dict.fromkeys(strata, 0)
    for m in range(1, config.samples + 1):
        behind = max(sorted(strata), key=lambda s: m * len(strata[s]) / len(units) - taken[s])
        chosen += strata[behind][taken[behind]]
        taken[behind] += 1
    return sorted(chosen)


def _is_pocket(config: EvaluationConfig, benchmark: str) -> bool:
    return config.data == "pocket" and benchmark not in config.sources
