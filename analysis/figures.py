"""Charts for paper, with matplotlib: a PNG and a PDF each.

Not drawn from the page's Vega-Lite specifications (`interactive`): what places the names of points
there needs a browser's canvas, which vl-convert lacks, and a Pareto figure on paper without names
says little.
"""

import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from analysis.charts import Bars, Chart, Forest, Heat, Lines, Palette, Rule, TopAxis

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a $ in a name is a $
}
LEGEND_INSIDE = 7  # series whose names leave room for the points
# where a name may stand beside its point, (right, up), best first; and how far away, in points
TURNS = ((1, 0), (1, -1), (1, 1), (-1, 0), (-1, -1), (-1, 1), (0, -1), (0, 1))
DISTANCES = (6, 14, 24)
HORIZONTAL = {1: "left", 0: "center", -1: "right"}
VERTICAL = {1: "bottom", 0: "center", -1: "top"}
MARK_REACH = 0.05  # inches around a point that its mark covers
OUTSIDE_COST = 3  # times as bad as covering something: what of a name lies outside the axes
SHAPES = {"circle": "o", "diamond": "D", "square": "s", "triangle-up": "^"}
LABEL_WIDTH = 36  # characters of a line of a name beside an axis
LABEL_LINES = 3
DARK = 0.55  # luminance below which a cell's text is white


def save(chart: Chart, folder: Path, prefix: str = "") -> list[Path]:
    """Draw a chart and write PREFIX + NAME .png and .pdf; returns both."""
    with plt.rc_context(STYLE), warnings.catch_warnings():
        # Names may be in any script: what the font lacks is a box.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = DRAW[type(chart)](chart)
        files = [folder / f"{prefix}{chart.name}.{kind}" for kind in ("png", "pdf")]
        for file in files:
            # without a date the same chart gives the same bytes
            metadata = {"CreationDate": None} if file.suffix == ".pdf" else {}
            figure.savefig(file, dpi=150, metadata=metadata)
        plt.close(figure)
    return files


def _new(chart: Chart, width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set_title(chart.title, loc="left", pad=10)
    return figure, axes


def _lines(chart: Lines) -> Figure:
    legend_outside = len(chart.series) > LEGEND_INSIDE
    figure, axes = _new(chart, 8.6 if legend_outside else 7.2, 4.6)
    palette = Palette(chart.series, chart.quiet)
    if chart.rule:
        _rule(axes, chart.rule)
    if chart.steps is not None and len(chart.steps):
        axes.step(
            chart.steps["x"],
            chart.steps["y"],
            where="post",
            color="#444444",
            linewidth=1.2,
            alpha=0.6,
            label="Pareto front",
        )
    for name in chart.series:
        _series(axes, name, chart, palette)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.margins(x=0.1, y=0.1)
    if chart.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        # the usual numbers are formulas, which STYLE leaves as they stand
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if chart.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(chart.named):
        _labels(axes, chart)
    if chart.top:
        _top_axis(axes, chart.top)
    if chart.has_hollow:
        # an empty series, for the legend
        axes.plot(
            [],
            [],
            color="#555555",
            marker="o",
            markerfacecolor="white",
            linestyle="none",
            label=f"open: {chart.hollow}",
        )
    if legend_outside:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    else:
        axes.legend(loc="best")
    return figure


def _rule(axes: Axes, rule: Rule) -> None:
    """A dashed line, its name at the left: small plans seldom reach it."""
    axes.axhline(rule.y, color="#999999", linewidth=1, linestyle="--", zorder=0)
    axes.text(
        0.0,
        rule.y,
        f" {rule.name.strip()}",
        transform=axes.get_yaxis_transform(),
        ha="left",
        va="bottom",
        color="#777777",
        fontsize=8,
    )


def _top_axis(axes: Axes, top: TopAxis) -> None:
    above = axes.secondary_xaxis("top")
    above.set_xticks([tick.x for tick in top.ticks], [tick.text for tick in top.ticks], fontsize=7)
    above.set_xlabel(top.title, fontsize=8)


class Spot(NamedTuple):
    """A place for a name beside its point, and how bad it is: by cost, then distance, then turn."""

    cost: float  # area of the page that it covers or leaves, in pixels
    distance: int  # from the point
    turn: int  # number of the place among those that were tried
    box: Bbox
    right: int
    up: int


def _labels(axes: Axes, chart: Lines) -> None:
    """Names beside their points.

    Each stands where it covers least of the points, their intervals and the names before it.
    adjustText was tried on the same figures: it takes marks for points without size, and left
    names across marks, intervals and the 16-bit line.
    """
    named = chart.named.sort_values("y", ascending=False)
    # so that places on the page are known
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # no SubFigure is drawn here
    obstacles = _obstacles(axes, chart)
    # from the top down: a name placed earlier is an obstacle for those below
    for _, point in named.iterrows():
        text = axes.annotate(
            point["label"],
            (point["x"], point["y"]),
            textcoords="offset points",
            fontsize=7,
            xytext=(0, 0),
        )
        spots = []
        for turn, (distance, (right, up)) in enumerate(product(DISTANCES, TURNS)):
            _place(text, distance, right, up)
            box = text.get_window_extent()
            spots.append(Spot(_cost(box, axes.bbox, obstacles), distance, turn, box, right, up))
        best = min(spots, key=lambda spot: (spot.cost, spot.distance, spot.turn))
        _place(text, best.distance, best.right, best.up)
        obstacles.append(best.box)


def _place(text: Annotation, distance: int, right: int, up: int) -> None:
    text.set(position=(distance * right, distance * up), ha=HORIZONTAL[right], va=VERTICAL[up])


def _cost(box: Bbox, page: Bbox, obstacles: list[Bbox]) -> float:
    """How much a name in this box would cover, and how much of it would lie outside the axes."""
    covered = sum(_shared_area(box, obstacle) for obstacle in obstacles)
    outside = box.width * box.height - _shared_area(box, page)
    return covered + OUTSIDE_COST * outside


def _shared_area(a: Bbox, b: Bbox) -> float:
    shared = Bbox.intersection(a, b)
    return float(shared.width * shared.height) if shared else 0.0


def _obstacles(axes: Axes, chart: Lines) -> list[Bbox]:
    """What names should not cover: texts, the rule, the front, points and their intervals."""
    on_page = axes.transData.transform
    boxes = [text.get_window_extent() for text in axes.texts]
    if chart.rule:
        level = on_page((0, chart.rule.y))[1]
        boxes.append(Bbox([[axes.bbox.x0, level - 1], [axes.bbox.x1, level + 1]]))
    if chart.steps is not None:
        corners = [on_page(step) for step in chart.steps[["x", "y"]].to_numpy()]
        for (x, y), (next_x, _) in pairwise(corners):
            boxes.append(Bbox([[x, y - 2], [next_x, y + 2]]))
    reach = MARK_REACH * axes.figure.dpi
    for _, point in chart.points.iterrows():
        x, y = on_page((point["x"], point["y"]))
        low, high = (
            on_page((point["x"], point[edge]))[1] if pd.notna(point.get(edge)) else y
            for edge in ("low", "high")
        )
        # the mark, then the interval: as thin as its line
        boxes.append(Bbox([[x - reach, y - reach], [x + reach, y + reach]]))
        boxes.append(Bbox([[x - 2, low], [x + 2, high]]))
    return boxes


def _series(axes: Axes, name: str, chart: Lines, palette: Palette) -> None:
    """One series: its line if it is one, its intervals, and its points, open where hollow."""
    points = chart.points[chart.points["series"] == name].sort_values("x")
    colour = palette.colours[name]
    is_quiet = name in chart.quiet
    if name in chart.joined:
        axes.plot(
            points["x"],
            points["y"],
            color=colour,
            linewidth=1.2,
            alpha=0.45 if is_quiet else 0.8,
            zorder=1 if is_quiet else 2,
        )
    if "low" in points:
        bounded = points.dropna(subset=["low", "high"])
        reach = [bounded["y"] - bounded["low"], bounded["high"] - bounded["y"]]
        axes.errorbar(
            bounded["x"],
            bounded["y"],
            yerr=np.clip(reach, 0, None),
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
            capsize=2,
            alpha=0.6,
        )
    hollow = points.get("hollow", [False] * len(points))
    axes.scatter(
        points["x"],
        points["y"],
        s=34,
        c=["white" if is_open else colour for is_open in hollow],
        edgecolors=colour,
        marker=SHAPES[palette.marks[name]],
        zorder=3,
    )
    # an empty one, so that the legend's mark is filled
    axes.scatter([], [], s=34, color=colour, marker=SHAPES[palette.marks[name]], label=name)


def _heat(chart: Heat) -> Figure:
    rows = chart.rows
    columns = chart.columns
    longest = max(len(row) for row in rows)
    width = 2 + 0.075 * longest + 0.62 * len(columns)
    figure, axes = _new(chart, width, 1.6 + 0.26 * len(rows))
    values = chart.cells.pivot(index="row", columns="column", values="value")
    texts = chart.cells.pivot(index="row", columns="column", values="text")
    numbers = values.loc[rows, columns].to_numpy(float)
    colours = "YlGnBu"
    low = chart.low
    high = chart.high
    if chart.middle is not None:
        # both ends are equally far from the neutral colour
        colours = "RdBu"
        reach = max(chart.high - chart.middle, chart.middle - chart.low)
        low = chart.middle - reach
        high = chart.middle + reach
    image = axes.imshow(numbers, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for i, row in enumerate(texts.loc[rows, columns].to_numpy()):
        for j, text in enumerate(row):
            luminance = 1.0  # an empty cell is white
            if math.isfinite(numbers[i, j]):
                red, green, blue, _ = image.cmap(image.norm(numbers[i, j]))
                # of the eye's sensitivity to the three colours (ITU-R BT.601, rounded)
                luminance = 0.3 * red + 0.59 * green + 0.11 * blue
            colour = "white" if luminance < DARK else "#222222"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), _wrapped(rows))
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=chart.legend, fraction=0.04, pad=0.02)
    return figure


def _wrapped(names: Sequence[str]) -> list[str]:
    """Names beside an axis, in short lines: a run's may be as long as its command."""
    labels: list[str] = []
    for name in names:
        lines = textwrap.wrap(name, LABEL_WIDTH, max_lines=LABEL_LINES, placeholder=" ...")
        labels.append("\n".join(lines))
    return labels


def _bars(chart: Bars) -> Figure:
    bars = chart.bars
    palette = Palette(chart.names)
    labels = _wrapped(bars)
    lines = sum(label.count("\n") + 1 for label in labels)
    figure, axes = _new(chart, 8.2, 1.6 + 0.3 * lines)
    places = np.arange(len(bars))
    # each part begins where the one before it ended
    left = np.zeros(len(bars))
    for part in chart.names:
        of_part = chart.parts[chart.parts["part"] == part]
        sizes = of_part.groupby("bar")["value"].sum().reindex(bars, fill_value=0).to_numpy()
        axes.barh(
            places,
            sizes,
            left=left,
            label=part,
            color=palette.colours[part],
            edgecolor="white",
            linewidth=0.5,
        )
        left += sizes
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlabel(chart.x)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _forest(chart: Forest) -> Figure:
    names = chart.names
    count = len(chart.series)
    palette = Palette(chart.series)
    figure, axes = _new(chart, 7.2, 1.5 + (0.18 + 0.16 * count) * len(names))
    axes.axvline(0, color="#777777", linewidth=1, zorder=0)
    for i, series in enumerate(chart.series):
        rows = chart.rows[chart.rows["series"] == series]
        # the series of a row stand below each other, within 0.7 of its height
        shift = (i - (count - 1) / 2) * 0.7 / count
        reach = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
        axes.errorbar(
            rows["mean"],
            [names.index(row) + shift for row in rows["row"]],
            xerr=np.clip(reach, 0, None),
            fmt=SHAPES[palette.marks[series]],
            color=palette.colours[series],
            markersize=4,
            capsize=2,
            label=series,
        )
    axes.set_yticks(range(len(names)), _wrapped(names))
    axes.invert_yaxis()
    axes.set_xlabel(chart.x)
    if count > 1:
        axes.legend(loc="best")
    return figure


DRAW: dict[type[Chart], Callable[..., Figure]] = {
    Lines: _lines,
    Heat: _heat,
    Bars: _bars,
    Forest: _forest,
}
