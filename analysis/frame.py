"""Records -> tidy frames: a row per run x benchmark, a row per run, a row per plan (its seeds).

Bits are per weight of the decoder's linears, sizes in bytes, scores and the ends of their 95 %
intervals (`score_low`, `score_high`) in percent, retention a share of the 16-bit score.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.loading import Results, is_mixed, questions
from analysis.settings import differing, order_label, plan_key, seedless, settings_of
from luq.config import RunConfig
from luq.store import keys
from pipelines.record import BenchmarkFidelity, Interval, Perplexity, RunRecord
from pipelines.run_names import plan_labels

BASE = "gptq4"  # what memory is compared with
SIZES = (
    "nominal_bits",
    "stored_bits",
    "stored_bytes",
    "rest_bytes",
    "checkpoint_bytes",
    "resident_bytes",
    "peak_bytes",
)
PERPLEXITY = (
    "perplexity",
    "float_perplexity",
    "perplexity_ratio",
    "perplexity_ratio_low",
    "perplexity_ratio_high",
)
# shares by which a run's sizes differ from the 4-bit run's; minus: smaller
CHANGES = ("linears_change", "checkpoint_change")
# columns of the runs whose means over seeds are a plan's
AVERAGED = (
    *SIZES,
    "score",
    "score_low",
    "score_high",
    "stderr",
    "retention",
    "kl",
    "agreement",
    *PERPLEXITY,
    *CHANGES,
)
# columns of the runs that the frame of scores has of each benchmark instead, or not at all
OF_BENCHMARKS = (
    "score",
    "score_low",
    "score_high",
    "stderr",
    "n",
    "float_score",
    "errors",
    "collapsed",
    "retention",
    "kl",
    "benchmarks",
    "agreement",
    "loglik",
)
Row = dict[str, str | int | float | bool | None]  # of a frame


class Study(NamedTuple):
    """Records that may be compared: one checkpoint, the same questions.

    `runs`, `scores` and `plans` are what the functions of these names in this module make.
    """

    name: str
    records: list[RunRecord]
    runs: pd.DataFrame
    scores: pd.DataFrame
    plans: pd.DataFrame

    @property
    def benchmarks(self) -> list[str]:
        return list(self.records[0].scores)

    @property
    def caveat(self) -> str:
        """A sentence on comparisons with 4-bit plans, from the model's config; empty if none."""
        caveats = [record.config.model.caveat for record in self.records]
        text = next(filter(None, caveats), "")
        return f" {self.name}: {text}." if text else ""


def run_row(record: RunRecord, label: str) -> Row:
    """A run as a flat row; `label` is what it is called beside the others."""
    return {
        "sweep": record.sweep,
        "name": record.name,
        "label": label,
        "key": record.key,
        "plan": plan_key(record.config),
        "answers": keys.digest(record.artefacts.answers),
        "command": record.command,
        "model": record.config.model.name,
        "fingerprint": record.model_fingerprint,
        "questions": questions(record),
        **_setting_columns(record),
        **{name: getattr(record.memory, name) for name in SIZES},
        **_score_columns(record),
        **fidelity(record),
        "seconds": record.wall_seconds,
        "finished": record.finished,
    }


def _setting_columns(record: RunRecord) -> Row:
    """The settings that figures and tables tell plans apart by, and the plan that came of them.

    A plan of one tier has neither a low tier nor a number of layers in it, nor did it use an
    order; one that needs no data (16-bit) has no calibration set. One that packs more than the
    decoder's linears is no plan of one tier: what is called by a tier has a 16-bit rest.
    """
    config = record.config
    is_text = config.calibration.name == "text"
    mixed = is_mixed(record)
    return {
        "calibration": config.calibration.name if record.calibration is not None else "",
        "alpha": 0.0 if is_text else _alpha(record),
        "order": order_label(config.order) if mixed else "",
        "rule": config.allocation.name,
        "low_tier": config.quantizer.low if mixed else "",
        "high_tier": config.quantizer.high,
        "propagation": config.quantizer.propagation,
        "clusters": config.profile.clusters,
        "seed": config.seed,
        "allocation": record.allocation,
        "k": record.k if mixed else None,
        "layers": len(record.tiers),
        "mixed": mixed,
        "tier": "" if mixed or record.artefacts.parts else record.tiers[0],
        "beside": ", ".join(f"{part} in {tier}" for part, tier in record.part_tiers.items()),
    }


def _alpha(record: RunRecord) -> float:
    """The share of multimodal tokens that was asked for, or that samples of a user's own have."""
    if record.config.calibration.is_own and record.calibration is not None:
        return record.calibration.alpha
    return record.config.calibration.alpha


def _score_columns(record: RunRecord) -> Row:
    """The scores of all benchmarks together. The errors of their mean add in squares."""
    scores = record.averaged
    # benchmarks are independent: the variances of their scores add
    variance = sum(score.stderr**2 for score in scores)
    interval = record.score_interval
    return {
        "score": record.mean_score,
        "score_low": interval.low,
        "score_high": interval.high,
        "stderr": math.sqrt(variance) / max(len(scores), 1),
        "float_score": record.float_mean_score,
        "retention": _number(record.mean_retention),
        "n": sum(score.n for score in scores),
        "benchmarks": len(scores),
        "collapsed": sum(bool(score.collapsed) for score in scores),
        "errors": sum(score.errors for score in record.scores.values()),
    }


def fidelity(record: RunRecord) -> Row:
    """Means over benchmarks of KL to the 16-bit model, agreement and log-likelihood; perplexity.

    KL in nats per answer token, agreement as a share of tokens; NaN where nothing was measured.
    """
    measured = record.fidelity.values()
    return {
        "kl": _mean_of([entry.kl for entry in measured]),
        "agreement": _mean_of([entry.agreement for entry in measured]),
        "loglik": _mean_of([entry.loglik for entry in measured]),
        **_perplexity_columns(record.perplexity),
    }


def _perplexity_columns(perplexity: Perplexity | None) -> Row:
    """Perplexity, the 16-bit model's, and their ratio with its paired interval; NaN if unknown."""
    if perplexity is None:
        return dict.fromkeys(PERPLEXITY, math.nan)
    ratio = perplexity.ratio or Interval(math.nan, math.nan, math.nan)
    values = (perplexity.value, _number(perplexity.float_value), *ratio)
    return dict(zip(PERPLEXITY, values, strict=True))


def _mean_of(intervals: Sequence[Interval | None]) -> float:
    means = [interval.mean for interval in intervals if interval is not None]
    return sum(means) / len(means) if means else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# Of `score_rows`; a run that asks no benchmark has none, but its frame has these columns.
SCORE_COLUMNS = [
    "score",
    "score_low",
    "score_high",
    "stderr",
    "n",
    "float_score",
    "errors",
    "key",
    "benchmark",
    "collapsed",
    "why",
    "retention",
    "kl",
]


def score_rows(record: RunRecord) -> list[Row]:
    """A run's benchmarks, a row each."""
    rows: list[Row] = []
    for benchmark, score in record.scores.items():
        rows.append(
            {
                "score": score.score,
                "score_low": score.interval.low,
                "score_high": score.interval.high,
                "stderr": score.stderr,
                "n": score.n,
                "float_score": score.float_score,
                "errors": score.errors,
                "key": record.key,
                "benchmark": benchmark,
                "collapsed": bool(score.collapsed),
                "why": score.collapsed,
                "retention": _number(score.retention),
                "kl": _kl(record.fidelity.get(benchmark)),
            }
        )
    return rows


def _kl(measured: BenchmarkFidelity | None) -> float:
    if measured is None or measured.kl is None:
        return math.nan
    return measured.kl.mean


def runs(records: Iterable[RunRecord]) -> pd.DataFrame:
    """A row per run, smallest file first.

    `linears_change` and `checkpoint_change` are shares by which sizes differ from those of the run
    all in 4-bit GPTQ: -0.4 is 40 % smaller.
    """
    all_records = list(records)
    labels = plan_labels([record.name for record in all_records])
    rows = [run_row(record, label) for record, label in zip(all_records, labels, strict=True)]
    frame = pd.DataFrame(rows)
    frame["k"] = frame["k"].astype("Int64")  # whole numbers, of which plans of one tier have none
    frame = frame.sort_values(["stored_bytes", "name"]).reset_index(drop=True)
    # of several 4-bit runs the smallest file, which stands first
    base = frame[frame["tier"] == BASE]
    for column, size in zip(CHANGES, ("stored_bytes", "checkpoint_bytes"), strict=True):
        frame[column] = math.nan if base.empty else frame[size] / base[size].iloc[0] - 1
    return frame


def scores(records: Iterable[RunRecord], runs: pd.DataFrame) -> pd.DataFrame:
    """The tidy frame: a row per run x benchmark."""
    rows: list[Row] = []
    for record in records:
        rows += score_rows(record)
    # a run has these columns too, as means over its benchmarks
    of_runs = runs[[column for column in runs.columns if column not in OF_BENCHMARKS]]
    return of_runs.merge(
        pd.DataFrame(rows, columns=SCORE_COLUMNS), on="key", validate="one_to_many"
    )


def studies(loaded: Results) -> list[Study]:
    """What may be compared together, most runs first. Several are said in `problems`."""
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for record in loaded.records:
        place = (record.config.model.name, record.model_fingerprint, questions(record))
        groups.setdefault(place, []).append(record)
    if len(groups) > 1:
        names = [
            f"{name} {fingerprint} ({len(records)} runs)"
            for (name, fingerprint, _), records in groups.items()
        ]
        loaded.problems.append(
            "runs of different models or questions are not compared with each other: "
            + ", ".join(names)
        )
    result = []
    # most runs first: it is what the report is about
    for (name, _, _), records in sorted(groups.items(), key=lambda item: -len(item[1])):
        table = runs(records)
        result.append(Study(name, records, table, scores(records, table), plans(table, records)))
    return result


def plans(runs: pd.DataFrame, records: Iterable[RunRecord]) -> pd.DataFrame:
    """A row per plan: means over its `seeds` runs, the range of its score, the first one's command.

    `answers` is the same for plans that gave the same answers, such as two orders that agree on the
    first k layers.
    """
    # plans stand in the order of their smallest runs, not in that of their opaque keys
    grouped = runs.groupby("plan", sort=False)
    table = grouped.first()
    for column in AVERAGED:
        table[column] = grouped[column].mean()
    table["seeds"] = grouped.size()
    table["lowest"] = grouped["score"].min()
    table["highest"] = grouped["score"].max()
    table["answers"] = grouped["answers"].agg(lambda answers: " ".join(sorted(set(answers))))
    table["label"] = _tier_labels(table).where(table["tier"] != "", table["label"])
    table = table.reset_index()
    configs = {record.key: record.config for record in records}
    table["label"] = _told_apart(table, configs)
    return table.sort_values(["checkpoint_bytes", "label"]).reset_index(drop=True)


def _tier_labels(plans: pd.DataFrame) -> pd.Series:
    """Names of plans of one tier: the tier's.

    A tier whose layers saw another model's activations while they were quantized is not what people
    call by its name. Its label says the propagation, where that tells plans apart.
    """
    saw_itself = (plans["propagation"] == "exact") | (plans["tier"] == "float16")
    # what saw the model in the high tier, and is that model: the same arithmetic as exact
    saw_itself |= (plans["propagation"] == "high") & (plans["tier"] == plans["high_tier"])
    if plans["propagation"].nunique() == 1:
        saw_itself[:] = True
    return plans["tier"].where(saw_itself, plans["tier"] + ", propagation " + plans["propagation"])


def _told_apart(plans: pd.DataFrame, configs: dict[str, RunConfig]) -> pd.Series:
    """Labels of plans; plans of one label that gave different answers get what they differ in.

    Args:
        plans: with the label, the answers and the `key` of a run of each.
        configs: key of a run -> its config.
    """
    labels = plans["label"].copy()
    for label, group in plans.groupby("label", sort=False):
        # what gave the same answers is one point of every figure, and needs one name
        if group["answers"].nunique() > 1:
            settings = [seedless(settings_of(configs[key])) for key in group["key"]]
            suffixes = _differences(settings)
            labels[group.index] = [f"{label}, {suffix}" for suffix in suffixes]
    return labels


def _differences(tables: list[dict[str, Any]]) -> list[str]:
    """What tells each of some tables of settings from the others, in as few settings as that takes.

    A setting that separates no more tables than those before it is left out.
    """
    suffixes = [""] * len(tables)
    for name in differing(tables):
        longer = []
        for suffix, table in zip(suffixes, tables, strict=True):
            word = f"{name.removesuffix('.name')}={table.get(name)}"
            longer.append(f"{suffix} {word}" if suffix else word)
        if len(set(longer)) > len(set(suffixes)):
            suffixes = longer
    return suffixes
