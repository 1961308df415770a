"""Tables that notice when they were changed."""

import json
from pathlib import Path

import pytest

from luq.store.sealed import read_table, sealed

TABLE = {"score": 61.25, "name": "größer", "parts": [1, None, {"a": True}], "bound": float("inf")}


def test_a_table_comes_back_with_its_seal(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(sealed(TABLE), indent=1), encoding="utf-8")
    table = read_table(file)
    assert {name: table[name] for name in TABLE} == TABLE
    assert sealed(table) == table


def test_any_changed_digit_is_noticed(tmp_path: Path) -> None:
    """Whichever character becomes another digit or letter."""
    text = json.dumps(sealed({"a": 12, "bc": "x", "d": [3.5]}))
    file = tmp_path / "table.json"
    for place, character in enumerate(text):
        if not character.isalnum():
            continue
        changed = "7" if character != "7" else "8"
        file.write_text(text[:place] + changed + text[place + 1 :])
        with pytest.raises(ValueError, match=r"digest|Expecting|Extra|JSON|escape"):
            read_table(file)


def test_a_table_of_an_earlier_version_has_no_seal(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(TABLE))
    assert read_table(file) == TABLE


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(sealed({"name": "a\ud800b", "other": ["\udcff"]})))
    table = read_table(file)
    assert (table["name"], table["other"]) == ("a?b", ["?"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "list", "null", "no text", "NaN", "deep", "huge"],
)
def test_what_is_no_table_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "table.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_table(file)
