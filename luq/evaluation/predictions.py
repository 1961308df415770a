"""Answers as they come: an append-only file of JSON lines that survives any kill."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

Row = dict[str, Any]  # {id, text or error}, and with `doc` the columns that its score needs


class FidelityRow(TypedDict):
    """One question's reference answer under packed layers."""

    id: int
    tokens: int  # of the answer
    kl: float  # to the 16-bit model, nats per answer token
    agreement: float  # share of tokens with the same first choice
    loglik: float  # nats


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read_rows(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class Predictions:
    """The rows {id, text or error} of one evaluation that is under way, by question id."""

    def __init__(self, file: Path):
        """Take up what an earlier process left; a line that it did not finish is cut off."""
        self.file, self.rows = file, dict[int, Row]()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        kept = 0
        for line in file.read_bytes().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self.rows[row["id"]] = row
            kept += len(line)
        os.truncate(file, kept)
        self.reused = len(self.rows)

    def append(self, rows: list[Row]) -> None:
        """Add the rows of one batch in a single write, and see it on the disk."""
        with self.file.open("ab", buffering=0) as handle:
            handle.write("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode())
            os.fsync(handle.fileno())
        self.rows |= {row["id"]: row for row in rows}
