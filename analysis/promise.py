"""The paper's promise: mixes of tiers 40 % smaller than 4-bit with under 10 % loss.

Sizes are those of the decoder's linears and of the whole file, against the plan all in 4-bit GPTQ.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis import compare
from analysis.claims import NO, OPEN, YES, by_draw, estimate_of, over_draws
from analysis.compare import Reader
from analysis.frame import Study
from analysis.pareto import COLLAPSED
from analysis.settings import is_entropy
from analysis.steadiness import TEXT
from luq.evaluation.intervals import Estimate
from pipelines.record import RunRecord

PROMISE_SIZE = 0.40
PROMISE_LOSS = 10.0  # percent of the 16-bit mean score
SAME_SIZE = 3  # decimals of a share of the 4-bit plan's bytes
ANY_MIX = "any mix"  # what a plan is the best of
ONE_TIER = "one tier everywhere"
LINEARS = "linears_change"  # columns of the plans
WHOLE = "checkpoint_change"


class Size(NamedTuple):
    """A plan's sizes as shares by which they differ from the 4-bit plan's, and what it loses.

    `loss`: percent of the 16-bit mean score, with its interval over questions and draws. `of`: the
    plans of which it is the best.
    """

    label: str
    of: str
    is_mixed: bool
    stored_bits: float
    linears: float
    whole: float
    score: float
    loss: Estimate

    @property
    def of_linears(self) -> str:
        """The verdict by the size of the linears."""
        return _verdict(self.linears, self.loss)

    @property
    def of_whole(self) -> str:
        """The verdict by the size of the whole file."""
        return _verdict(self.whole, self.loss)


def _verdict(change: float, loss: Estimate) -> str:
    if change > -PROMISE_SIZE or loss.low >= PROMISE_LOSS:
        return NO
    return YES if loss.high < PROMISE_LOSS else OPEN


def best(verdicts: Sequence[str]) -> str:
    """Of a claim that one plan is enough for: `yes` if one is, `no` if all are."""
    if YES in verdicts:
        return YES
    return OPEN if OPEN in verdicts else NO


def sizes(study: Study, reader: Reader) -> list[Size]:
    """The plans by which the promise is judged, those of the paper's order first.

    The best 40 % smaller than 4-bit (where none is so small, the smallest) of the mixes of each
    pair of tiers in the order of entropy, of all mixes, and of the plans of one tier: by the size
    of the linears, and of the last two by that of the whole file, too. None without a 4-bit plan.
    """
    plans = study.plans.dropna(subset=[LINEARS, WHOLE, "retention"])
    plans = plans[plans["collapsed"] < COLLAPSED * plans["benchmarks"]]
    mixes = plans[plans["mixed"]]
    is_of_paper = mixes["order"].map(is_entropy).astype(bool) & (mixes["rule"] == "count")
    ranked = mixes[is_of_paper & (mixes["calibration"] != TEXT)]
    rows: list[Size] = []
    for (low, high), group in ranked.groupby(["low_tier", "high_tier"], sort=False):
        rows.append(
            _size(study, _best(group, LINEARS), f"entropy order, {low} under {high}", reader)
        )
    for of, group in ((ANY_MIX, mixes), (ONE_TIER, plans[plans["tier"] != ""])):
        if group.empty:
            continue
        bests = [_best(group, LINEARS), _best(group, WHOLE)]
        if bests[0]["plan"] == bests[1]["plan"]:
            bests.pop()
        rows += [_size(study, plan, of, reader) for plan in bests]
    return rows


def _best(plans: pd.DataFrame, size: str) -> pd.Series:
    """The highest score among plans that are small enough; the smallest if none is."""
    small = plans[plans[size] <= -PROMISE_SIZE]
    if small.empty:  # of sizes that differ in headers alone the higher score
        rounded = plans.assign(rounded=plans[size].round(SAME_SIZE))
        return rounded.sort_values(["rounded", "score"], ascending=[True, False]).iloc[0]
    return small.sort_values("score").iloc[-1]


def runs_of(study: Study, plan: str) -> list[RunRecord]:
    """The runs of a plan, a seed each."""
    run_keys = set(study.runs[study.runs["plan"] == plan]["key"])
    return [record for record in study.records if record.key in run_keys]


def _size(study: Study, plan: pd.Series, of: str, reader: Reader) -> Size:
    return Size(
        str(plan["label"]),
        of,
        bool(plan["mixed"]),
        float(plan["stored_bits"]),
        float(plan[LINEARS]),
        float(plan[WHOLE]),
        float(plan["score"]),
        _loss(runs_of(study, str(plan["plan"])), plan, reader),
    )


def _loss(runs: list[RunRecord], plan: pd.Series, reader: Reader) -> Estimate:
    """What a plan loses of the 16-bit score, in percent, over questions and draws."""
    float_score = float(plan["float_score"])
    difference = compare.loss(runs, reader)
    if difference is None:  # the answers are gone; what is left are the intervals of the scores
        scores = Estimate(*(float(plan[name]) for name in ("score", "score_low", "score_high")))
        change = Estimate(*(end - float_score for end in scores))
    else:
        change = estimate_of(difference)
    change = over_draws(change, by_draw([runs]), {})
    lost = [-100 * end / float_score for end in (change.score, change.high, change.low)]
    return Estimate(*lost)
