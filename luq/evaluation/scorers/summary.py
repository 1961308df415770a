"""From scored questions to one number with its standard error.

A *unit* is what is independent: a question, an MME pair, an MMBench base question with its
rotations.
"""

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from luq.evaluation import intervals
from luq.evaluation.intervals import Estimate
from luq.questions.prompts import is_null, text_of

Doc = dict[str, Any]
Values = dict[str, float]
Item = tuple[Doc, Values]  # a question, and what `process` returned for its answer


class Summary(NamedTuple):
    """The score of one benchmark.

    `score` and `stderr` are in percent of the maximum, `metrics` go by their usual names. `units`
    are the n units' values in [0, 1], in order of first appearance; `weights` are their shares of
    the score.
    """

    score: float
    stderr: float
    n: int
    metrics: dict[str, float]
    units: list[float]
    weights: list[float]

    @property
    def interval(self) -> Estimate:
        """The score with its 95 % interval, in percent; resampled each time that it is asked."""
        return intervals.of_units(self.units, self.weights)


def reference(doc: Doc) -> str:
    """The reference answer; empty if there is none, and then no answer is right."""
    return text_of(doc.get("answer"))


def references(doc: Doc) -> list[str]:
    """All reference answers; they are texts, or records with a text as VQAv2 has them.

    One that is missing is left out: an empty answer would match it.
    """
    answers: list[str] = []
    column = doc.get("answers")
    for entry in column if isinstance(column, list) else []:
        answer = entry.get("answer") if isinstance(entry, dict) else entry
        if not is_null(answer):
            answers.append(str(answer))
    return answers


def mean(values: list[float]) -> float:
    """The mean; 0 for no value."""
    return sum(values) / len(values) if values else 0.0


def standard_error(values: list[float]) -> float:
    """Standard error of the mean; 0 for fewer than two values."""
    n = len(values)
    if n < 2:
        return 0.0
    centre = mean(values)
    variance = sum((value - centre) ** 2 for value in values) / (n - 1)
    return math.sqrt(variance / n)


def scores(items: list[Item]) -> list[float]:
    """The score of every answer."""
    return [values["score"] for _, values in items]


def of_units(units: list[float], metrics: dict[str, float]) -> Summary:
    """Summary of unit values in [0, 1] that count alike."""
    n = len(units)
    weights = [1 / n] * n
    return Summary(100 * mean(units), 100 * standard_error(units), n, metrics, units, weights)


def of_strata(units: list[float], strata: list[Hashable], metrics: dict[str, float]) -> Summary:
    """Summary of unit values in [0, 1] whose strata count alike, whatever their sizes.

    Args:
        units: the values.
        strata: the stratum of each unit.
        metrics: the benchmark's usual numbers.
    """
    groups: dict[Hashable, list[float]] = {}
    for unit, stratum in zip(units, strata, strict=True):
        groups.setdefault(stratum, []).append(unit)
    sizes = [len(group) for group in groups.values()]
    score = mean([mean(group) for group in groups.values()])
    if min(sizes, default=0) > 1:
        # The strata are independent, so the variances of their means add up.
        variance = sum(standard_error(group) ** 2 for group in groups.values())
        error = math.sqrt(variance) / len(groups)
    else:
        # A stratum of one unit has no spread of its own: take that of all units.
        error = standard_error(units)
    # score = mean over strata of the means of their units
    weights = [1 / len(groups) / len(groups[stratum]) for stratum in strata]
    return Summary(100 * score, 100 * error, len(units), metrics, units, weights)


def by_question(metric: str) -> Callable[[list[Item]], Summary]:
    """The summary of the plain case: every question is a unit, and their mean is the metric."""

    def summarise(items: list[Item]) -> Summary:
        units = scores(items)
        return of_units(units, {metric: 100 * mean(units)})

    return summarise


def grouped(items: list[Item], key: Callable[[Doc], Hashable]) -> dict[Hashable, list[Item]]:
    """The items of every key, in order of first appearance."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item[0]), []).append(item)
    return groups


def levenshtein(source: str, target: str) -> int:
    """Edit distance: insertions, deletions and substitutions of one character cost 1 each."""
    # previous[j] is the distance of the source so far to the first j characters of the target.
    previous = list(range(len(target) + 1))
    for i, character in enumerate(source, 1):
        current = [i]
        for j, target_character in enumerate(target, 1):
            substituted = previous[j - 1] + (character != target_character)
            current.append(min(previous[j] + 1, current[j - 1] + 1, substituted))
        previous = current
    return previous[-1]
