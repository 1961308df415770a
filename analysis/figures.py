"""Charts for paper, with matplotlib: a PNG and a PDF each."""

import math
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from analysis.charts import LABELLED, Bars, Chart, Forest, Heat, Lines, Palette

STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8, "pdf.fonttype": 42,
}  # fmt: skip
PLACES = [
    (1, 0),
    (1, -1),
    (1, 1),
    (-1, 0),
    (-1, -1),
    (-1, 1),
    (0, -1),
    (0, 1),
]  # of a name beside its point: right, up
ALIGNED = {1: "left", 0: "center", -1: "right"}
SHAPES = {"circle": "o", "diamond": "D", "square": "s", "triangle-up": "^"}


def save(chart: Chart, folder: Path, prefix: str = "") -> list[Path]:
    """Draw a chart and write PREFIX + NAME .png and .pdf; returns both."""
    with plt.rc_context(STYLE):
        figure = DRAW[type(chart)](chart)
        files = [folder / f"{prefix}{chart.name}.{kind}" for kind in ("png", "pdf")]
        for file in files:
            stamp = {"CreationDate": None} if file.suffix == ".pdf" else {}
            figure.savefig(file, dpi=150, metadata=stamp)
        plt.close(figure)
    return files


def _new(chart: Chart, width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set_title(chart.title, loc="left", pad=10)
    return figure, axes


def _lines(chart: Lines) -> Figure:
    outside = len(chart.series) > 7
    figure, axes = _new(chart, 8.6 if outside else 7.2, 4.6)
    palette = Palette(chart.series, chart.quiet)
    if chart.rule:
        axes.axhline(chart.rule[0], color="#999999", linewidth=1, linestyle="--", zorder=0)
        where, across = (
            (0.0, chart.rule[0]),
            axes.get_yaxis_transform(),
        )  # at the left: small plans seldom reach it
        axes.text(
            *where,
            f" {chart.rule[1].strip()}",
            transform=across,
            ha="left",
            va="bottom",
            color="#777777",
            fontsize=8,
        )
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
    if "label" in chart.points:
        _labels(axes, chart)
    if chart.top:
        above = axes.secondary_xaxis("top")
        above.set_xticks(
            [x for x, _ in chart.top[1]], [text for _, text in chart.top[1]], fontsize=7
        )
        above.set_xlabel(chart.top[0], fontsize=8)
    if "hollow" in chart.points and chart.points["hollow"].any():
        axes.plot(
            [],
            [],
            color="#555555",
            marker="o",
            markerfacecolor="white",
            linestyle="none",
            label=f"open: {chart.hollow}",
        )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5)) if outside else axes.legend(
        loc="best"
    )
    return figure


def _labels(axes: Axes, chart: Lines) -> None:
    """Names beside their points: each where it covers least of the points, their intervals and the names before it."""
    named = chart.points[chart.points["label"].notna() & (chart.points["label"] != "")].sort_values(
        "y", ascending=False
    )
    if len(named) > LABELLED:
        return
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # so that places on the page are known
    place = axes.transData.transform
    taken = [text.get_window_extent() for text in axes.texts]
    if chart.rule:
        level = place((0, chart.rule[0]))[1]
        taken.append(Bbox([[axes.bbox.x0, level - 1], [axes.bbox.x1, level + 1]]))
    stairs = (
        [place(step) for step in chart.steps[["x", "y"]].to_numpy()]
        if chart.steps is not None
        else []
    )
    taken += [Bbox([[x, y - 2], [end, y + 2]]) for (x, y), (end, _) in pairwise(stairs)]
    for _, point in chart.points.iterrows():
        (x, y), reach = place((point["x"], point["y"])), 0.05 * axes.figure.dpi
        low, high = (
            (place((point["x"], point[c]))[1] if pd.notna(point.get(c)) else y)
            for c in ("low", "high")
        )
        taken += [
            Bbox([[x - reach, y - reach], [x + reach, y + reach]]),
            Bbox([[x - 2, low], [x + 2, high]]),
        ]
    for _, point in named.iterrows():
        text = axes.annotate(
            point["label"],
            (point["x"], point["y"]),
            textcoords="offset points",
            fontsize=7,
            xytext=(0, 0),
        )
        tried: list[tuple[float, int, int, Bbox, tuple[int, int], int, int]] = []
        for far, (right, up) in product((6, 14, 24), PLACES):
            text.set(
                position=(far * right, far * up),
                ha=ALIGNED[right],
                va=("top", "center", "bottom")[up + 1],
            )
            box = text.get_window_extent()
            inside = Bbox.intersection(box, axes.bbox)
            cut = box.width * box.height - (inside.width * inside.height if inside else 0)
            both = [Bbox.intersection(box, other) for other in taken]
            tried.append(
                (
                    sum(b.width * b.height for b in both if b) + 3 * cut,
                    far,
                    len(tried),
                    box,
                    (far * right, far * up),
                    right,
                    up,
                )
            )
        _, _, _, box, where, right, up = min(tried, key=lambda t: t[:3])
        text.set(position=where, ha=ALIGNED[right], va=("top", "center", "bottom")[up + 1])
        taken.append(box)


def _series(axes: Axes, name: str, chart: Lines, palette: Palette) -> None:
    """One series: its line if it is one, its intervals, and its points, open where they are hollow."""
    points = chart.points[chart.points["series"] == name].sort_values("x")
    colour, behind = palette.colours[name], name in chart.quiet
    if name in chart.joined:
        axes.plot(
            points["x"],
            points["y"],
            color=colour,
            linewidth=1.2,
            alpha=0.45 if behind else 0.8,
            zorder=1 if behind else 2,
        )
    if "low" in points:
        kept = points.dropna(subset=["low", "high"])
        errors = np.clip([kept["y"] - kept["low"], kept["high"] - kept["y"]], 0, None)
        axes.errorbar(
            kept["x"],
            kept["y"],
            yerr=errors,
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
            capsize=2,
            alpha=0.6,
        )
    faces = [
        ("white" if hollow else colour) for hollow in points.get("hollow", [False] * len(points))
    ]
    axes.scatter(
        points["x"],
        points["y"],
        s=34,
        c=faces,
        edgecolors=colour,
        marker=SHAPES[palette.marks[name]],
        zorder=3,
    )
    axes.scatter([], [], s=34, color=colour, marker=SHAPES[palette.marks[name]], label=name)


def _heat(chart: Heat) -> Figure:
    rows, columns = chart.rows, chart.columns
    figure, axes = _new(
        chart, 2 + 0.075 * max(map(len, rows)) + 0.62 * len(columns), 1.6 + 0.26 * len(rows)
    )
    table = (
        chart.cells.pivot(index="row", columns="column", values="value")
        .loc[rows, columns]
        .to_numpy(float)
    )
    texts = chart.cells.pivot(index="row", columns="column", values="text").loc[rows, columns]
    colours = "RdBu" if chart.middle is not None else "YlGnBu"
    reach = max(chart.high - (chart.middle or 0), (chart.middle or 0) - chart.low)
    low, high = (
        (chart.low, chart.high)
        if chart.middle is None
        else (chart.middle - reach, chart.middle + reach)
    )
    shown = axes.imshow(table, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for i, row in enumerate(texts.to_numpy()):
        for j, text in enumerate(row):
            red, green, blue, _ = (
                shown.cmap(shown.norm(table[i, j])) if math.isfinite(table[i, j]) else (1, 1, 1, 1)
            )
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            axes.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "#222222",
            )
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    figure.colorbar(shown, ax=axes, label=chart.legend, fraction=0.04, pad=0.02)
    return figure


def _bars(chart: Bars) -> Figure:
    bars, palette = chart.bars, Palette(chart.names)
    figure, axes = _new(chart, 8.2, 1.6 + 0.3 * len(bars))
    left = np.zeros(len(bars))
    for part in chart.names:
        sizes = (
            chart.parts[chart.parts["part"] == part]
            .groupby("bar")["value"]
            .sum()
            .reindex(bars, fill_value=0)
            .to_numpy()
        )
        axes.barh(
            bars,
            sizes,
            left=left,
            label=part,
            color=palette.colours[part],
            edgecolor="white",
            linewidth=0.5,
        )
        left += sizes
    axes.invert_yaxis()
    axes.set_xlabel(chart.x)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _forest(chart: Forest) -> Figure:
    names = list(dict.fromkeys(chart.rows["row"]))
    palette, count = Palette(chart.series), len(chart.series)
    figure, axes = _new(chart, 7.2, 1.5 + (0.18 + 0.16 * count) * len(names))
    axes.axvline(0, color="#777777", linewidth=1, zorder=0)
    for i, (name, rows) in enumerate(chart.rows.groupby("series", sort=False)):
        places = [
            names.index(row) + (i - (count - 1) / 2) * 0.7 / max(count, 1) for row in rows["row"]
        ]
        errors = np.clip([rows["mean"] - rows["low"], rows["high"] - rows["mean"]], 0, None)
        shape = SHAPES[palette.marks[str(name)]]
        colour = palette.colours[str(name)]
        axes.errorbar(
            rows["mean"],
            places,
            xerr=errors,
            fmt=shape,
            color=colour,
            markersize=4,
            capsize=2,
            label=str(name),
        )
    axes.set_yticks(range(len(names)), names)
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
