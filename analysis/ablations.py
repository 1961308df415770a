"""The paper's figures and more, as charts: trade-off, orders, alpha, number of clusters, differences along an axis."""

import math
from itertools import pairwise

import pandas as pd
from scipy.stats import kendalltau

from analysis import paper
from analysis.charts import LABELLED, Forest, Lines
from analysis.compare import Comparison
from analysis.frame import MEAN, Study
from analysis.pareto import COLLAPSED, ParetoInfo, Z

FLOAT_RULE = (100.0, "16-bit ")
HIGHEST = 6  # bits that the trade-off shows: 8 and 16 are on the Pareto figure, and would squeeze this one
RETENTION = "mean retention, % of the 16-bit score"


def family(plan: pd.Series) -> str:
    """The series that a plan belongs to in a picture of all plans."""
    if not plan["mixed"]:
        return "uniform"
    order = (
        ""
        if plan["order"] == "entropy" and plan["rule"] in ("count", "threshold")
        else f", {plan['rule']}, {plan['order']} order"
    )
    calibration = "text-only" if plan["calibration"] == "text" else plan["calibration"]
    return f"{plan['low_tier']} / {plan['high_tier']}, {calibration}{order}"


def families(plans: pd.DataFrame, most: int = 7) -> pd.Series:
    """Each plan's series; where there are more than can be told apart, by low tier and calibration, or low tier alone."""
    named = plans.apply(family, axis=1)
    for words in (2, 1):
        if named.nunique() > most:
            named = named.map(lambda name, words=words: ", ".join(name.split(", ")[:words]))
    return named if named.nunique() <= most else named.where(named == "uniform", "mixed")


def _with_interval(points: pd.DataFrame) -> pd.DataFrame:
    """x stays; y, low, high in percent of the 16-bit score, from `retention` and the scores' standard errors."""
    error = Z * points["stderr"] * points["retention"] / points["score"].where(points["score"] != 0)
    y = 100 * points["retention"]
    return points.assign(y=y, low=y - 100 * error, high=y + 100 * error)


def _single(points: pd.DataFrame) -> frozenset[str]:
    """The series that have one point at an x, and can be lines."""
    return frozenset(
        str(name)
        for name, series in points.groupby("series")
        if not series["x"].round(2).duplicated().any()
    )


def pareto_chart(study: Study, info: ParetoInfo) -> Lines:
    """Retention against bytes of the whole checkpoint, every plan and the front."""
    unit, name = (1e9, "GB") if info.points["bytes"].max() > 2e9 else (1e6, "MB")
    series = dict(zip(study.plans["plan"], families(study.plans), strict=True))
    points = _with_interval(info.points).assign(
        x=info.points["bytes"] / unit, hollow=info.points["collapsed"]
    )
    points["series"] = points["plan"].map(series).fillna("uniform")
    if len(points) > LABELLED:
        points["label"] = points["label"].where(points["baseline"], "")
    steps = points[points["front"]].sort_values("x")[["x", "y"]]
    n = study.runs["n"].iloc[0]
    caption = f"{len(points)} plans of {study.name}, {len(study.benchmarks)} benchmarks, n = {n} units, 95 % intervals over questions. "
    caption += f"Hypervolume {info.hypervolume:.3f}: the mean, over all budgets up to the 16-bit file, of the best retention that fits."
    shown, rule, whole = (
        points[["series", "x", "y", "low", "high", "hollow", "plan", "label"]],
        FLOAT_RULE,
        points["tier"] == "float16",
    )
    if whole.any() and not whole.all():  # far to the right of all others: the line says it
        rule = (rule[0], f"{rule[1].strip()}: {points.loc[whole, 'x'].iloc[0]:.3g} {name} ")
        shown, steps = shown[~whole], points[points["front"] & ~whole].sort_values("x")[["x", "y"]]
    title = "Retention against the bytes of the whole checkpoint"
    return Lines(
        "pareto", title, caption, shown, f"whole checkpoint, {name}", RETENTION, rule, steps=steps
    )


def tradeoff_chart(study: Study, bits: str = "stored_bits") -> Lines | None:
    """Score against average bits, with the number of low-tier layers on a second axis (the paper's trade-off figure)."""
    plans = study.plans[
        (study.plans["tier"] != "float16")
        & (study.plans["rule"].isin(["count", "threshold", "uniform"]))
    ]
    plans = plans[plans["order"].isin(["entropy"]) | ~plans["mixed"]]
    plans = plans[plans["nominal_bits"] <= HIGHEST]
    if not plans["mixed"].any():
        return None
    points = _with_interval(plans).assign(x=plans[bits], series=families(plans))
    points["hollow"] = plans["collapsed"] >= COLLAPSED * plans["benchmarks"]
    (low, high), of = max(
        plans[plans["mixed"]].groupby(["low_tier", "high_tier"]), key=lambda pair: len(pair[1])
    )
    of = of.drop_duplicates("k").sort_values("k")
    top = (
        f"layers in {low} (the others {high})",
        [(float(x), f"{k:g}") for x, k in zip(of[bits], of["k"], strict=True)],
    )
    joined = _single(points[points["mixed"]])
    word = bits.split("_")[0]
    caption = f"Plans in entropy order; n = {plans['n'].iloc[0]} units, 95 % intervals. " + (
        "Stored bits are bytes of the files, scales and masks and all."
        if word == "stored"
        else "Code bits, as the paper counts."
    )
    shown = points[["series", "x", "y", "low", "high", "hollow", "plan"]]
    title = f"Retention against {word} bits per weight"
    return Lines(
        f"tradeoff_{word}",
        title,
        caption,
        shown,
        f"{word} bits per weight",
        RETENTION,
        FLOAT_RULE,
        top,
        None,
        joined,
    )


def paper_chart(study: Study) -> Lines | None:
    """MME retention against nominal bits, ours over the paper's."""
    mme = study.scores[(study.scores["benchmark"] == "mme") & study.scores["retention"].notna()]
    mme = mme[mme["nominal_bits"] <= HIGHEST]
    mme = mme[(mme["order"] == "entropy") & (mme["rule"].isin(["count", "threshold", "uniform"]))]
    if not mme["mixed"].any():
        return None
    names = dict(zip(study.plans["plan"], families(study.plans), strict=True))
    grouped = mme.groupby("plan")
    ours = (
        grouped.first()
        .assign(y=100 * grouped["retention"].mean(), x=grouped["nominal_bits"].mean())
        .reset_index()
    )
    ours = ours.assign(series=study.name + ": " + ours["plan"].map(names), label=ours["name"])
    theirs = paper.published()
    points = pd.concat([theirs, ours[["series", "x", "y", "plan", "label"]]], ignore_index=True)
    joined = frozenset([f"published: {paper.LLAVA}"]) | _single(ours[ours["mixed"]])
    axes = "nominal (code) bits per weight, as the paper counts", "MME, % of the 16-bit total"
    caption = paper.CAVEATS + (
        " A pocket model is not a 7B model." if study.name.startswith("pocket") else ""
    )
    title = "MME over nominal bits, with the paper's published points in grey"
    return Lines(
        "paper",
        title,
        caption,
        points,
        *axes,
        FLOAT_RULE,
        joined=joined,
        quiet=frozenset(theirs["series"]),
    )


def along_chart(study: Study, name: str, column: str, x: str, title: str) -> Lines | None:
    """Mean retention over a numeric setting, a line per k, for plans that differ in nothing else."""
    mixed = study.plans[study.plans["mixed"] & (study.plans["order"] == "entropy")]
    settings = [
        "rule",
        "low_tier",
        "high_tier",
        "propagation",
        "k",
        "calibration",
        *({"alpha", "clusters"} - {column}),
    ]
    if column == "alpha":  # a set of one source and one of all have different texts at alpha > 0
        mixed = mixed[mixed["calibration"] != "text"]
    varied = [group for _, group in mixed.groupby(settings) if group[column].nunique() > 1]
    if not varied:
        return None
    points = _with_interval(pd.concat(varied)).assign(x=lambda p: p[column])
    more = [
        c
        for c in ("calibration", "propagation", "low_tier")
        if points[c].nunique() > 1 and c != column
    ]
    points["series"] = points.apply(
        lambda p: ", ".join([f"k = {p['k']}", *(str(p[c]) for c in more)]), axis=1
    )
    points = points.groupby(["series", "x"], as_index=False)[["y", "low", "high"]].mean()
    caption = f"n = {study.runs['n'].iloc[0]} units, 95 % intervals over questions; everything else equal along a line."
    return Lines(
        name, title, caption, points, x, RETENTION, FLOAT_RULE, joined=frozenset(points["series"])
    )


def orders_chart(study: Study) -> Lines | None:
    """Every order at equal k, that is at equal bytes."""
    mixed = study.plans[study.plans["mixed"] & (study.plans["rule"] == "count")]
    settings = ["calibration", "alpha", "clusters", "low_tier", "high_tier", "propagation"]
    groups = [group for _, group in mixed.groupby(settings) if group["order"].nunique() > 2]
    if not groups:
        return None
    group = max(groups, key=len)
    points = _with_interval(group).assign(x=group["k"], series=group["order"])
    best = points.groupby("series")["y"].mean().sort_values(ascending=False)
    points["series"] = pd.Categorical(points["series"], best.index)
    points = points.sort_values(["series", "x"]).assign(series=lambda p: p["series"].astype(str))
    seeds = int(group["seeds"].max())
    tiers = f"{group['low_tier'].iloc[0]}, the others in {group['high_tier'].iloc[0]}"
    caption = f"The k layers that each order puts first are in {tiers}: equal k is equal bytes. n = {group['n'].iloc[0]} units"
    caption += f"; random: mean of {seeds} seeds." if seeds > 1 else "."
    shown = points[["series", "x", "y", "plan"]]  # the intervals are in the figure of differences
    title = "Which layers should go low: every order at equal bytes"
    return Lines(
        "orders",
        title,
        caption,
        shown,
        "layers in the low tier (k)",
        RETENTION,
        FLOAT_RULE,
        joined=frozenset(best.index),
    )


def stability_chart(study: Study) -> Lines | None:
    """Normalised Kendall distance between the entropy rankings of neighbouring K (the paper chose K at its knee)."""
    sets: dict[
        str, dict[int, list[float]]
    ] = {}  # by calibration set: rankings of one and the same are compared
    for record in study.records:
        values = {e["layer"]: e["mean"] for e in record["profile"] if e["modality"] == "all"}
        if values:
            ranked = sets.setdefault(record["calibration"]["hash"], {})
            ranked.setdefault(record["profile"][0]["clusters"], [values[i] for i in sorted(values)])
    ranked = max(sets.values(), key=len, default={})
    if len(ranked) < 3:
        return None
    rows = []
    for before, after in pairwise(sorted(ranked)):
        tau = float(kendalltau(ranked[before], ranked[after]).statistic)
        rows.append(
            {
                "series": "entropy over all tokens",
                "x": after,
                "y": (1 - tau) / 2 if math.isfinite(tau) else math.nan,
            }
        )
    caption = "0: the same ranking of layers as with the next smaller K; 0.5: unrelated. "
    caption += "One calibration set; per K the mean over K-means seeds."
    labels = "K of the K-means", "Kendall distance to the next smaller K"
    title = "Stability of the layers' ranking over K"
    return Lines(
        "stability",
        title,
        caption,
        pd.DataFrame(rows),
        *labels,
        joined=frozenset(["entropy over all tokens"]),
    )


def difference_chart(
    name: str, title: str, comparisons: list[Comparison], per_benchmark: bool
) -> Forest | None:
    """Differences to the base with intervals: a row per benchmark and the mean, or a row per value of the axis."""
    if not comparisons:
        return None
    rows = []
    for c in comparisons:
        for d in c.scores if per_benchmark else c.scores[-1:]:
            row, series = (
                (d.name, c.b)
                if per_benchmark
                else (f"{c.b} ({c.runs} runs)" if c.runs > len(c.plans) else c.b, c.axis)
            )
            told = {"mean": d.mean, "low": d.low, "high": d.high, "verdict": d.verdict}
            rows.append(
                {
                    "row": "mean of all" if d.name == MEAN and per_benchmark else row,
                    "series": series,
                    **told,
                }
            )
    paired = all(c.by_question for c in comparisons)
    how = (
        "paired by question"
        if paired
        else "from standard errors, unpaired: the answers are not here"
    )
    plans = len(comparisons[0].plans)
    names = {c.b for c in comparisons}
    x = f"points of score, {names.pop() if len(names) == 1 else 'each'} minus {comparisons[0].a}"
    over = f"over {plans} plan{'s' * (plans > 1)} each"
    caption = f"Points of score against {comparisons[0].a}, {over}, 95 % intervals, {how}. Those that hold 0 are ties."
    return Forest(name, title, caption, pd.DataFrame(rows), x)
