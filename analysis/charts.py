"""What a figure shows, as plain tables: drawn for paper (`figures`) and for the screen
(`interactive`)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

# the first eight can be told apart by people with colour-blindness (Okabe and Ito, 2008); then
# marks change too
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f7f7f",
    "#b8a800",
    "#6a51a3",
    "#8c2d04",
    "#41ab5d",
    "#dd1c77",
)
QUIET = "#9a9a9a"
QUIET_MARKS = ("square", "triangle-up")
MARKS = ("circle", "diamond", "square", "triangle-up")
LABELLED = 24  # points that can all carry their names on paper
MANY = 40  # rows of a heat map or bars that can still be read


class Rule(NamedTuple):
    """A horizontal line and its name."""

    y: float
    name: str


class Tick(NamedTuple):
    """A mark of an axis."""

    x: float
    text: str


class TopAxis(NamedTuple):
    """A second axis above."""

    title: str
    ticks: list[Tick]


@dataclass(frozen=True)
class Chart:
    """A figure's name (of its files), title and caption: what is seen, how much it rests on."""

    name: str
    title: str
    caption: str


@dataclass(frozen=True)
class Lines(Chart):
    """Points with intervals, in series.

    Columns of `points`: series, x, y; and, if they apply, low, high, hollow, plan, label. `steps`
    are a staircase of (x, y) from left to right; series in `quiet` are drawn grey and behind;
    `joined` series are lines, others points; x is `whole` where it counts something.
    """

    points: pd.DataFrame
    x: str
    y: str
    rule: Rule | None = None
    top: TopAxis | None = None
    steps: pd.DataFrame | None = None
    joined: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()
    hollow: str = "collapsed"  # what an open mark means
    whole: bool = False
    logarithmic: bool = False  # the axis of y

    @property
    def series(self) -> list[str]:
        return list(dict.fromkeys(self.points["series"]))

    @property
    def has_hollow(self) -> bool:
        return "hollow" in self.points and bool(self.points["hollow"].any())

    @property
    def named(self) -> pd.DataFrame:
        """The points that carry their names, if those are few enough to be read."""
        if "label" not in self.points:
            return self.points[:0]
        has_name = self.points["label"].notna() & (self.points["label"] != "")
        named = self.points[has_name]
        return named if len(named) <= LABELLED else named[:0]


@dataclass(frozen=True)
class Heat(Chart):
    """Cells in colour with their numbers; both axes in the table's order.

    Columns of `cells`: row, column, value (NaN: empty), text. `middle` is where a diverging scale
    is neutral; None for a scale from light to dark.
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
    """Differences with intervals, a line each; rows in the table's order.

    Columns of `rows`: row, series, mean, low, high, verdict.
    """

    rows: pd.DataFrame
    x: str

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(self.rows["row"]))

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
        self.colours = dict.fromkeys(self.names, QUIET)
        self.marks = {}
        quiet = [name for name in self.names if name in self.quiet]
        for i, name in enumerate(quiet):
            self.marks[name] = QUIET_MARKS[i % len(QUIET_MARKS)]
        loud = [name for name in self.names if name not in self.quiet]
        for i, name in enumerate(loud):
            self.colours[name] = COLOURS[i % len(COLOURS)]
            # when the colours begin again the marks are shifted by one, so that no look repeats
            self.marks[name] = MARKS[(i + i // len(COLOURS)) % len(MARKS)]
