"""Where the bytes and the time went, and what each plan keeps on each benchmark."""

import math
from collections.abc import Iterable

import pandas as pd

from analysis.charts import MANY, Bars, Heat
from analysis.frame import Study
from analysis.pareto import ParetoInfo
from pipelines.results import Record

PARTS = (
    "weights",
    "codes",
    "scales",
    "zeros",
    "masks",
    "header",
    "embeddings",
    "head",
    "norms",
    "projector",
    "vision",
)


def readable(info: ParetoInfo, most: int = MANY) -> list[str]:
    """Plans that a figure can show, smallest first: all, or the front, the baselines, and as many of the others as fit."""
    table = info.points
    if len(table) > most:
        kept = table[table["front"] | table["baseline"]]
        others = table.drop(kept.index)
        step = max(1, math.ceil(len(others) / max(1, most - len(kept))))
        table = pd.concat([kept, others.iloc[::step]]).sort_values(["bytes", "label"])
    return list(table["plan"])


def ledger_chart(study: Study, info: ParetoInfo, most: int = 16) -> Bars:
    """Bytes of the whole checkpoint by part, for some plans."""
    chosen = readable(info, most)
    labels = dict(zip(info.points["plan"], info.points["label"], strict=True))
    plan_of = dict(zip(study.runs["key"], study.runs["plan"], strict=True))
    records: dict[str, Record] = {}
    for record in study.records:
        records.setdefault(plan_of[record["key"]], record)
    unit, name = (1e9, "GB") if info.points["bytes"].max() > 2e9 else (1e6, "MB")
    rows = []
    for plan in (p for p in chosen if p in records):
        ledger = records[plan]["memory"]["ledger"]
        for part in (*PARTS, *(p for p in ledger if p not in PARTS)):
            rows.append({"bar": labels[plan], "part": part, "value": ledger.get(part, 0) / unit})
    table = pd.DataFrame(rows)
    table = table[table["part"].map(table.groupby("part")["value"].sum() > 0)]
    caption = "Measured on the stored files; the parts of a bar sum to the checkpoint. "
    caption += "Embeddings, head, norms, projector and vision stay 16-bit."
    return Bars("ledger", "Where the bytes are", caption, table, f"bytes of the checkpoint, {name}")


def time_chart(records: Iterable[Record]) -> Bars:
    """Seconds per stage over all runs, computed or read from the store."""
    spent: dict[tuple[str, str], float] = {}
    count = 0
    for record in records:
        count += 1
        for stage, seconds in record["seconds"].items():
            how = "reading the store" if record["cached"].get(stage) else "computing"
            spent[stage, how] = spent.get((stage, how), 0.0) + seconds
    stages = sorted(
        {s for s, _ in spent}, key=lambda s: -sum(v for (t, _), v in spent.items() if t == s)
    )
    rows = [
        {"bar": s, "part": p, "value": spent.get((s, p), 0.0) / 60}
        for s in stages
        for p in ("computing", "reading the store")
    ]
    caption = f"{count} runs, {sum(spent.values()) / 60:.1f} minutes in all. What one run computed the others read."
    return Bars("time", "Where the time went", caption, pd.DataFrame(rows), "minutes over all runs")


def retention_chart(study: Study, info: ParetoInfo) -> Heat:
    """Retention per benchmark and plan, smallest plan first."""
    chosen = readable(info)
    means = (
        study.scores[study.scores["plan"].isin(chosen)]
        .groupby(["plan", "benchmark"])["retention"]
        .mean()
    )
    labels = dict(zip(info.points["plan"], info.points["label"], strict=True))
    overall = dict(zip(info.points["plan"], info.points["retention"], strict=True))
    rows = []
    for plan in (p for p in chosen if p in means.index.get_level_values(0)):
        for benchmark in (*study.benchmarks, "mean"):
            share = overall[plan] if benchmark == "mean" else means.get((plan, benchmark), math.nan)
            text = f"{100 * share:.0f}" if math.isfinite(share) else "-"
            rows.append(
                {"row": labels[plan], "column": benchmark, "value": 100 * share, "text": text}
            )
    left = len(info.points) - len(chosen)
    caption = "Smallest checkpoint first" + (
        f"; {left} plans off the front are left out here and are in the table." if left else "."
    )
    return Heat(
        "retention",
        "Retention per benchmark, % of the 16-bit score",
        caption,
        pd.DataFrame(rows),
        "retention, %",
        0,
        100,
    )
