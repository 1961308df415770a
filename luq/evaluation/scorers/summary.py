"""From scored questions to one number with its standard error.

A *unit* is what is independent: a question, an MME pair, an MMBench base question with its rotations.
"""

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

Doc = dict[str, Any]
Item = tuple[Doc, dict[str, Any]]  # a question and what `process` returned for it


class Summary(NamedTuple):
    """`score` in percent of the maximum, over n units, with its standard error; `metrics` by their usual names.

    `units` are the values in [0, 1] in order of first appearance, and `weights` their shares of the score.
    """

    score: float
    stderr: float
    n: int
    metrics: dict[str, float]
    units: list[float]
    weights: list[float]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def standard_error(values: list[float]) -> float:
    """Standard error of the mean; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))


def of_units(units: list[float], metrics: dict[str, float]) -> Summary:
    """Summary of unit values in [0, 1] that count alike."""
    n = len(units)
    return Summary(100 * mean(units), 100 * standard_error(units), n, metrics, units, [1 / n] * n)


def of_strata(units: list[float], strata: list[Hashable], metrics: dict[str, float]) -> Summary:
    """Summary of unit values in [0, 1] whose strata count alike, whatever their sizes."""
    groups: dict[Hashable, list[float]] = {}
    for unit, stratum in zip(units, strata, strict=True):
        groups.setdefault(stratum, []).append(unit)
    score = mean([mean(group) for group in groups.values()])
    if min(map(len, groups.values()), default=0) > 1:
        error = math.sqrt(sum(standard_error(group) ** 2 for group in groups.values())) / len(
            groups
        )
    else:  # a stratum of one has no spread of its own
        error = standard_error(units)
    weights = [1 / len(groups) / len(groups[stratum]) for stratum in strata]
    return Summary(100 * score, 100 * error, len(units), metrics, units, weights)


def by_question(name: str) -> Callable[[list[Item]], Summary]:
    """The plain case: every question is a unit; the metric is called `name`."""

    def summarise(items: list[Item]) -> Summary:
        units = [float(values["score"]) for _, values in items]
        return of_units(units, {name: 100 * mean(units)})

    return summarise


def grouped(items: list[Item], key: Callable[[Doc], Hashable]) -> dict[Hashable, list[Item]]:
    groups: dict[Hashable, list[Item]] = {}
    for doc, values in items:
        groups.setdefault(key(doc), []).append((doc, values))
    return groups


def levenshtein(a: str, b: str) -> int:
    """Edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
