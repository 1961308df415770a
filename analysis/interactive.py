"""Charts for the screen: Vega-Lite specifications, drawn by the library in the report itself."""

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis.charts import Bars, Chart, Forest, Heat, Lines, Palette, Rule, TopAxis

Spec = dict[str, Any]  # a part of a Vega-Lite specification: JSON that is only written
Plain = str | int | float | bool | None

TOOLTIP: Spec = {"content": "data"}
# zoom and drag with the shift key, so that a page can be scrolled over a figure
DRAG = "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!"
ZOOM: Spec = {
    "name": "zoom",
    "bind": "scales",
    "select": {"type": "interval", "zoom": "wheel![event.shiftKey]", "translate": DRAG},
}
# a click on the legend picks a series, and the others fade
PICK: Spec = {
    "name": "picked",
    "select": {"type": "point", "fields": ["series"]},
    "bind": "legend",
}
FADED: Spec = {"condition": {"param": "picked", "value": 1}, "value": 0.12}
POINTS = "points"  # the layer whose marks the page's script names
TICKS = 8  # of an axis, about
DIGITS = 5  # significant, of numbers in the page


@lru_cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed in one script that needs no network."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub lacks the default
    # the closing tag inside the library's own strings would end the script element
    return bundle.replace("</script", "<\\/script")


def spec(chart: Chart) -> Spec:
    """A chart as a Vega-Lite specification that fills the width of its place."""
    body: Spec = DRAW[type(chart)](chart)
    return {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}, **body}


def values(table: pd.DataFrame, with_empty: bool = False) -> list[dict[str, Plain]]:
    """A table's rows as plain data, numbers to five significant digits.

    Args:
        table: its columns are the keys.
        with_empty: whether a cell without a value has a key.
    """
    rows = []
    for cells in table.to_dict("records"):
        row = {str(name): _plain(value) for name, value in cells.items()}
        if not with_empty:
            row = {name: value for name, value in row.items() if value not in (None, "")}
        rows.append(row)
    return rows


def _plain(value: Any) -> Plain:
    """A cell's value for JSON, which knows neither NaN nor the types of numpy."""
    if value is pd.NA:
        return None
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    plain: Plain = value.item() if hasattr(value, "item") else value
    return plain


def script(value: Any) -> str:
    """Plain data as JSON that may stand inside a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _colours(palette: Palette) -> Spec:
    return {"domain": palette.names, "range": [palette.colours[name] for name in palette.names]}


def _colour(palette: Palette) -> Spec:
    scale = _colours(palette)
    return {"field": "series", "type": "nominal", "scale": scale, "legend": {"title": None}}


def _shape(palette: Palette) -> Spec:
    scale = {"domain": palette.names, "range": [palette.marks[name] for name in palette.names]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": {"title": None}}


def _axis(field: str, title: str, whole: bool = False, logarithmic: bool = False) -> Spec:
    """An axis of numbers; a whole one has ticks at whole numbers only."""
    axis: Spec = {"tickCount": TICKS}
    if whole:
        axis |= {"tickMinStep": 1, "format": "d"}
    scale: Spec = {"zero": False, "nice": not whole, "padding": 14}
    if logarithmic:
        scale["type"] = "log"
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "axis": axis,
        "scale": scale,
    }


def _lines(chart: Lines) -> Spec:
    palette = Palette(chart.series, chart.quiet)
    x = _axis("x", chart.x, chart.whole)
    y = _axis("y", chart.y, logarithmic=chart.logarithmic)
    colour = _colour(palette)
    layers: list[Spec] = []
    if chart.rule:
        layers += _rule(chart.rule, y)
    if chart.steps is not None and len(chart.steps):
        layers.append(_steps(chart.steps, x, y))
    if chart.joined:
        joined = {"filter": {"field": "series", "oneOf": sorted(chart.joined)}}
        layers.append(
            {
                "transform": [joined],
                "mark": {"type": "line", "strokeWidth": 1.6},
                "encoding": {"x": x, "y": y, "color": colour, "opacity": FADED},
            }
        )
    if "low" in chart.points:
        layers.append(
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "strokeWidth": 1, "opacity": 0.6},
                "encoding": {
                    "x": x,
                    "y": _axis("low", chart.y, logarithmic=chart.logarithmic),
                    "y2": {"field": "high"},
                    "color": colour,
                    "opacity": FADED,
                },
            }
        )
    layers.append(_points(chart, palette, {"x": x, "y": y}))
    body: Spec = {"height": 380, "data": {"values": values(chart.points)}, "layer": layers}
    if chart.top:
        # the scale is one, the axes are two: all other layers draw theirs, which are the same
        layers.append(_top_axis(chart.top, x))
        body["resolve"] = {"axis": {"x": "independent"}}
        for layer in layers[:-2]:
            if "x" in layer["encoding"]:
                layer["encoding"]["x"] = layer["encoding"]["x"] | {"axis": None}
    if len(chart.named):
        body["usermeta"] = {"names": POINTS}
    return body


def _rule(rule: Rule, y: Spec) -> list[Spec]:
    """A dashed line, its name at the left: small plans seldom reach it."""
    data = {"values": [{"y": rule.y, "name": rule.name.strip()}]}
    name = {"type": "text", "align": "left", "baseline": "bottom", "dy": -3, "x": 4}
    return [
        {
            "data": data,
            "mark": {"type": "rule", "strokeDash": [5, 4], "color": "#999"},
            "encoding": {"y": y},
        },
        {"data": data, "mark": name, "encoding": {"y": y, "text": {"field": "name"}}},
    ]


def _steps(steps: pd.DataFrame, x: Spec, y: Spec) -> Spec:
    line = {"type": "line", "interpolate": "step-after", "color": "#888", "strokeWidth": 1.5}
    return {"data": {"values": values(steps)}, "mark": line, "encoding": {"x": x, "y": y}}


def _points(chart: Lines, palette: Palette, place: Spec) -> Spec:
    """The points, open where they are hollow."""
    mark = {
        "type": "point",
        "size": 70,
        "strokeWidth": 1.8,
        "tooltip": TOOLTIP,
        "cursor": "pointer",
    }
    colour = _colour(palette)
    encoding = {
        **place,
        "stroke": colour,
        "fill": colour,
        "shape": _shape(palette),
        "opacity": FADED,
    }
    if chart.has_hollow:
        is_open = {"test": "datum.hollow", "value": 0}
        encoding["fillOpacity"] = {"condition": is_open, "value": 1}
    return {"name": POINTS, "params": [PICK, ZOOM], "mark": mark, "encoding": encoding}


def _top_axis(top: TopAxis, x: Spec) -> Spec:
    """A second axis above, whose ticks stand at given places with given texts."""
    places = [tick.x for tick in top.ticks]
    texts = [tick.text for tick in top.ticks]
    axis = {
        "orient": "top",
        "title": top.title,
        "values": places,
        "labelExpr": f"{json.dumps(texts)}[indexof({json.dumps(places)}, datum.value)]",
        "grid": False,
        "labelOverlap": True,
    }
    return {
        "data": {"values": [{"x": place} for place in places]},
        "mark": {"type": "tick", "opacity": 0},
        "encoding": {"x": x | {"axis": axis, "title": top.title}},
    }


def _heat(chart: Heat) -> Spec:
    # `dark` is the expression for cells on which text is white
    if chart.middle is None:
        scale = {"scheme": "yellowgreenblue", "domain": [chart.low, chart.high], "clamp": True}
        dark = f"datum.value > {chart.low + 0.55 * (chart.high - chart.low)}"
    else:
        scale = {
            "scheme": "redblue",
            "domain": [chart.low, chart.high],
            "domainMid": chart.middle,
        }
        dark = f"abs(datum.value - {chart.middle}) > {0.6 * (chart.high - chart.middle)}"
    axes: Spec = {
        "y": {"field": "row", "type": "nominal", "sort": chart.rows, "title": None},
        "x": {
            "field": "column",
            "type": "nominal",
            "sort": chart.columns,
            "title": None,
            "axis": {"labelAngle": -40},
        },
    }
    colour: Spec = {
        "field": "value",
        "type": "quantitative",
        "scale": scale,
        "legend": {"title": chart.legend, "orient": "top"},
    }
    text_colour = {"condition": {"test": dark, "value": "#fff"}, "value": "#222"}
    cells = {"mark": {"type": "rect", "tooltip": TOOLTIP}, "encoding": {**axes, "color": colour}}
    texts = {
        "mark": {"type": "text", "fontSize": 10},
        "encoding": {**axes, "text": {"field": "text"}, "color": text_colour},
    }
    return {
        "height": 20 * len(chart.rows),
        "data": {"values": values(chart.cells)},
        "layer": [cells, texts],
    }


def _bars(chart: Bars) -> Spec:
    palette = Palette(chart.names)
    order = {name: i for i, name in enumerate(chart.names)}
    # without an order Vega-Lite would stack the parts by name
    parts = chart.parts.assign(place=chart.parts["part"].map(order))
    colour: Spec = {
        "field": "part",
        "type": "nominal",
        "scale": _colours(palette),
        "legend": {"title": None},
    }
    encoding: Spec = {
        "y": {"field": "bar", "type": "nominal", "sort": chart.bars, "title": None},
        "x": {
            "field": "value",
            "type": "quantitative",
            "title": chart.x,
            "stack": "zero",
            "axis": {"tickCount": TICKS},
        },
        "color": colour,
        "order": {"field": "place", "type": "quantitative"},
    }
    return {
        "height": 22 * len(chart.bars),
        "data": {"values": values(parts)},
        "mark": {"type": "bar", "tooltip": TOOLTIP},
        "encoding": encoding,
    }


def _forest(chart: Forest) -> Spec:
    palette = Palette(chart.series)
    row: Spec = {
        "field": "row",
        "type": "nominal",
        "sort": chart.names,
        "title": None,
        "axis": {"grid": True},
    }
    # one series needs no legend, and its rows no room below each other
    base: Spec = {"y": row}
    if len(chart.series) > 1:
        base["color"] = _colour(palette)
        base["yOffset"] = {"field": "series", "type": "nominal", "sort": chart.series}
    else:
        base["color"] = {"value": palette.colours[palette.names[0]]}
    zero = {
        "data": {"values": [{"x": 0}]},
        "mark": {"type": "rule", "color": "#999"},
        "encoding": {"x": _axis("x", chart.x)},
    }
    spans = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {**base, "x": _axis("low", chart.x), "x2": {"field": "high"}},
    }
    means = {
        "mark": {"type": "point", "filled": True, "size": 60, "tooltip": TOOLTIP},
        "encoding": {**base, "x": _axis("mean", chart.x)},
    }
    return {
        "height": (14 * len(chart.series) + 10) * len(chart.names),
        "data": {"values": values(chart.rows)},
        "layer": [zero, spans, means],
    }


DRAW: dict[type[Chart], Callable[..., Spec]] = {
    Lines: _lines,
    Heat: _heat,
    Bars: _bars,
    Forest: _forest,
}
