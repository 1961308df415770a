"""Where the bytes and the time went, and what each plan keeps on each benchmark."""

import math
from collections import defaultdict
from collections.abc import Iterable

import pandas as pd

from analysis.charts import MANY, Bars, Heat
from analysis.frame import Study
from analysis.pareto import ParetoInfo
from luq.evaluation.compare import MEAN
from pipelines.record import RunRecord
from pipelines.units import axis_unit

PARTS = (
    "weights",
    "codes",
    "blocks",
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
COMPUTING = "computing"
READING = "reading the store"


def readable(info: ParetoInfo, most: int = MANY) -> list[str]:
    """Plans that a figure can show, smallest first.

    All, or the front, the baselines, and as many of the others as fit, evenly chosen.
    """
    table = info.points
    if len(table) > most:
        important = table[table["front"] | table["baseline"]]
        remaining = table.drop(important.index)
        room = max(1, most - len(important))
        step = max(1, math.ceil(len(remaining) / room))
        table = pd.concat([important, remaining.iloc[::step]]).sort_values(["bytes", "label"])
    return list(table["plan"])


def by_part(ledger: dict[str, int]) -> dict[str, int]:
    """A ledger whose packed parts have one class each: `vision codes` is counted under `vision`."""
    sizes: dict[str, int] = defaultdict(int)
    for name, size in ledger.items():
        sizes[name.partition(" ")[0]] += size
    return dict(sizes)


def ledger_chart(study: Study, info: ParetoInfo, most: int = 16) -> Bars:
    """Bytes of the whole checkpoint by part, for some plans."""
    labels = dict(zip(info.points["plan"], info.points["label"], strict=True))
    plan_of_run = dict(zip(study.runs["key"], study.runs["plan"], strict=True))
    ledgers: dict[str, dict[str, int]] = {}
    for record in study.records:
        ledgers.setdefault(plan_of_run[record.key], by_part(record.memory.ledger))
    unit = axis_unit(info.points["bytes"].max())
    rows = []
    for plan in readable(info, most):
        ledger = ledgers.get(plan, {})  # the 16-bit model may stand here without a run of its own
        unusual = [part for part in ledger if part not in PARTS]
        # every bar has every part, so that all have the same colours in the same order
        for part in (*PARTS, *unusual) if ledger else ():
            size = ledger.get(part, 0) / unit.bytes
            rows.append({"bar": labels[plan], "part": part, "value": size})
    table = pd.DataFrame(rows)
    # a part that no plan has would only lengthen the legend
    in_use = table.groupby("part")["value"].sum() > 0
    table = table[table["part"].map(in_use)]
    caption = (
        "Measured on the stored files; the parts of a bar sum to the checkpoint. "
        "Embeddings, head, projector and vision are all that is stored of them, packed or in 16 "
        "bit; norms are 16-bit."
    )
    axis = f"whole checkpoint, {unit.name}"
    return Bars("ledger", "Where the bytes are", caption, table, axis)


def time_chart(records: Iterable[RunRecord]) -> Bars:
    """Seconds per stage over all runs, computed or read from the store."""
    computing: dict[str, float] = defaultdict(float)
    reading: dict[str, float] = defaultdict(float)
    count = 0
    for record in records:
        count += 1
        for stage, seconds in record.seconds.items():
            spent = reading if record.cached.get(stage) else computing
            spent[stage] += seconds
    # by name first, so that stages of equal times stand in one order
    stages = sorted({*computing, *reading})
    stages.sort(key=lambda stage: -(computing[stage] + reading[stage]))
    rows = []
    for stage in stages:
        rows.append({"bar": stage, "part": COMPUTING, "value": computing[stage] / 60})
        rows.append({"bar": stage, "part": READING, "value": reading[stage] / 60})
    minutes = sum([*computing.values(), *reading.values()]) / 60
    caption = f"{count} runs, {minutes:.1f} minutes in all. What one run computed the others read."
    return Bars("time", "Where the time went", caption, pd.DataFrame(rows), "minutes over all runs")


def retention_chart(study: Study, info: ParetoInfo) -> Heat:
    """Retention per benchmark and plan, smallest plan first."""
    points = info.points.set_index("plan")
    chosen = readable(info)
    scores = study.scores[study.scores["plan"].isin(chosen)]
    means = scores.groupby(["plan", "benchmark"])["retention"].mean().to_dict()
    answered = set(scores["plan"])
    rows = []
    for plan in (plan for plan in chosen if plan in answered):
        label = points.loc[plan, "label"]
        shares = {name: means.get((plan, name), math.nan) for name in study.benchmarks}
        shares[MEAN] = points.loc[plan, "retention"]
        for name, share in shares.items():
            text = f"{100 * share:.0f}" if math.isfinite(share) else "-"
            rows.append({"row": label, "column": name, "value": 100 * share, "text": text})
    caption = "Smallest checkpoint first"
    left_out = len(points) - len(chosen)
    if left_out:
        caption += f"; {left_out} plans off the front are left out here and are in the table"
    return Heat(
        "retention",
        "Retention per benchmark, % of the 16-bit score",
        f"{caption}.",
        pd.DataFrame(rows),
        "retention, %",
        low=0,
        high=100,
    )
