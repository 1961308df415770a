"""Rows of answers and of fidelity as JSON lines, and answers as they come.

Answers under way stand in an append-only file that survives any kill.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from luq.errors import DataError
from luq.questions.prompts import Doc
from luq.store.sealed import parse_table, sealed, unsealed

TOP_FIRST = 64  # first tokens of an answer that are kept; KL counts the others as one
IMAGE = -1  # stands for a token that is a piece of an image


class AnswerRow(TypedDict):
    """What a model said to one question, or why the question could not be asked."""

    id: int  # the question's row
    text: NotRequired[str]
    error: NotRequired[str]  # stands instead of the text
    doc: NotRequired[Doc]  # the columns that the score needs
    prompt: NotRequired["PromptRow"]  # where it was answered by llama.cpp


class PromptRow(TypedDict):
    """What a model reads of one question, and what it thinks of the answer's first token."""

    id: int
    tokens: list[int]  # of the prompt; IMAGE for each piece of an image
    top: list[int]  # the likeliest first tokens, at most TOP_FIRST
    logs: list[float]  # their log-probabilities in nats


class FidelityRow(TypedDict):
    """One question's reference answer under packed layers."""

    id: int
    tokens: int  # of the answer
    kl: float  # to the 16-bit model, nats per answer token
    agreement: float  # share of tokens with the same first choice
    loglik: float  # nats


class FidelityRows(NamedTuple):
    """The questions of a benchmark whose probabilities were measured, and those left out."""

    measured: list[FidelityRow]
    left_out: list[AnswerRow]  # {id, error}


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    file.write_text(_lines(rows), encoding="utf-8")


def read_answers(file: Path) -> list[AnswerRow]:
    """The rows of a file of answers."""
    rows: list[AnswerRow] = [json.loads(line) for line in _read_lines(file)]
    return rows


def read_fidelity(file: Path) -> FidelityRows:
    """The rows of a file of fidelity."""
    rows = FidelityRows([], [])
    for line in _read_lines(file):
        row = json.loads(line)
        if "error" in row:
            rows.left_out.append(row)
        else:
            rows.measured.append(row)
    return rows


def refuse_errors(benchmark: str, rows: Iterable[AnswerRow]) -> None:
    """A DataError that names the first row that could not be asked, if there is one."""
    for row in rows:
        if "error" in row:
            raise DataError(
                f"{benchmark} row {row['id']}: {row['error']}. With evaluation.strict=false it "
                "counts as wrong"
            )


def _read_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _finished_row(line: bytes) -> AnswerRow | None:
    """The row of a line that was written whole and is what was written; None for any other."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = unsealed(parse_table(line))
    except ValueError:
        return None
    says_one_thing = ("text" in row) != ("error" in row)
    if type(row.get("id")) is not int or not says_one_thing:
        return None
    return cast("AnswerRow", row)


class Predictions:
    """The rows {id, text or error} of one evaluation that is under way, by question id.

    `reused` of them were there when the file was opened.
    """

    def __init__(self, file: Path):
        """Read what an earlier process left. A line that it did not finish, or that is damaged, is
        cut off with all that follows it.
        """
        self.file = file
        self.rows: dict[int, AnswerRow] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        # A killed process leaves at most one unfinished line, the last: what follows a line that
        # cannot be read is dropped, and asked again.
        finished_bytes = 0
        for line in file.read_bytes().splitlines(keepends=True):
            row = _finished_row(line)
            if row is None:
                break
            self.rows[row["id"]] = row
            finished_bytes += len(line)
        os.truncate(file, finished_bytes)
        self.reused = len(self.rows)

    def append(self, rows: list[AnswerRow]) -> None:
        """Add the rows of one batch in a single write, and wait until they are on the disk."""
        with self.file.open("ab", buffering=0) as handle:
            handle.write(_lines(sealed(dict(row)) for row in rows).encode())
            os.fsync(handle.fileno())
        for row in rows:
            self.rows[row["id"]] = row
