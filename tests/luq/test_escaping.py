"""Hostile text in every place where text is shown."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luq.escaping import cell, file_name, markdown, markdown_code, visible

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "[/a] [red]x[/red] :smile:",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m \x7f \x00",
    "a\r\nb\tc",
    "\u202egnp.exe \u2066x\u2069 \u200f",
    "one\u2028two\u2029three\x85four",
    "a|b `c` *d* _e_ [f](g) $h$ ~i~ &lt; \\",
    "# heading",
    "- item",
    "1. item",
    "=1+1",
    "../../x",
    "\ud800",
    "%s {0} {{ 7 * 7 }} {% raw %}",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 日本 ±", "plain, größer, 日本 ±"),
        ("\x1b[2J", "␛[2J"),
        ("a\x00b\x7f", "a␀b␡"),
        ("a\tb\nc\r", "a\tb\nc␍"),
        ("\x9b \u202e \u2028 \ud800", "� � � �"),
    ],
)
def test_no_character_commands_a_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("llava_k4, luq-4, -5.3, 10 %", "llava_k4, luq-4, -5.3, 10 %"),
        ("_x_ y_", r"\_x\_ y\_"),
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("*b* [l](u) `c` \\", r"\*b\* \[l\](u) \`c\` \\"),
        ("&lt; ~s~ $x$", r"\&lt; \~s\~ \$x\$"),
        ("one\n# two", "one # two"),
        ("one\r\n  two", "one two"),
        ("# one", r"\# one"),
        ("- one", r"\- one"),
        ("---", r"\---"),
        ("12. one", r"12\. one"),
        ("-", "-"),
        ("\x1b[2J", r"␛\[2J"),
    ],
)
def test_markup_in_names_is_escaped(text: str, escaped: str) -> None:
    assert markdown(text) == escaped


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("luq run k=4", "`luq run k=4`"),
        ("echo `date`", "`` echo `date` ``"),
        ("a``b`c", "``` a``b`c ```"),
        ("one\ntwo", "`one two`"),
        ("\x1b[2J", "`␛[2J`"),
    ],
)
def test_code_may_hold_backticks(text: str, span: str) -> None:
    assert markdown_code(text) == span


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_no_cell_is_a_formula(text: str) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerow([cell(text)])
    (row,) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert row == [f"'{visible(text)}"]


def test_other_cells_are_as_they_are() -> None:
    assert [cell(text) for text in ("", "a=1", "k=4 seed=0", "'x")] == [
        "",
        "a=1",
        "k=4 seed=0",
        "'x",
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_file_s_name_stays_in_its_folder(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", file_name(text))


@given(st.text())
def test_whatever_the_text_is_it_is_one_cell_of_a_table(text: str) -> None:
    line = markdown(text)
    assert "\n" not in line
    assert "\r" not in line
    assert not re.search(r"(?<!\\)(\\\\)*[|<>`]", line)
