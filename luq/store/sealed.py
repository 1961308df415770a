"""JSON tables that hold a digest of themselves, so that a changed digit is noticed.

It finds damage and edits by hand. It is no signature: an adversary can compute it too.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

# Two entries, so that damage to the name of either does not make a table look like an unsealed one.
METHOD = "seal"
DIGEST = "digest"
SHA256 = "sha256"


def _digest(table: dict[str, Any]) -> str:
    """The sha256 of a table without its seal, as JSON with sorted names and without spaces."""
    content = {name: value for name, value in table.items() if name not in (METHOD, DIGEST)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(table: dict[str, Any]) -> dict[str, Any]:
    """A table with its seal."""
    return {**table, METHOD: SHA256, DIGEST: _digest(table)}


def unsealed(table: dict[str, Any]) -> dict[str, Any]:
    """A table without its seal.

    Raises:
        ValueError: It has none, or was changed after it was sealed.
    """
    if table.get(METHOD) != SHA256 or table.get(DIGEST) != _digest(table):
        raise ValueError("its content is not what was written: its digest is another one")
    return {name: value for name, value in table.items() if name not in (METHOD, DIGEST)}


def parse_table(text: str | bytes) -> dict[str, Any]:
    """The table that a JSON text is.

    Raises:
        ValueError: It is none, is nested too deep, or holds a number that is none.
    """
    try:
        table = json.loads(text, parse_constant=_number)
    except RecursionError as error:
        raise ValueError("its content is nested too deep") from error
    if not isinstance(table, dict):
        raise ValueError("it holds no JSON object")
    return table


def _number(constant: str) -> float:
    """What JSON of Python may hold beside numbers: infinities may be measured, NaN is nothing."""
    if constant == "NaN":
        raise ValueError("it holds NaN")
    return float(constant)


def read_table(file: Path) -> dict[str, Any]:
    """The table in a JSON file, with its seal if it has one, after that was compared with it.

    A table without a seal, of an earlier version, is taken as it is.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no table, or one that was changed after it was written.
    """
    return checked_table(file.read_text(encoding="utf-8"))


def checked_table(text: str | bytes) -> dict[str, Any]:
    """As `read_table`, of what a file holds.

    Raises:
        ValueError: It is no table, or one that was changed after it was written.
    """
    table = parse_table(text)
    if METHOD in table or DIGEST in table:
        unsealed(table)
    return _encodable(table)


def _encodable(table: dict[str, Any]) -> dict[str, Any]:
    """A table whose texts can be written in UTF-8: JSON may hold halves of characters."""
    text = json.dumps(table, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        replaced: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
        return replaced
    return table
