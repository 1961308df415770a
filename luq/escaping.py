"""Text that comes from elsewhere, made safe for where it is shown.

Names of models, runs and folders, settings, answers, messages of libraries, and all that stands in
the records and exported folders of others may hold anything. HTML is escaped by its templates.
"""

import logging
import re

# What a terminal could obey: controls but tab and newline, marks that turn the direction of
# writing (Unicode's bidirectional controls), line separators, and halves of characters.
COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
CONTROL_PICTURES = 0x2400  # Unicode's visible signs for the controls from 0 on
DELETE = 0x7F
DELETE_PICTURE = "\u2421"
REPLACEMENT = "\ufffd"
# What Markdown would take for markup. Underscores inside a word are none.
MARKUP = re.compile(r"[\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What begins a heading, a list or a rule at the beginning of a line.
BLOCK = re.compile(r"^([#+-])(?=[\s#-])")
NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")
BACKTICKS = re.compile(r"`+")
# A cell that begins so is a formula in spreadsheets.
FORMULA = re.compile(r"^[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20]")
HALVES = re.compile("[\ud800-\udfff]")
NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def visible(text: str) -> str:
    """Text with a sign of one column for each character that a terminal could obey."""
    return COMMANDS.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < ord(" "):
        return chr(CONTROL_PICTURES + number)
    return DELETE_PICTURE if number == DELETE else REPLACEMENT


def markdown(text: str) -> str:
    """Text for a line or a table cell of Markdown, where it means nothing but itself."""
    line = visible(LINE_BREAK.sub(" ", text))
    escaped = MARKUP.sub(r"\\\g<0>", line)
    return NUMBERED.sub(r"\1\\\2", BLOCK.sub(r"\\\1", escaped))


def markdown_code(text: str) -> str:
    """A code span of Markdown, fenced by more backticks than the text holds in a row."""
    line = visible(LINE_BREAK.sub(" ", text))
    runs = [len(run) for run in BACKTICKS.findall(line)]
    fence = "`" * (max(runs, default=0) + 1)
    padding = " " if runs else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def cell(text: str) -> str:
    """Text for a cell of a CSV file: one that spreadsheets would compute is quoted, as they do."""
    visible_text = visible(text)
    return f"'{visible_text}" if FORMULA.match(text) else visible_text


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: halves of characters are replaced."""
    return HALVES.sub(REPLACEMENT, text)


def file_name(text: str) -> str:
    """A part of a file's name, of letters, digits, points, dashes and underscores."""
    return NOT_IN_FILE_NAMES.sub("_", text).lstrip(".") or "_"


class VisibleFormatter(logging.Formatter):
    """Messages may hold text from anywhere: it cannot command the terminal that shows it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and its traceback if there is one."""
        return visible(super().format(record))
