"""The report's tables: cells as text with what they sort by, for a page, for Markdown, and for a terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.compare import Comparison
from analysis.frame import BASE, MEAN, Study
from analysis.pareto import ParetoInfo, budgets
from luq.evaluation.compare import Difference

MOST = 200  # rows of a table in the page
FEW = 24  # rows of an overview: the front and the baselines, and as many of the others
Cell = str | tuple[str, float | str]  # what is shown, or that and what it sorts by


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns. The first `words` columns are text, the others numbers; `note` explains what is not said."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    words: int = 1


def text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def size(count: float) -> str:
    """Bytes for people, decimal."""
    if math.isnan(count):
        return "-"
    unit, name = next(
        ((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= u), (1.0, "B")
    )
    return f"{count / unit:.3f} {name}" if unit > 1 else f"{count:.0f} B"


def number(value: float, places: int = 1, sign: bool = False) -> Cell:
    """A number that sorts as one; `-` where there is none."""
    if value is None or not math.isfinite(value):
        return ("-", math.inf)
    return (f"{value:+.{places}f}" if sign else f"{value:.{places}f}", round(value, 6))


def change(saved: float) -> Cell:
    """A share saved as a change in percent: 0.1 is -10.0."""
    return number(-100 * saved + 0.0, 1, sign=bool(saved))


def interval(d: Difference, places: int = 1) -> Cell:
    return (f"{d.low:+.{places}f} .. {d.high:+.{places}f}", d.low)


def overview(study: Study, chosen: Sequence[str]) -> Table:
    """A row per chosen plan, smallest first: what `make demo` prints."""
    columns = [
        "run",
        "nominal bits",
        "stored bits",
        "vs 4-bit %",
        "whole checkpoint",
        "vs 4-bit %",
        "mean score",
        "retention %",
    ]
    rows: list[list[Cell]] = []
    plans = study.plans[study.plans["plan"].isin(chosen)]
    for _, plan in plans.iterrows():
        seeds = f" ({plan['seeds']} seeds)" if plan["seeds"] > 1 else ""
        row = [
            f"{plan['label']}{seeds}",
            number(plan["nominal_bits"], 2),
            number(plan["stored_bits"], 3),
            change(plan["linears_saved"]),
        ]
        row += [
            (size(plan["checkpoint_bytes"]), plan["checkpoint_bytes"]),
            change(plan["checkpoint_saved"]),
        ]
        row += [
            (f"{plan['score']:.1f} ± {plan['stderr']:.1f}", plan["score"]),
            number(100 * plan["retention"]),
        ]
        row += [number(plan["kl"], 3), number(100 * plan["agreement"]), number(plan["perplexity"])]
        rows.append(
            [*row, f"{plan['collapsed']}/{plan['benchmarks']}" if plan["collapsed"] else ""]
        )
    first = study.runs.iloc[0]
    title = (
        f"{study.name}: {first['benchmarks']} benchmarks, n = {first['n']} units, smallest first"
    )
    note = (
        "±: standard error of the mean score over questions. KL per answer token to the 16-bit model and same first choices: "
        "means over benchmarks. Perplexity: held-out text. collapsed: benchmarks with one answer for (nearly) all, or gibberish."
    )
    if left := len(study.plans) - len(plans):
        note += f" {left} plans off the front are not in this table."
    return Table(
        "overview", title, [*columns, "KL nats", "top-1 %", "perplexity", "collapsed"], rows, note
    )


def best_plans(info: ParetoInfo) -> Table:
    """The best plan under budgets of bytes."""
    rows: list[list[Cell]] = []
    for _, b in budgets(info).iterrows():
        row: list[Cell] = [
            (f"{100 * b['share']:.0f} % of {b['of']}", b["share"]),
            (size(b["budget"]), b["budget"]),
        ]
        if isinstance(b["label"], str):
            row += [b["label"], (size(b["bytes"]), b["bytes"]), number(100 * b["retention"])]
            row.append(
                (f"{100 * b['low']:.1f} .. {100 * b['high']:.1f}", b["low"])
                if math.isfinite(b["low"])
                else ("-", math.inf)
            )
        else:
            row += ["nothing that small", "", "", ""]
        rows.append(row)
    columns = ["budget", "bytes", "best plan", "its checkpoint", "retention %", "95 % interval"]
    return Table(
        "best",
        "The best plan under a budget",
        columns,
        rows,
        "Bytes of the whole checkpoint; collapsed plans left out.",
    )


def differences(comparison: Comparison) -> Table:
    """One comparison, a row per benchmark and the mean: who won how often, and the verdict."""
    rows = []
    for d in comparison.scores:
        counts: list[Cell] = [
            (str(c), c) if comparison.by_question else "-" for c in (d.wins, d.ties, d.losses)
        ]
        verdict = {"better": comparison.b, "worse": comparison.a, "tie": "tie"}[d.verdict]
        label = "mean of all" if d.name == MEAN else d.name
        rows.append(
            [
                label,
                number(d.a),
                number(d.b),
                number(d.mean, 1, True),
                interval(d),
                (str(d.n), d.n),
                *counts,
                verdict,
            ]
        )
    wins, ties, losses = (
        sum(d.verdict == v for _, d in comparison.plans) for v in ("better", "tie", "worse")
    )
    note = f"{comparison.runs} runs, {len(comparison.plans)} plans: {comparison.b} better in {wins}, tie in {ties}, "
    how = (
        "Questions averaged over runs, then paired; bootstrap."
        if comparison.by_question
        else "Unpaired: no answers here."
    )
    note = f"{note}worse in {losses}. {how}" if comparison.runs > 1 else how
    a, b = comparison.a, comparison.b
    columns = [
        "benchmark",
        a,
        b,
        "difference",
        "95 % interval",
        "n",
        f"{b} better",
        "equal",
        f"{a} better",
        "verdict",
    ]
    return Table(
        f"{comparison.axis}_{b}".replace(" ", "_"), f"{b} against {a}", columns, rows, note
    )


def by_plan(comparisons: Sequence[Comparison]) -> Table:
    """Comparisons plan by plan; of very many those that differ most."""
    found = [
        (c.b, setting, d) for c in comparisons for setting, d in sorted(c.plans, key=lambda p: p[0])
    ]
    shown = set(sorted(range(len(found)), key=lambda i: -abs(found[i][2].mean))[:MOST])
    rows: list[list[Cell]] = [
        [b, setting, number(d.a), number(d.b), number(d.mean, 1, True), interval(d), d.verdict]
        for i, (b, setting, d) in enumerate(found)
        if i in shown
    ]
    note = f"The {MOST} of {len(found)} that differ most." if len(found) > MOST else ""
    axis, base = comparisons[0].axis, comparisons[0].a
    columns = [axis, "plan", base, "this", "difference", "95 % interval", "verdict"]
    return Table(f"{axis}_plans", "Plan by plan", columns, rows, note, words=2)


def ranking(comparisons: Sequence[Comparison]) -> Table:
    """Every value of an axis against the base: score and divergence."""
    base, axis = comparisons[0].a, comparisons[0].axis
    rows: list[list[Cell]] = []
    for c in comparisons:
        d, far = c.pooled, c.divergence
        row: list[Cell] = [
            c.b,
            (str(c.runs), c.runs),
            (str(len(c.plans)), len(c.plans)),
            number(d.b),
            number(d.mean, 1, True),
            interval(d),
        ]
        row.append({"better": "better", "worse": "worse", "tie": "tie"}[d.verdict])
        if far is None:
            row += [("-", math.inf)] * 4
        else:
            fewer = {"better": "worse", "worse": "better", "tie": "tie"}[
                far.verdict
            ]  # less divergence is better
            row += [number(far.b, 3), number(far.mean, 3, True), interval(far, 3), fewer]
        rows.append(row)
    columns = [axis, "runs", "plans", "score", f"minus {base}", "95 % interval", "verdict"]
    note = f"{base} scores {comparisons[0].pooled.a:.1f} on the plans that it shares with the first row. "
    note += "A difference whose interval holds 0 is a tie."
    return Table(
        f"{axis}_ranking",
        f"Every {axis} against {base}",
        [*columns, "KL", f"minus {base}", "95 % interval", "verdict"],
        rows,
        note,
    )


def scores(study: Study, info: ParetoInfo, labels: list[str]) -> Table:
    """Scores per benchmark of some plans, in the labels' order."""
    chosen = info.points[info.points["label"].isin(labels)]
    means = study.scores.groupby(["plan", "benchmark"]).agg(
        score=("score", "mean"), stderr=("stderr", "mean")
    )
    rows: list[list[Cell]] = []
    for _, point in chosen.iterrows():
        row: list[Cell] = [point["label"], (size(point["bytes"]), point["bytes"])]
        for benchmark in study.benchmarks:
            if (point["plan"], benchmark) in means.index:
                found: pd.Series = means.loc[(point["plan"], benchmark)]
                row.append((f"{found['score']:.1f} ± {found['stderr']:.1f}", found["score"]))
            else:
                row.append(number(study.records[0]["scores"][benchmark]["float_score"]))
        rows.append([*row, number(point["score"])])
    columns = ["plan", "checkpoint", *study.benchmarks, "mean"]
    return Table(
        "scores",
        "Scores per benchmark",
        columns,
        rows,
        f"±: standard error. Baselines, and the front; memory is against {BASE}.",
    )
