"""Charts for the screen: Vega-Lite specifications, drawn by the library that the report carries inside."""

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis.charts import Bars, Chart, Forest, Heat, Lines, Palette

Spec = dict[str, Any]
DATUM = {"content": "data"}
ZOOM = {  # with the shift key, so that a page can be scrolled over it
    "name": "zoom", "bind": "scales",
    "select": {"type": "interval", "zoom": "wheel![event.shiftKey]",
               "translate": "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!"},
}  # fmt: skip


@lru_cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed in one script that needs no network."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub lacks the default
    return bundle.replace("</script", "<\\/script")


def spec(chart: Chart) -> Spec:
    """A chart as a Vega-Lite specification that fills the width of its place."""
    drawn: Spec = DRAW[type(chart)](chart)
    return {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}, **drawn}


def values(table: pd.DataFrame, keep: bool = False) -> list[dict[str, Any]]:
    """A table's rows as plain data: five significant digits, and no key where there is no value, unless it is to be kept."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.5g}") if math.isfinite(value) else None
        return value.item() if hasattr(value, "item") else value

    rows = [{k: plain(v) for k, v in row.items()} for row in table.to_dict("records")]
    return [{str(k): v for k, v in row.items() if keep or v not in (None, "")} for row in rows]


def _colour(palette: Palette, title: str | None = None) -> Spec:
    scale = {"domain": palette.names, "range": [palette.colours[n] for n in palette.names]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": {"title": title}}


def _shape(palette: Palette) -> Spec:
    scale = {"domain": palette.names, "range": [palette.marks[n] for n in palette.names]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": {"title": None}}


def _axis(field: str, title: str, zero: bool = False) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": zero, "nice": True, "padding": 14},
    }


def _lines(chart: Lines) -> Spec:
    palette, layers = Palette(chart.series, chart.quiet), list[Spec]()
    x, y = _axis("x", chart.x), _axis("y", chart.y)
    picked = {"condition": {"param": "picked", "value": 1}, "value": 0.12}
    if chart.rule:
        rule = {
            "data": {"values": [{"y": chart.rule[0]}]},
            "mark": {"type": "rule", "strokeDash": [5, 4], "color": "#999"},
        }
        layers.append(rule | {"encoding": {"y": y}})
    if chart.steps is not None and len(chart.steps):
        line = {"type": "line", "interpolate": "step-after", "color": "#888", "strokeWidth": 1.5}
        layers.append(
            {"data": {"values": values(chart.steps)}, "mark": line, "encoding": {"x": x, "y": y}}
        )
    colour = _colour(palette)
    if chart.joined:
        joined = {"filter": {"field": "series", "oneOf": sorted(chart.joined)}}
        encoding = {"x": x, "y": y, "color": colour, "opacity": picked}
        layers.append(
            {
                "transform": [joined],
                "mark": {"type": "line", "strokeWidth": 1.6},
                "encoding": encoding,
            }
        )
    if "low" in chart.points:
        span = {
            "x": x,
            "y": _axis("low", chart.y),
            "y2": {"field": "high"},
            "color": colour,
            "opacity": picked,
        }
        mark = {"type": "rule", "strokeWidth": 1, "opacity": 0.6}
        layers.append(
            {"transform": [{"filter": "isValid(datum.low)"}], "mark": mark, "encoding": span}
        )
    encoding = {"x": x, "y": y, "color": colour, "shape": _shape(palette), "opacity": picked}
    point: Spec = {
        "type": "point",
        "size": 70,
        "strokeWidth": 1.8,
        "tooltip": DATUM,
        "cursor": "pointer",
    }
    pick = {"name": "picked", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    full = {
        "transform": [{"filter": "!datum.hollow"}],
        "mark": point | {"filled": True},
        "encoding": encoding,
    }
    layers.append({"params": [pick, ZOOM]} | full)
    if "hollow" in chart.points and chart.points["hollow"].any():
        layers.append(
            {
                "transform": [{"filter": "datum.hollow"}],
                "mark": point | {"filled": False},
                "encoding": encoding,
            }
        )
    if chart.top:
        ticks = {"values": [{"x": at, "k": text} for at, text in chart.top[1]]}
        mark = {"type": "text", "baseline": "top", "fontSize": 10}
        layers.append(
            {
                "data": ticks,
                "mark": mark,
                "encoding": {"x": x, "y": {"value": 2}, "text": {"field": "k"}},
            }
        )
    return {"height": 380, "data": {"values": values(chart.points)}, "layer": layers}


def _heat(chart: Heat) -> Spec:
    scale: Spec = {"scheme": "yellowgreenblue", "domain": [chart.low, chart.high], "clamp": True}
    dark = f"datum.value > {chart.low + 0.55 * (chart.high - chart.low)}"
    if chart.middle is not None:
        scale = {"scheme": "redblue", "domain": [chart.low, chart.high], "domainMid": chart.middle}
        dark = f"abs(datum.value - {chart.middle}) > {0.6 * (chart.high - chart.middle)}"
    axes = {
        "y": {"field": "row", "type": "nominal", "sort": chart.rows, "title": None},
        "x": {
            "field": "column",
            "type": "nominal",
            "sort": chart.columns,
            "title": None,
            "axis": {"labelAngle": -40},
        },
    }
    colour = {
        "field": "value",
        "type": "quantitative",
        "scale": scale,
        "legend": {"title": chart.legend, "orient": "top"},
    }
    white = {"condition": {"test": dark, "value": "#fff"}, "value": "#222"}
    return {
        "height": 20 * len(chart.rows),
        "data": {"values": values(chart.cells)},
        "layer": [
            {"mark": {"type": "rect", "tooltip": DATUM}, "encoding": axes | {"color": colour}},
            {
                "mark": {"type": "text", "fontSize": 10},
                "encoding": axes | {"text": {"field": "text"}, "color": white},
            },
        ],
    }


def _bars(chart: Bars) -> Spec:
    palette = Palette(chart.names)
    order = {name: i for i, name in enumerate(chart.names)}
    parts = chart.parts.assign(place=chart.parts["part"].map(order))
    scale = {"domain": palette.names, "range": [palette.colours[n] for n in palette.names]}
    return {
        "height": 22 * len(chart.bars),
        "data": {"values": values(parts)},
        "mark": {"type": "bar", "tooltip": DATUM},
        "encoding": {
            "y": {"field": "bar", "type": "nominal", "sort": chart.bars, "title": None},
            "x": {"field": "value", "type": "quantitative", "title": chart.x, "stack": "zero"},
            "color": {
                "field": "part",
                "type": "nominal",
                "scale": scale,
                "legend": {"title": None},
            },
            "order": {"field": "place", "type": "quantitative"},
        },
    }


def _forest(chart: Forest) -> Spec:
    palette = Palette(chart.series)
    names, many = list(dict.fromkeys(chart.rows["row"])), len(chart.series) > 1
    row: Spec = {
        "field": "row",
        "type": "nominal",
        "sort": names,
        "title": None,
        "axis": {"grid": True},
    }
    base = {
        "y": row,
        "color": _colour(palette) if many else {"value": palette.colours[palette.names[0]]},
    }
    if many:
        base["yOffset"] = {"field": "series", "type": "nominal", "sort": chart.series}
    span = base | {"x": _axis("low", chart.x), "x2": {"field": "high"}}
    point = base | {"x": _axis("mean", chart.x)}
    return {
        "height": (14 * len(chart.series) + 10) * len(names),
        "data": {"values": values(chart.rows)},
        "layer": [
            {
                "data": {"values": [{"x": 0}]},
                "mark": {"type": "rule", "color": "#999"},
                "encoding": {"x": _axis("x", chart.x)},
            },
            {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": span},
            {
                "mark": {"type": "point", "filled": True, "size": 60, "tooltip": DATUM},
                "encoding": point,
            },
        ],
    }


DRAW: dict[type[Chart], Callable[..., Spec]] = {
    Lines: _lines,
    Heat: _heat,
    Bars: _bars,
    Forest: _forest,
}


def script(value: Any) -> str:
    """Plain data as JSON that may stand inside a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
