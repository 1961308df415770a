"""The Pareto front of bytes (down) and score (up), what it encloses, the best plan in a budget."""

import math
from typing import NamedTuple

import pandas as pd

from analysis.frame import BASE, Row, Study
from analysis.loading import LADDER
from luq.evaluation.compare import MEAN

COLLAPSED = 0.5  # share of collapsed benchmarks from which the mean of them says nothing
BUDGETS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.25, 1.5)  # of the 4-bit checkpoint
# columns of the plans that a Pareto figure or its tables use
OF_PLANS = (
    "plan",
    "label",
    "checkpoint_bytes",
    "stored_bits",
    "nominal_bits",
    "k",
    "mixed",
    "tier",
)
OF_BEST = ("plan", "label", "bytes", "score", "retention", "low", "high")
OF_SCORE = ["score", "score_low", "score_high", "retention"]
LOSSES = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)  # points of score that a plan may lose
BY_SIZE = ["bytes", "score", "label"]  # smallest first, of equal sizes the highest score first
ASCENDING = [True, False, True]


class ParetoInfo(NamedTuple):
    """One benchmark's points, smallest first, and the share of the unit square under the front.

    Columns of the points: plan, label, bytes, score, retention and its 95 % interval (low, high),
    collapsed, front, baseline, mixed. `missing` are the uniform baselines that nobody ran.
    """

    benchmark: str
    points: pd.DataFrame
    hypervolume: float
    missing: list[str]


def points(study: Study, benchmark: str = MEAN) -> pd.DataFrame:
    """A row per plan that answered the benchmark (or all, for the mean), smallest first.

    The 16-bit model is always among them.
    """
    # two orders that agree on the first k layers are one model
    plans = study.plans.drop_duplicates("answers")
    if benchmark == MEAN:
        table = plans[[*OF_PLANS, *OF_SCORE]].copy()
        table["collapsed"] = plans["collapsed"] >= COLLAPSED * plans["benchmarks"]
    else:
        scores = study.scores[study.scores["benchmark"] == benchmark].groupby("plan")
        means = scores[OF_SCORE].mean()
        means["collapsed"] = scores["collapsed"].any()
        table = plans[list(OF_PLANS)].merge(means.reset_index(), on="plan")
    table = table.rename(columns={"checkpoint_bytes": "bytes"}).dropna(subset=["score"])
    if not (table["tier"] == "float16").any():
        float_point = pd.DataFrame([_float_point(study, benchmark)])
        table = pd.concat([table, float_point], ignore_index=True)
    # scores are divided by the 16-bit score; its own error is left out, as the protocol says
    scale = _float_score(study, benchmark)
    for edge in ("low", "high"):
        table[edge] = table[f"score_{edge}"] / scale if scale else math.nan
    table["baseline"] = table["tier"] != ""
    return table.sort_values(BY_SIZE, ascending=ASCENDING).reset_index(drop=True)


def _float_score(study: Study, benchmark: str) -> float:
    record = study.records[0]
    if benchmark == MEAN:
        return record.float_mean_score
    return record.scores[benchmark].float_score


def _float_point(study: Study, benchmark: str) -> Row:
    """The 16-bit model as every record knows it: its score, and two bytes per weight."""
    memory = study.records[0].memory
    score = _float_score(study, benchmark)
    return {
        "plan": "float16",
        "label": "float16",
        "tier": "float16",
        "k": None,
        "mixed": False,
        "collapsed": False,
        "bytes": 2 * memory.weights + memory.float_rest_bytes,
        "stored_bits": 16.0,
        "nominal_bits": 16.0,
        "score": score,
        "score_low": math.nan,
        "score_high": math.nan,
        "retention": 1.0 if score else math.nan,
    }


def front(points: pd.DataFrame) -> pd.Series:
    """Which points no other beats: fewer bytes at no lower score, or more score at no more bytes.

    Of equal scores the smaller stays, of equal bytes the higher, of equal points the first;
    collapsed ones never do.
    """
    candidates = points[~points["collapsed"] & points["score"].notna()]
    ranked = candidates.sort_values(BY_SIZE, ascending=ASCENDING)
    # from the smallest up, a point is on the front if it scores more than all before it
    best_before = ranked["score"].astype(float).cummax().shift(fill_value=-math.inf)
    on_front = ranked.index[ranked["score"] > best_before]
    return pd.Series(points.index.isin(on_front), index=points.index)


def hypervolume(points: pd.DataFrame) -> float:
    """The mean, over all budgets up to the 16-bit checkpoint, of the best retention that fits.

    A budget in which nothing fits counts as 0.

    Args:
        points: with columns front, bytes and retention, the 16-bit model (tier float16) among them.
    """
    float_bytes = float(points.loc[points["tier"] == "float16", "bytes"].iloc[0])
    steps = points[points["front"] & (points["bytes"] <= float_bytes)].sort_values("bytes")
    # between two steps of the front the best retention is that of the step to the left
    edges = [*steps["bytes"], float_bytes]
    retentions = steps["retention"].fillna(0)
    pieces = zip(edges, edges[1:], retentions, strict=False)
    area: float = sum((right - left) * retention for left, right, retention in pieces)
    return area / float_bytes


def pareto_info(study: Study, benchmark: str = MEAN) -> ParetoInfo:
    """Points and front of one benchmark, or of the mean of all."""
    table = points(study, benchmark)
    table["front"] = front(table)
    missing = [tier for tier in LADDER if tier not in set(table["tier"])]
    return ParetoInfo(benchmark, table, hypervolume(table), missing)


def best_under(table: pd.DataFrame, budget: float) -> pd.Series | None:
    """The plan of the highest score whose checkpoint is at most `budget` bytes; None: none fits."""
    fits = table[table["front"] & (table["bytes"] <= budget)]
    return None if fits.empty else fits.sort_values("score").iloc[-1]


def budgets(info: ParetoInfo) -> pd.DataFrame:
    """Best plans under shares of the 4-bit checkpoint (without one, of the 16-bit one)."""
    base_name = BASE if (info.points["tier"] == BASE).any() else "float16"
    base = info.points[info.points["tier"] == base_name]
    base_bytes = float(base["bytes"].iloc[0])
    rows = []
    for share in BUDGETS:
        budget = share * base_bytes
        row = {"share": share, "of": base_name, "budget": budget}
        best = best_under(info.points, budget)
        if best is not None:
            row |= {name: best[name] for name in OF_BEST}
        rows.append(row)
    return pd.DataFrame(rows, columns=["share", "of", "budget", *OF_BEST])


class Smallest(NamedTuple):
    """The smallest plans that lose at most so many points of the 16-bit score; None: none does."""

    loss: float
    plan: pd.Series | None
    mix: pd.Series | None  # of the plans that mix tiers


def smallest(info: ParetoInfo) -> list[Smallest]:
    """The smallest plan, and the smallest mix of tiers, for each of `LOSSES`."""
    points = info.points[~info.points["collapsed"]].sort_values(BY_SIZE, ascending=ASCENDING)
    float_score = float(points.loc[points["tier"] == "float16", "score"].iloc[0])
    rows = []
    for loss in LOSSES:
        good = points[points["score"] >= float_score - loss]
        rows.append(Smallest(loss, _first(good), _first(good[good["mixed"]])))
    return rows


def _first(table: pd.DataFrame) -> pd.Series | None:
    return None if table.empty else table.iloc[0]
