"""Kept answers: scored again, and question by question. Needs no model, no torch, no dataset."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from luq.evaluation.collapse import collapsed
from luq.evaluation.compare import Units
from luq.evaluation.predictions import AnswerRow, read_answers, write_rows
from luq.evaluation.scorers import SCORERS
from luq.evaluation.scorers.summary import Item, Summary
from luq.questions.subsets import unit_of

# the files of the artefacts of the stages `evaluation` and `fidelity`
ANSWERS = "answers.jsonl"
FIDELITY = "fidelity.jsonl"
RESULTS = "results.json"  # beside the answers to a task of lm-eval's


class TaskResult(NamedTuple):
    """The answers to a task of lm-eval's, which has scored them itself."""

    rows: list[AnswerRow]
    summary: Summary
    names: list[str]  # of the summary's units: PART/ROW


# What is kept of a benchmark: rows that a scorer of ours scores, or rows with lm-eval's score.
Kept = list[AnswerRow] | TaskResult


def read_kept(folder: Path) -> Kept:
    """The answers in a folder of the stage `evaluation`, with lm-eval's score if it has one."""
    rows = read_answers(folder / ANSWERS)
    results = folder / RESULTS
    if not results.is_file():
        return rows
    content = json.loads(results.read_text(encoding="utf-8"))
    return TaskResult(rows, Summary(**content["summary"]), content["names"])


def write_result(folder: Path, result: TaskResult, lm_eval: dict[str, Any]) -> None:
    """Write the answers to a task with their score, and all that lm-eval says of it."""
    write_rows(folder / ANSWERS, result.rows)
    content = {"summary": result.summary._asdict(), "names": result.names, "lm_eval": lm_eval}
    text = json.dumps(content, indent=1, sort_keys=True)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")


def rows_of(answers: Kept) -> list[AnswerRow]:
    """The rows {id, text} or {id, error}."""
    return answers.rows if isinstance(answers, TaskResult) else answers


def summary_of(benchmark: str, answers: Kept) -> Summary:
    """The score: lm-eval's of its own tasks, ours of the built-in benchmarks."""
    return answers.summary if isinstance(answers, TaskResult) else summarise(benchmark, answers)


def units_of(benchmark: str, answers: Kept) -> Units:
    """Unit -> its value in [0, 1] and its weight, for comparisons question by question."""
    if not isinstance(answers, TaskResult):
        return units(benchmark, answers)
    values_and_weights = zip(answers.summary.units, answers.summary.weights, strict=True)
    return dict(zip(answers.names, values_and_weights, strict=True))


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


def scored(benchmark: str, answers: Kept, key: str) -> Scored:
    """The score of kept answers."""
    rows = rows_of(answers)
    errors = sum("error" in row for row in rows)
    return Scored(summary_of(benchmark, answers), collapsed(rows), errors, len(rows), key)


def units(benchmark: str, rows: list[AnswerRow]) -> Units:
    """Unit -> its value in [0, 1] and its weight, for comparisons question by question."""
    summary = summarise(benchmark, rows)
    # a summary's units stand in the order in which the rows first name them
    names = list(dict.fromkeys(unit_of(benchmark, row["id"], row["doc"]) for row in rows))
    values_and_weights = zip(summary.units, summary.weights, strict=True)
    return dict(zip(names, values_and_weights, strict=True))
