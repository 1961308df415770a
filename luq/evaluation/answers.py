"""Kept answers: scored again, and question by question. Needs no model, no torch, no dataset."""

from typing import NamedTuple

from luq.evaluation.collapse import collapsed
from luq.evaluation.compare import Units
from luq.evaluation.predictions import AnswerRow
from luq.evaluation.scorers import SCORERS
from luq.evaluation.scorers.summary import Item, Summary
from luq.questions.subsets import unit_of

# the files of the artefacts of the stages `evaluation` and `fidelity`
ANSWERS = "answers.jsonl"
FIDELITY = "fidelity.jsonl"


class Scored(NamedTuple):
    """One benchmark of one allocation."""

    summary: Summary
    collapsed: str  # why the model is none any more; empty if it is one
    errors: int  # rows that could not be asked
    rows: int  # all of them
    key: str  # of the answers


def summarise(benchmark: str, rows: list[AnswerRow]) -> Summary:
    """The benchmark's official metrics and its score in percent.

    Args:
        benchmark: its name.
        rows: answers {id, text, doc}. A row with an `error` instead of a text counts as wrong.
    """
    scorer = SCORERS[benchmark]
    items: list[Item] = []
    for row in rows:
        # Wrong, and neither a yes nor a no.
        values = {"score": 0.0}
        if "error" not in row:
            values = scorer.process(row["doc"], [row["text"]])
        items.append((row["doc"], values))
    return scorer.summarise(items)


def scored(benchmark: str, rows: list[AnswerRow], key: str) -> Scored:
    """The score of kept answers."""
    errors = sum("error" in row for row in rows)
    return Scored(summarise(benchmark, rows), collapsed(rows), errors, len(rows), key)


def units(benchmark: str, rows: list[AnswerRow]) -> Units:
    """Unit -> its value in [0, 1] and its weight, for comparisons question by question."""
    summary = summarise(benchmark, rows)
    # a summary's units stand in the order in which the rows first name them
    names = list(dict.fromkeys(unit_of(benchmark, row["id"], row["doc"]) for row in rows))
    values_and_weights = zip(summary.units, summary.weights, strict=True)
    return dict(zip(names, values_and_weights, strict=True))
