"""The terminal. Text that comes from elsewhere is text: neither markup nor a terminal's command.

Names of runs, folders and models, settings, answers, and what exported folders and libraries say
may hold anything: square brackets, colons around a word, escape codes, bidirectional marks.
"""

import os
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from luq.escaping import COMMANDS, visible

WIDE = "luq.wide"  # in click's context of a command: whether --wide was given


def is_wide(console: Console) -> bool:
    """Whether tables have all their columns, however long the lines.

    So it is with `--wide`, and where the output goes to a file or to another program, whose width
    nobody knows (unless the variable COLUMNS says it).
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(WIDE):
        return True
    return not console.is_terminal and "COLUMNS" not in os.environ


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line of plain parts and of parts with a style: `styled(("failed", "red"), " ", name)`."""
    return Text.assemble(*parts)


class Screen(Console):
    """A console on which strings are what they are: styles are given with `styled`."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints; lines of wide tables are not cut at the width of the terminal."""
        if is_wide(self):
            options.setdefault("crop", False)
        super().print(*objects, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable; rich's own control segments (of bars) are left alone."""
        for segment in super().render(renderable, options):
            if segment.control or not COMMANDS.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)
