"""The paper's figures and more, as charts: trade-off, orders, alpha, clusters, differences."""

import math
from itertools import pairwise

import pandas as pd

from analysis import paper
from analysis.charts import LABELLED, Forest, Lines, Rule, Tick, TopAxis
from analysis.compare import Comparison
from analysis.frame import Study
from analysis.pareto import COLLAPSED, ParetoInfo
from analysis.settings import is_entropy
from luq.allocation.orders import kendall
from luq.evaluation.compare import MEAN
from pipelines.units import axis_unit

FLOAT_RULE = Rule(100.0, "16-bit ")
# bits that the trade-off shows: 8 and 16 are on the Pareto figure, and would squeeze this one
HIGHEST = 6
SERIES = 7  # that can be told apart in a picture of all plans
SERIES_NAMES = "Series: low tier / high tier, calibration; uniform: one tier everywhere."
NO_ORDER = ""  # of plans of one tier
RETENTION = "mean retention, % of the 16-bit score"
ALONG_ENTROPY = ("count", "threshold")  # rules that put the layers of lowest entropy low
TRADEOFF_RULES = (*ALONG_ENTROPY, "uniform")


def family(plan: pd.Series) -> str:
    """The series that a plan belongs to in a picture of all plans."""
    if not plan["mixed"]:
        return "uniform"
    words = [
        f"{plan['low_tier']} / {plan['high_tier']}",
        "text-only" if plan["calibration"] == "text" else plan["calibration"],
    ]
    if plan["rule"] not in ALONG_ENTROPY:
        words.append(plan["rule"])
    if plan["order"] != "entropy" or plan["rule"] not in ALONG_ENTROPY:
        words.append(f"{plan['order']} order")
    return ", ".join(words)


def families(plans: pd.DataFrame, most: int = SERIES) -> pd.Series:
    """Each plan's series.

    Where there are more than can be told apart: by low tier and calibration, or low tier alone, or
    mixed against uniform.
    """
    # a name's words are separated by commas, the most telling ones first
    names = plans.apply(family, axis=1)
    if names.nunique() > most:
        names = names.map(lambda name: ", ".join(name.split(", ")[:2]))
    if names.nunique() > most:
        names = names.map(lambda name: name.split(", ")[0])
    if names.nunique() > most:
        names = names.where(names == "uniform", "mixed")
    return names


def _with_interval(plans: pd.DataFrame) -> pd.DataFrame:
    """Adds y, low, high in percent of the 16-bit score, whose own error is left out."""
    float_score = plans["float_score"].where(plans["float_score"] != 0)
    return plans.assign(
        y=100 * plans["retention"],
        low=100 * plans["score_low"] / float_score,
        high=100 * plans["score_high"] / float_score,
    )


def _by_entropy(plans: pd.DataFrame) -> pd.Series:
    """Which plans put the layers of lowest entropy low."""
    return plans["order"].map(is_entropy).astype(bool)


def _single(points: pd.DataFrame) -> frozenset[str]:
    """The series that have one point at an x, and can be lines."""
    names = []
    for name, series in points.groupby("series"):
        # two points at nearly the same bits would make a line that jumps up and down
        if not series["x"].round(2).duplicated().any():
            names.append(str(name))
    return frozenset(names)


def pareto_chart(study: Study, info: ParetoInfo) -> Lines:
    """Retention against bytes of the whole checkpoint, every plan and the front."""
    unit = axis_unit(info.points["bytes"].max())
    series = dict(zip(study.plans["plan"], families(study.plans), strict=True))
    points = info.points.assign(
        y=100 * info.points["retention"],
        low=100 * info.points["low"],
        high=100 * info.points["high"],
    )
    points["x"] = points["bytes"] / unit.bytes
    points["hollow"] = points["collapsed"]
    points["series"] = points["plan"].map(series).fillna("uniform")
    # the names of very many would cover each other: those of the baselines and the front stay
    if len(points) > LABELLED:
        points["label"] = points["label"].where(points["baseline"] | points["front"], "")
    caption = (
        f"{len(points)} plans of {study.name}, {len(study.benchmarks)} benchmarks, "
        f"n = {study.runs['n'].iloc[0]} units, 95 % intervals over questions. "
        f"Hypervolume {info.hypervolume:.3f}: the mean, over all budgets up to the 16-bit file, "
        "of the best retention that fits. Steps: the Pareto front, the plans that no other beats "
        f"in both. {SERIES_NAMES}"
    )
    rule = FLOAT_RULE
    is_float = points["tier"] == "float16"
    if is_float.any() and not is_float.all():  # far to the right of all others: the line says it
        size = points.loc[is_float, "x"].iloc[0]
        rule = Rule(rule.y, f"{rule.name.strip()}: {size:.3g} {unit.name} ")
        points = points[~is_float]
    steps = points[points["front"]].sort_values("x")[["x", "y"]]
    columns = ["series", "x", "y", "low", "high", "hollow", "plan", "label"]
    return Lines(
        "pareto",
        "Retention against the bytes of the whole checkpoint",
        caption,
        points[columns],
        f"whole checkpoint, {unit.name}",
        RETENTION,
        rule,
        steps=steps,
    )


def tradeoff_chart(study: Study, bits: str = "stored_bits") -> Lines | None:
    """Score against average bits, the number of low layers above (the paper's trade-off figure)."""
    plans = study.plans
    plans = plans[(plans["tier"] != "float16") & plans["rule"].isin(TRADEOFF_RULES)]
    plans = plans[(plans["order"] == NO_ORDER) | _by_entropy(plans)]
    plans = plans[plans["nominal_bits"] <= HIGHEST]
    if not plans["mixed"].any():
        return None
    points = _with_interval(plans).assign(x=plans[bits], series=families(plans))
    points["hollow"] = plans["collapsed"] >= COLLAPSED * plans["benchmarks"]
    word = bits.split("_")[0]
    caption = f"Plans in entropy order; n = {plans['n'].iloc[0]} units, 95 % intervals. "
    caption += f"{SERIES_NAMES} "
    if word == "stored":
        caption += "Stored bits are bytes of the files, scales and masks and all."
    else:
        caption += "Code bits, as the paper counts."
    return Lines(
        f"tradeoff_{word}",
        f"Retention against {word} bits per weight",
        caption,
        points[["series", "x", "y", "low", "high", "hollow", "plan"]],
        f"{word} bits per weight",
        RETENTION,
        FLOAT_RULE,
        top=_low_layers_axis(plans[plans["mixed"]], bits),
        joined=_single(points[points["mixed"]]),
    )


def _low_layers_axis(mixed: pd.DataFrame, bits: str) -> TopAxis:
    """The number of low layers over average bits, of the pair of tiers that has most plans."""
    tiers = mixed.groupby(["low_tier", "high_tier"])
    pair, plans = max(tiers, key=lambda group: len(group[1]))
    low, high = pair
    plans = plans.drop_duplicates("k").sort_values("k")
    ticks = [Tick(float(x), f"{k:g}") for x, k in zip(plans[bits], plans["k"], strict=True)]
    return TopAxis(f"layers in {low} (the others {high})", ticks)


def paper_chart(study: Study) -> Lines | None:
    """MME retention against nominal bits, this study's over the paper's."""
    mme = study.scores[(study.scores["benchmark"] == "mme") & study.scores["retention"].notna()]
    mme = mme[mme["nominal_bits"] <= HIGHEST]
    mme = mme[(mme["order"] == NO_ORDER) | _by_entropy(mme)]
    mme = mme[mme["rule"].isin(TRADEOFF_RULES)]
    if not mme["mixed"].any():
        return None
    names = dict(zip(study.plans["plan"], families(study.plans), strict=True))
    grouped = mme.groupby("plan", sort=False)  # smallest first, not in the order of opaque keys
    measured = grouped.first()
    measured["y"] = 100 * grouped["retention"].mean()
    measured["x"] = grouped["nominal_bits"].mean()
    measured = measured.reset_index()
    measured["series"] = study.name + ": " + measured["plan"].map(names)
    measured["label"] = measured["plan"].map(study.plans.set_index("plan")["label"])
    published = paper.published()
    columns = ["series", "x", "y", "plan", "label"]
    caption = f"Nominal bits are code bits, as the paper counts. {paper.CAVEATS}"
    if study.name.startswith("pocket"):
        caption += " A pocket model is not a 7B model."
    return Lines(
        "paper",
        "MME over nominal bits, with the paper's published points in grey",
        caption,
        pd.concat([published, measured[columns]], ignore_index=True),
        "nominal bits per weight",
        "MME, % of the 16-bit total",
        FLOAT_RULE,
        joined=_single(measured[measured["mixed"]]) | {f"published: {paper.LLAVA}"},
        quiet=frozenset(published["series"]),
    )


def along_chart(study: Study, name: str, column: str, x: str, title: str) -> Lines | None:
    """Mean retention over a numeric setting, a line per k, for plans that differ in nothing else.

    Args:
        study: its mixed plans in entropy order are shown.
        name: of the chart.
        column: the setting, a column of the plans: alpha or clusters.
        x: the axis's title.
        title: the chart's.
    """
    mixed = study.plans[study.plans["mixed"] & _by_entropy(study.plans)]
    settings = ["rule", "low_tier", "high_tier", "propagation", "k", "calibration", "order"]
    settings += [setting for setting in ("alpha", "clusters") if setting != column]
    if column == "alpha":  # a set of one source and one of all have different texts at alpha > 0
        mixed = mixed[mixed["calibration"] != "text"]
    varied = [group for _, group in mixed.groupby(settings) if group[column].nunique() > 1]
    if not varied:
        return None
    points = _with_interval(pd.concat(varied))
    points["x"] = points[column]
    series = "k = " + points["k"].astype(str)
    for setting in ("calibration", "propagation", "low_tier", "order"):
        if points[setting].nunique() > 1:
            series = series + ", " + points[setting].astype(str)
    points["series"] = series
    points = points.groupby(["series", "x"], as_index=False)[["y", "low", "high"]].mean()
    caption = (
        f"n = {study.runs['n'].iloc[0]} units, 95 % intervals over questions; "
        "everything else equal along a line."
    )
    joined = frozenset(points["series"])
    whole = column == "clusters"
    return Lines(name, title, caption, points, x, RETENTION, FLOAT_RULE, joined=joined, whole=whole)


def orders_chart(study: Study) -> Lines | None:
    """Every order at equal k, that is at equal bytes; the best order first."""
    mixed = study.plans[study.plans["mixed"] & (study.plans["rule"] == "count")]
    settings = ["calibration", "alpha", "clusters", "low_tier", "high_tier", "propagation"]
    groups = [group for _, group in mixed.groupby(settings) if group["order"].nunique() > 2]
    if not groups:
        return None
    # one figure, of the settings under which most orders and k were run
    group = max(groups, key=len)
    points = _with_interval(group).assign(x=group["k"].astype(int), series=group["order"])
    best = points.groupby("series")["y"].mean().sort_values(ascending=False)
    # a categorical sorts by the place of its category, so the legend begins with the best order
    points["series"] = pd.Categorical(points["series"], best.index)
    points = points.sort_values(["series", "x"])
    points["series"] = points["series"].astype(str)
    first = group.iloc[0]
    caption = (
        f"The k layers that each order puts first are in {first['low_tier']}, the others in "
        f"{first['high_tier']}: equal k is equal bytes. n = {first['n']} units"
    )
    seeds = int(group["seeds"].max())
    caption += f"; random: mean of {seeds} seeds." if seeds > 1 else "."
    return Lines(
        "orders",
        "Which layers should go low: every order at equal bytes",
        caption,
        points[["series", "x", "y", "plan"]],  # intervals are in the figure of differences
        "layers in the low tier (k)",
        RETENTION,
        FLOAT_RULE,
        joined=frozenset(best.index),
        whole=True,
    )


def _entropies_by_clusters(study: Study) -> dict[int, list[float]]:
    """K -> entropy per layer over all tokens, of the calibration set that has most K.

    Rankings of different sets say nothing of K, so those of one set are compared.
    """
    sets: dict[tuple[str, int], dict[int, list[float]]] = {}
    for record in study.records:
        entropies = {e.layer: e.mean for e in record.profile if e.modality == "all"}
        if entropies:
            place = (record.calibration_hash, record.config.order.draws)
            by_clusters = sets.setdefault(place, {})
            in_layer_order = [entropies[layer] for layer in sorted(entropies)]
            by_clusters.setdefault(record.profile[0].clusters, in_layer_order)
    return max(sets.values(), key=len, default={})


def stability_chart(study: Study) -> Lines | None:
    """Normalised Kendall distance between the entropy rankings of neighbouring K.

    The paper chose K at its knee.
    """
    entropies = _entropies_by_clusters(study)
    if len(entropies) < 3:
        return None
    series = "entropy over all tokens"
    rows = []
    for smaller, larger in pairwise(sorted(entropies)):
        tau = kendall(entropies[smaller], entropies[larger])
        # tau is NaN where all layers of a ranking tie
        distance = (1 - tau) / 2 if math.isfinite(tau) else math.nan
        rows.append({"series": series, "x": larger, "y": distance})
    caption = (
        "0: the same ranking of layers as with the next smaller K; 0.5: unrelated. "
        "One calibration set; per K the mean over K-means seeds."
    )
    return Lines(
        "stability",
        "Stability of the layers' ranking over K",
        caption,
        pd.DataFrame(rows),
        "K of the K-means",
        "Kendall distance to the next smaller K",
        joined=frozenset([series]),
        whole=True,
    )


def difference_chart(
    name: str, title: str, comparisons: list[Comparison], per_benchmark: bool
) -> Forest | None:
    """Differences to the base with intervals.

    Args:
        name: of the chart.
        title: the chart's.
        comparisons: of the values of one axis with one base.
        per_benchmark: a row per benchmark and the mean, or a row per value of the axis.
    """
    if not comparisons:
        return None
    rows = []
    for comparison in comparisons:
        several = comparison.runs > len(comparison.plans)
        value = f"{comparison.b} ({comparison.runs} runs)" if several else comparison.b
        for difference in comparison.scores if per_benchmark else [comparison.pooled]:
            benchmark = "mean of all" if difference.name == MEAN else difference.name
            rows.append(
                {
                    "row": benchmark if per_benchmark else value,
                    "series": comparison.b if per_benchmark else comparison.axis,
                    "mean": difference.mean,
                    "low": difference.low,
                    "high": difference.high,
                    "verdict": difference.verdict,
                }
            )
    base = comparisons[0].a
    values = {comparison.b for comparison in comparisons}
    value = values.pop() if len(values) == 1 else "each"
    plans = len(comparisons[0].plans)
    method = "from standard errors, unpaired: the answers are not here"
    if all(comparison.by_question for comparison in comparisons):
        method = "paired by question"
    caption = (
        f"Points of score against {base}, over {plans} plan{'s' if plans > 1 else ''} each, "
        f"95 % intervals, {method}. Those that hold 0 are ties."
    )
    axis = f"points, {value} minus {base}"
    return Forest(name, title, caption, pd.DataFrame(rows), axis)
