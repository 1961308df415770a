"""The Pareto front of bytes (down) and score (up), what it encloses, and the best plan under a budget."""

import math
from typing import NamedTuple

import pandas as pd

from analysis.frame import BASE, LADDER, MEAN, Study

COLLAPSED = 0.5  # share of collapsed benchmarks from which the mean of them says nothing
BUDGETS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.25, 1.5)  # of the 4-bit checkpoint
Z = 1.96  # half a 95 % interval in standard errors


class ParetoInfo(NamedTuple):
    """One benchmark's points, smallest first, and the share of the unit square that the front encloses.

    Columns: plan, label, bytes, score, low, high (95 % interval), retention, collapsed, front, baseline. `missing` are the
    uniform baselines that nobody ran.
    """

    benchmark: str
    points: pd.DataFrame
    hypervolume: float
    missing: list[str]


def points(study: Study, benchmark: str = MEAN) -> pd.DataFrame:
    """A row per plan that answered the benchmark (or all, for the mean). The 16-bit model is always among them."""
    columns = [
        "plan",
        "label",
        "checkpoint_bytes",
        "stored_bits",
        "nominal_bits",
        "k",
        "mixed",
        "tier",
    ]
    plans = study.plans.drop_duplicates("answers")
    if benchmark == MEAN:
        table = plans[[*columns, "score", "stderr", "retention"]].copy()
        table["collapsed"] = plans["collapsed"] >= COLLAPSED * plans["benchmarks"]
    else:
        mine = study.scores[study.scores["benchmark"] == benchmark].groupby("plan")
        told = mine.agg(
            **{c: (c, "mean") for c in ("score", "stderr", "retention")},
            collapsed=("collapsed", "any"),
        )
        table = plans[columns].merge(told.reset_index(), on="plan")
    table = table.rename(columns={"checkpoint_bytes": "bytes"}).dropna(subset=["score"])
    if not (table["tier"] == "float16").any():
        table = pd.concat(
            [table, pd.DataFrame([_float_point(study, benchmark)])], ignore_index=True
        )
    scale = _float_score(study, benchmark)
    table["low"], table["high"] = (
        (table["score"] + s * Z * table["stderr"]) / scale if scale else math.nan for s in (-1, 1)
    )
    table["baseline"] = table["tier"] != ""
    return table.sort_values(
        ["bytes", "score", "label"], ascending=[True, False, True]
    ).reset_index(drop=True)


def _float_score(study: Study, benchmark: str) -> float:
    record = study.records[0]
    return float(
        record["float_mean_score"]
        if benchmark == MEAN
        else record["scores"][benchmark]["float_score"]
    )


def _float_point(study: Study, benchmark: str) -> dict[str, object]:
    """The 16-bit model as every record knows it: its score, and two bytes per weight."""
    memory = study.records[0]["memory"]
    size = {
        "bytes": 2 * memory["weights"] + memory["rest_bytes"],
        "stored_bits": 16.0,
        "nominal_bits": 16.0,
        "stderr": math.nan,
    }
    score = _float_score(study, benchmark)
    names = {
        "plan": "float16",
        "label": "float16",
        "tier": "float16",
        "k": 0,
        "mixed": False,
        "collapsed": False,
    }
    return names | size | {"score": score, "retention": 1.0 if score else math.nan}


def front(points: pd.DataFrame) -> pd.Series:
    """Which points no other beats: fewer bytes at no lower score, or a higher score at no more bytes.

    Of equal scores the smaller stays, of equal bytes the higher, of equal points the first; collapsed ones never do.
    """
    ranked = points[~points["collapsed"] & points["score"].notna()].sort_values(
        ["bytes", "score", "label"], ascending=[True, False, True]
    )
    best = ranked["score"].astype(float).cummax().shift(fill_value=-math.inf)
    return pd.Series(points.index.isin(ranked.index[ranked["score"] > best]), index=points.index)


def hypervolume(points: pd.DataFrame) -> float:
    """The mean, over all budgets of bytes up to the 16-bit checkpoint, of the best retention that fits; 0 where nothing does.

    `points` hold `front`, `bytes`, `retention` and the 16-bit model (tier float16).
    """
    whole = float(points.loc[points["tier"] == "float16", "bytes"].iloc[0])
    steps = points[points["front"] & (points["bytes"] <= whole)].sort_values("bytes")
    edges = [*steps["bytes"], whole]
    pieces = zip(edges, edges[1:], steps["retention"].fillna(0), strict=False)
    return sum((right - left) * kept for left, right, kept in pieces) / whole


def pareto_info(study: Study, benchmark: str = MEAN) -> ParetoInfo:
    """Points and front of one benchmark, or of the mean of all."""
    table = points(study, benchmark)
    table["front"] = front(table)
    missing = [tier for tier in LADDER if tier not in set(table["tier"])]
    return ParetoInfo(benchmark, table, hypervolume(table), missing)


def best_under(table: pd.DataFrame, budget: float) -> pd.Series | None:
    """The plan of the highest score whose checkpoint is at most `budget` bytes; None if none fits."""
    fits = table[table["front"] & (table["bytes"] <= budget)]
    return None if fits.empty else fits.sort_values("score").iloc[-1]


def budgets(info: ParetoInfo) -> pd.DataFrame:
    """Best plans under shares of the 4-bit checkpoint (without one, of the 16-bit one): a row per budget."""
    table = info.points
    four = table[table["tier"] == BASE]
    base, name = (four, BASE) if len(four) else (table[table["tier"] == "float16"], "float16")
    whole, rows = float(base["bytes"].iloc[0]), []
    for share in BUDGETS:
        best = best_under(table, share * whole)
        row = {"share": share, "of": name, "budget": share * whole}
        if best is not None:
            row |= {
                n: best[n] for n in ("plan", "label", "bytes", "score", "retention", "low", "high")
            }
        rows.append(row)
    return pd.DataFrame(
        rows,
        columns=[
            "share",
            "of",
            "budget",
            "plan",
            "label",
            "bytes",
            "score",
            "retention",
            "low",
            "high",
        ],
    )
