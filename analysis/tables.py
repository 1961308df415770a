"""The report's tables: cells as text with what they sort by, for a page, Markdown, a terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from analysis import paper
from analysis.compare import Comparison
from analysis.frame import BASE, Study
from analysis.pareto import ParetoInfo, budgets, smallest
from luq.evaluation.compare import MEAN, Difference
from pipelines.units import human

MOST = 200  # rows of a table in the page
BRACKETS = "In brackets: 95 % interval."
EDGES = ("score", "score_low", "score_high")
FEW = 24  # rows of an overview: the front and the baselines, and as many of the others


class Number(NamedTuple):
    """A cell that does not sort by its text; `detail` stands behind it, or small below it."""

    text: str
    order: float
    detail: str = ""


Cell = str | Number
NO_NUMBER = Number("-", math.inf)  # sorts last
EMPTY = Number("", math.inf)
# a smaller divergence is better
OF_DIVERGENCE = {"better": "worse", "worse": "better", "tie": "tie"}


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns.

    The first `words` columns are text, the others numbers; `note` explains what is not said.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    words: int = 1

    def is_text(self, column: int) -> bool:
        """Whether a column holds text alone, which stands at the left."""
        return all(isinstance(row[column], str) for row in self.rows)


def value(cell: Cell) -> str:
    """What a cell shows first."""
    return cell if isinstance(cell, str) else cell.text


def detail(cell: Cell) -> str:
    """What a cell shows behind its value, or small below it."""
    return "" if isinstance(cell, str) else cell.detail


def text(cell: Cell) -> str:
    """All that a cell shows, in one line."""
    return f"{value(cell)} {detail(cell)}".rstrip()


def size(count: float) -> Number:
    """Bytes for people."""
    return Number(human(count, places=3), count)


def number(amount: float | None, places: int = 1, sign: bool = False) -> Number:
    """A number that sorts as one; `-` where there is none."""
    if amount is None or not math.isfinite(amount):
        return NO_NUMBER
    digits = f"{amount:+.{places}f}" if sign else f"{amount:.{places}f}"
    return Number(digits, round(amount, 6))


def count(amount: int) -> Number:
    """A whole number."""
    return Number(str(amount), amount)


def change(share: float) -> Number:
    """By how much a size differs, in percent: -10.0 is smaller."""
    return number(100 * share, 1, sign=bool(share))


def interval(difference: Difference, places: int = 1) -> Number:
    """The ends of a difference's interval."""
    low = f"{difference.low:+.{places}f}"
    return Number(f"[{low}, {difference.high:+.{places}f}]", difference.low)


def with_interval(score: float, low: float, high: float) -> Number:
    """A score with its 95 % interval, if that is known."""
    detail = f"[{low:.1f}, {high:.1f}]" if math.isfinite(low) else ""
    return Number(f"{score:.1f}", score, detail)


def overview(study: Study, chosen: Sequence[str]) -> Table:
    """A row per chosen plan, smallest first: what `make demo` prints."""
    columns = [
        "run",
        "nominal bits",
        "stored bits",
        "linears vs 4-bit %",
        "whole checkpoint",
        "whole vs 4-bit %",
        "mean score",
        "retention %",
        "KL nats",
        "top-1 %",
        "perplexity",
        "/ 16-bit",
        "collapsed",
    ]
    rows: list[list[Cell]] = []
    plans = study.plans[study.plans["plan"].isin(chosen)]
    for _, plan in plans.iterrows():
        seeds = f" ({plan['seeds']} seeds)" if plan["seeds"] > 1 else ""
        collapsed = EMPTY
        if plan["collapsed"]:
            fraction = f"{plan['collapsed']} of {plan['benchmarks']}"
            collapsed = Number(fraction, plan["collapsed"])
        rows.append(
            [
                f"{plan['label']}{seeds}",
                number(plan["nominal_bits"], 2),
                number(plan["stored_bits"], 3),
                change(plan["linears_change"]),
                size(plan["checkpoint_bytes"]),
                change(plan["checkpoint_change"]),
                with_interval(plan["score"], plan["score_low"], plan["score_high"]),
                number(100 * plan["retention"]),
                number(plan["kl"], 3),
                number(100 * plan["agreement"]),
                number(plan["perplexity"]),
                number(plan["perplexity_ratio"], 3),
                collapsed,
            ]
        )
    first = study.runs.iloc[0]
    title = (
        f"{study.name}: {first['benchmarks']} benchmarks, n = {first['n']} units, smallest first"
    )
    note = (
        f"vs 4-bit: size against {BASE}, minus is smaller; of the decoder's linears, and of the "
        "whole checkpoint. In brackets: 95 % interval over questions. KL per answer token to the "
        "16-bit model, and share of tokens with the same first choice (top-1): means over "
        "benchmarks. Perplexity: held-out text, and how "
        "many times the 16-bit model's on the same sequences. "
        "collapsed: benchmarks with one answer for (nearly) all, or gibberish."
    )
    note += study.caveat
    left_out = len(study.plans) - len(plans)
    if left_out:
        note += f" {left_out} plans off the front are not in this table."
    return Table("overview", title, columns, rows, note)


def best_plans(info: ParetoInfo) -> Table:
    """The best plan under budgets of bytes."""
    rows: list[list[Cell]] = []
    for _, row in budgets(info).iterrows():
        budget = Number(f"{100 * row['share']:.0f} % of {row['of']}", row["share"])
        cells: list[Cell] = [budget, size(row["budget"])]
        # an empty label is NaN in a frame
        if not isinstance(row["label"], str):
            cells += ["nothing that small", EMPTY, EMPTY]
        else:
            shares = (100 * row[edge] for edge in ("retention", "low", "high"))
            cells += [row["label"], size(row["bytes"]), with_interval(*shares)]
        rows.append(cells)
    columns = ["budget", "bytes", "best plan", "its checkpoint", "retention %"]
    note = "Bytes of the whole checkpoint; collapsed plans are left out. " + BRACKETS
    return Table("best", "The best plan under a budget", columns, rows, note)


def smallest_plans(info: ParetoInfo) -> Table:
    """The smallest plan that loses at most so many points, of all plans and of the mixes."""
    rows: list[list[Cell]] = []
    for loss, plan, mix in smallest(info):
        limit = Number(f"{loss:g}", loss)
        rows.append([limit, *_plan_cells(plan), *_plan_cells(mix)])
    columns = [
        "points lost, at most",
        "smallest plan",
        "its checkpoint",
        "score",
        "smallest mix of tiers",
        "its checkpoint",
        "score",
    ]
    note = (
        "Points of the mean score below the 16-bit model's, as measured: a plan whose interval "
        f"reaches further down may lose more. {BRACKETS}"
    )
    return Table("smallest", "The smallest plan within a loss", columns, rows, note)


def published() -> Table:
    """The paper's main table, with the source of each row."""
    rows: list[list[Cell]] = []
    for row in paper.MAIN:
        places = [0, 0, *[1] * (len(paper.BENCHMARKS) - 2)]  # MME's are sums, the others percent
        scores = [number(s, p) for s, p in zip(row.scores, places, strict=True)]
        rows.append([row.model, row.method, number(row.bits, 2), *scores, row.source])
    columns = ["model", "method", "nominal bits", *paper.BENCHMARKS, "source"]
    note = (
        "As published, not measured here. MME perception of 2000, cognition of 800, the others "
        f"% of the maximum. {paper.SOURCES} {paper.CAVEATS}"
    )
    return Table("published", "What the paper published", columns, rows, note, words=2)


def _plan_cells(plan: pd.Series | None) -> list[Cell]:
    if plan is None:
        return ["none", EMPTY, EMPTY]
    return [plan["label"], size(plan["bytes"]), with_interval(*(plan[edge] for edge in EDGES))]


def differences(comparison: Comparison) -> Table:
    """One comparison, a row per benchmark and the mean: who won how often, and the verdict."""
    a = comparison.a
    b = comparison.b
    # the verdict is of b against a; the table names the winner
    winners = {"better": b, "worse": a, "tie": "tie"}
    rows: list[list[Cell]] = []
    for difference in comparison.scores:
        counts: list[Cell] = [NO_NUMBER] * 3
        if comparison.by_question:
            counts = [count(difference.wins), count(difference.ties), count(difference.losses)]
        rows.append(
            [
                "mean of all" if difference.name == MEAN else difference.name,
                number(difference.a),
                number(difference.b),
                number(difference.mean, 1, sign=True),
                interval(difference),
                count(difference.n),
                *counts,
                winners[difference.verdict],
            ]
        )
    note = "Unpaired: no answers here."
    if comparison.by_question:
        note = "Questions averaged over runs, then paired; bootstrap."
    if comparison.runs > 1:
        note = f"{_by_plan_note(comparison)} {note}"
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
    name = f"{comparison.axis}_{b}".replace(" ", "_")
    return Table(name, f"{b} against {a}", columns, rows, note)


def _by_plan_note(comparison: Comparison) -> str:
    """In how many plans either side is better."""
    verdicts = [difference.verdict for _, difference in comparison.plans]
    return (
        f"{comparison.runs} runs, {len(comparison.plans)} plans: "
        f"{comparison.b} better in {verdicts.count('better')}, "
        f"tie in {verdicts.count('tie')}, worse in {verdicts.count('worse')}."
    )


class _PlanDifference(NamedTuple):
    value: str
    setting: str
    difference: Difference


def by_plan(comparisons: Sequence[Comparison]) -> Table:
    """Comparisons plan by plan; of very many those that differ most."""
    entries = []
    for comparison in comparisons:
        for setting, difference in sorted(comparison.plans, key=lambda plan: plan[0]):
            entries.append(_PlanDifference(comparison.b, setting, difference))
    largest_first = sorted(range(len(entries)), key=lambda i: -abs(entries[i].difference.mean))
    rows: list[list[Cell]] = []
    # those that differ most, in the order in which they stand
    for i in sorted(largest_first[:MOST]):
        value, setting, difference = entries[i]
        rows.append(
            [
                value,
                setting,
                number(difference.a),
                number(difference.b),
                number(difference.mean, 1, sign=True),
                interval(difference),
                difference.verdict,
            ]
        )
    note = f"The {MOST} of {len(entries)} that differ most." if len(entries) > MOST else ""
    axis = comparisons[0].axis
    columns = [axis, "plan", comparisons[0].a, "this", "difference", "95 % interval", "verdict"]
    return Table(f"{axis}_plans", "Plan by plan", columns, rows, note, words=2)


def ranking(comparisons: Sequence[Comparison]) -> Table:
    """Every value of an axis against the base: score and divergence."""
    base = comparisons[0].a
    axis = comparisons[0].axis
    rows: list[list[Cell]] = []
    for comparison in comparisons:
        difference = comparison.pooled
        rows.append(
            [
                comparison.b,
                count(comparison.runs),
                count(len(comparison.plans)),
                number(difference.b),
                number(difference.mean, 1, sign=True),
                interval(difference),
                difference.verdict,
                *_divergence_cells(comparison.divergence),
            ]
        )
    columns = [
        axis,
        "runs",
        "plans",
        "score",
        f"minus {base}",
        "95 % interval",
        "verdict",
        "KL",
        f"minus {base}",
        "95 % interval",
        "verdict",
    ]
    base_score = comparisons[0].pooled.a
    note = (
        f"{base} scores {base_score:.1f} on the plans that it shares with the first row. "
        "A difference whose interval holds 0 is a tie."
    )
    return Table(f"{axis}_ranking", f"Every {axis} against {base}", columns, rows, note)


def _divergence_cells(divergence: Difference | None) -> list[Cell]:
    if divergence is None:
        return [NO_NUMBER] * 4
    return [
        number(divergence.b, 3),
        number(divergence.mean, 3, sign=True),
        interval(divergence, 3),
        OF_DIVERGENCE[divergence.verdict],
    ]


def scores(study: Study, info: ParetoInfo, labels: list[str]) -> Table:
    """Scores per benchmark of some plans, smallest first."""
    chosen = info.points[info.points["label"].isin(labels)]
    means = study.scores.groupby(["plan", "benchmark"])[[*EDGES]].mean()
    rows: list[list[Cell]] = []
    for _, point in chosen.iterrows():
        cells: list[Cell] = [point["label"], size(point["bytes"])]
        for benchmark in study.benchmarks:
            place = (point["plan"], benchmark)
            if place in means.index:
                mean = means.loc[[place]].iloc[0]
                cells.append(with_interval(*(mean[edge] for edge in EDGES)))
            else:  # the 16-bit model without a run of its own
                cells.append(number(study.records[0].scores[benchmark].float_score))
        rows.append([*cells, with_interval(*(point[edge] for edge in EDGES))])
    columns = ["plan", "checkpoint", *study.benchmarks, "mean"]
    note = (
        "% of the maximum; in brackets: 95 % interval. Baselines, and the plans on the front, "
        "smallest first."
    )
    return Table("scores", "Scores per benchmark", columns, rows, note)
