"""Tables keep whole names and numbers at any width; columns leave instead."""

import io

import pytest

from pipelines.screen import Screen
from pipelines.sheet import Column, Sheet, text_column

NAME = "order=entropy_reverse allocation.k=4"


def shown(width: int, terminal: bool = True) -> list[str]:
    """The lines of a small table on a terminal of so many columns."""
    sheet = Sheet(
        "runs",
        [
            text_column("run"),
            Column("stored bits", rank=2),
            Column("checkpoint"),
            Column("KL", rank=1),
            Column("collapsed"),
        ],
    )
    sheet.add_row(NAME, "3.588", "955.31 kB", "0.123", "")
    out = Screen(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    out.print(sheet)
    return out.file.getvalue().splitlines()


def test_all_columns_where_there_is_room() -> None:
    text = "\n".join(shown(120))
    for word in ("stored bits", "checkpoint", "KL", "collapsed", NAME):
        assert word in text
    assert "no room" not in text


@pytest.mark.parametrize("width", [80, 75, 70, 66, 60])
def test_names_and_numbers_stay_whole(width: int) -> None:
    lines = shown(width)
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert NAME in text
    assert "955.31 kB" in text
    assert "collapsed" not in text, "an empty column leaves first, and is not missed"


def test_columns_leave_by_their_rank() -> None:
    text = "\n".join(shown(63))
    assert "KL" in text
    assert "3.588" not in text
    assert "no room for stored bits: --wide shows all" in text
    assert "no room for stored bits, KL" in "\n".join(shown(56))


def test_the_narrowest_break_names_between_words_and_no_numbers() -> None:
    text = "\n".join(shown(44))
    assert "order=entropy_reverse" in text
    assert "allocation.k=4" in text
    assert "955.31 kB" in text


def test_a_file_has_all_columns_whatever_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = "\n".join(shown(20, terminal=False))
    for word in (NAME, "3.588", "955.31 kB", "0.123"):
        assert word in text
