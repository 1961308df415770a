"""Tables for a terminal of any width: whole names and numbers, fewer columns where few fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pipelines.screen import is_wide

Cell = str | Text
ENDLESS = 1_000_000  # columns: more than any table has


@dataclass(frozen=True)
class Column:
    """A column of a sheet.

    `rank` says how soon it leaves where not all columns fit: the highest first, 0 never.
    """

    name: str
    rank: int = 0
    is_text: bool = False


def text_column(name: str, rank: int = 0) -> Column:
    """A column of words, which are left-justified."""
    return Column(name, rank, is_text=True)


@dataclass(frozen=True)
class _Row:
    cells: list[Cell]
    style: str
    ends_section: bool


class Sheet:
    """A table that is printed as the width allows.

    First the words of a number's title go below each other, then columns leave by their rank,
    empty ones before all others, and a line says which. Only then do names break, between words.
    Numbers are never cut. With `--wide` all columns stay, however long the lines.
    """

    def __init__(self, title: str, columns: Sequence[Column]):
        self.title = title
        self.columns = list(columns)
        self._rows: list[_Row] = []

    def add_row(self, *cells: Cell, style: str = "", ends_section: bool = False) -> None:
        """A cell for each column. `ends_section` draws a line below the row."""
        self._rows.append(_Row(list(cells), style, ends_section))

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType | Segment]:
        """The table as it fits, for rich."""
        yield Text(self.title, "table.title")
        if is_wide(console):
            everything = list(range(len(self.columns)))
            is_stacked = not self._fits(console, options, everything, is_stacked=False)
            table = self._table(everything, is_stacked, whole_names=True)
            yield from console.render(table, options.update(max_width=ENDLESS))
            return
        visible_columns = self._shown(console, options)
        is_stacked = not self._fits(console, options, visible_columns, is_stacked=False)
        whole_names = self._fits(console, options, visible_columns, is_stacked)
        yield self._table(visible_columns, is_stacked, whole_names)
        left_out = [
            " ".join(column.name.split())
            for index, column in enumerate(self.columns)
            if index not in visible_columns and not self._is_empty(index)
        ]
        if left_out:
            yield Text(f"no room for {', '.join(left_out)}: --wide shows all", "dim")

    def _shown(self, console: Console, options: ConsoleOptions) -> list[int]:
        """The columns that stay."""
        visible_columns = list(range(len(self.columns)))
        leaving = [i for i in visible_columns if self.columns[i].rank or self._is_empty(i)]
        leaving.sort(key=lambda index: (not self._is_empty(index), -self.columns[index].rank))
        for index in leaving:
            if self._fits(console, options, visible_columns, is_stacked=True):
                break
            visible_columns.remove(index)
        return visible_columns

    def _is_empty(self, index: int) -> bool:
        return not any(str(row.cells[index]) for row in self._rows)

    def _fits(
        self,
        console: Console,
        options: ConsoleOptions,
        visible_columns: list[int],
        is_stacked: bool,
    ) -> bool:
        table = self._table(visible_columns, is_stacked, whole_names=True)
        width = table.__rich_measure__(console, options.update(max_width=ENDLESS)).maximum
        return width <= options.max_width

    def _table(self, visible_columns: list[int], is_stacked: bool, whole_names: bool) -> Table:
        table = Table()
        for index in visible_columns:
            column = self.columns[index]
            is_broken = is_stacked and not column.is_text
            table.add_column(
                column.name.replace(" ", "\n") if is_broken else column.name,
                justify="left" if column.is_text else "right",
                no_wrap=whole_names or not column.is_text,
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(
                *(row.cells[index] for index in visible_columns),
                style=row.style,
                end_section=row.ends_section,
            )
        return table
