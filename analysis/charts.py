"""What a figure shows, as plain tables: drawn once for paper (`figures`) and once for the screen (`interactive`)."""

from dataclasses import dataclass, field

import pandas as pd

# the first eight can be told apart by people with colour-blindness (Okabe and Ito); then marks change too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a800",
           "#6a51a3", "#8c2d04", "#41ab5d", "#dd1c77")  # fmt: skip
QUIET = "#9a9a9a"
MARKS = ("circle", "diamond", "square", "triangle-up")
LABELLED = 24  # points that can all carry their names on paper
MANY = 40  # rows of a heat map or bars that can still be read


@dataclass(frozen=True)
class Chart:
    """A figure's name (of its files), title, and a caption that says what is seen and how much it rests on."""

    name: str
    title: str
    caption: str


@dataclass(frozen=True)
class Lines(Chart):
    """Points with intervals, in series. Columns: series, x, y; and, if they apply, low, high, hollow, plan, label.

    `rule` is a horizontal line and its name; `top` are ticks of a second axis above, (x, text); `steps` a staircase of
    (x, y) from left to right; series in `quiet` are drawn grey and behind; `joined` series are lines, others points.
    """

    points: pd.DataFrame
    x: str
    y: str
    rule: tuple[float, str] | None = None
    top: tuple[str, list[tuple[float, str]]] | None = None
    steps: pd.DataFrame | None = None
    joined: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()
    hollow: str = "collapsed"  # what an open mark means

    @property
    def series(self) -> list[str]:
        return list(dict.fromkeys(self.points["series"]))


@dataclass(frozen=True)
class Heat(Chart):
    """Cells in colour with their numbers. Columns: row, column, value (NaN: empty), text; both axes in the table's order.

    `middle` is where a diverging scale is neutral; None for a scale from light to dark.
    """

    cells: pd.DataFrame
    legend: str
    low: float
    high: float
    middle: float | None = None

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(self.cells["row"]))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(self.cells["column"]))


@dataclass(frozen=True)
class Bars(Chart):
    """Horizontal bars of stacked parts. Columns: bar, part, value; both in the table's order."""

    parts: pd.DataFrame
    x: str

    @property
    def bars(self) -> list[str]:
        return list(dict.fromkeys(self.parts["bar"]))

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(self.parts["part"]))


@dataclass(frozen=True)
class Forest(Chart):
    """Differences with intervals, a line each. Columns: row, series, mean, low, high, verdict; rows in the table's order."""

    rows: pd.DataFrame
    x: str

    @property
    def series(self) -> list[str]:
        return list(dict.fromkeys(self.rows["series"]))


@dataclass
class Palette:
    """The colour and the mark of each series; `quiet` ones are grey."""

    names: list[str]
    quiet: frozenset[str] = frozenset()
    colours: dict[str, str] = field(init=False)
    marks: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        loud = [name for name in self.names if name not in self.quiet]
        self.colours = {name: QUIET for name in self.names} | {
            n: COLOURS[i % len(COLOURS)] for i, n in enumerate(loud)
        }
        self.marks = {name: "square" for name in self.names}
        self.marks |= {
            name: MARKS[(i + i // len(COLOURS)) % len(MARKS)] for i, name in enumerate(loud)
        }
