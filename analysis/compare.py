"""Runs that differ in one thing only, question by question: calibration, order, propagation ..."""

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from analysis.frame import Study
from analysis.loading import is_mixed
from analysis.settings import (
    calibration_label,
    is_entropy,
    order_label,
    seedless,
    settings_of,
    weighting_label,
    without,
)
from luq.errors import StoreError, unknown
from luq.evaluation import answers, intervals
from luq.evaluation.compare import MEAN, Difference, Units, average, paired
from luq.evaluation.intervals import Estimate
from luq.evaluation.predictions import read_fidelity
from luq.store import keys
from luq.store.store import Store
from pipelines.record import RunRecord

Label = Callable[[RunRecord], str]
Settings = dict[str, list[RunRecord]]  # key of everything but the axis -> its runs, a seed each
Measure = Callable[[str], dict[str, Units] | None]  # key of a run -> its units per benchmark


class Pair(NamedTuple):
    """One setting that both sides ran with, and the runs of either side: a seed each."""

    setting: str
    a: list[RunRecord]
    b: list[RunRecord]


class Comparison(NamedTuple):
    """B against A over the settings that both ran with.

    `scores` is a difference per benchmark and, last, that of their mean; `plans` are differences of
    the mean, one per setting. Where the answers are gone `by_question` is false: the intervals then
    come from those of the scores, which are wider.
    """

    axis: str
    a: str
    b: str
    runs: int
    scores: list[Difference]
    divergence: Difference | None
    plans: list[tuple[str, Difference]]
    by_question: bool

    @property
    def pooled(self) -> Difference:
        """The difference of the mean over all benchmarks and settings."""
        return self.scores[-1]


class Reader:
    """The kept answers of an outputs folder, each read once; None where they are not there."""

    def __init__(self, outputs: Path):
        self.store = Store(outputs / "store")
        # a run is in several comparisons, and its answers take long to read and score
        self.scores = cache(self._scores)
        self.float_scores = cache(self._float_scores)
        self.divergences = cache(self._divergences)
        self.records: dict[str, RunRecord] = {}

    def know(self, records: Iterable[RunRecord]) -> None:
        """Take the records whose keys the other methods will be called with."""
        self.records |= {record.key: record for record in records}

    def _scores(self, key: str) -> dict[str, Units] | None:
        """Benchmark -> the units of a run's own answers."""
        return self._units(self.records[key].artefacts.answers)

    def _float_scores(self, key: str) -> dict[str, Units] | None:
        """Benchmark -> the units of the answers of a run's 16-bit model."""
        return self._units(self.records[key].artefacts.float_answers)

    def _units(self, answer_keys: dict[str, str]) -> dict[str, Units] | None:
        units: dict[str, Units] = {}
        try:
            for benchmark, key in answer_keys.items():
                kept = answers.read_kept(self.store.verify("evaluation", key))
                if all("error" in row for row in answers.rows_of(kept)):
                    continue  # nothing was asked: there is no score
                units[benchmark] = answers.units_of(benchmark, kept)
        except StoreError:
            return None
        return units

    def _divergences(self, key: str) -> dict[str, Units] | None:
        """Benchmark -> question -> its KL to the 16-bit model in nats per answer token."""
        units: dict[str, Units] = {}
        try:
            for benchmark, measured in self.records[key].fidelity.items():
                file = self.store.verify("fidelity", measured.key) / answers.FIDELITY
                rows = read_fidelity(file).measured
                units[benchmark] = {str(row["id"]): (row["kl"], 1.0) for row in rows}
        except StoreError:
            return None
        return units


def _propagation_label(record: RunRecord) -> str:
    return record.config.quantizer.propagation


def _quantizer_label(record: RunRecord) -> str:
    return f"{record.config.quantizer.low} under {record.config.quantizer.high}"


# axis -> the name of a record's value on it
LABELS: dict[str, Label] = {
    "weighting": lambda record: weighting_label(record.config.calibration),
    "calibration": lambda record: calibration_label(record.config.calibration),
    "order": lambda record: order_label(record.config.order),
    "propagation": _propagation_label,
    "quantizer": _quantizer_label,
}
# axis -> what the other values are compared with, if it ran
BASES = {
    "weighting": "count",
    "calibration": "text",
    "order": "entropy",
    "propagation": "exact",
}
# axis -> the settings that may differ along it; other axes are a setting or a group themselves
FREE = {
    "weighting": ("calibration.weighting", "calibration.image_factor"),
    "propagation": ("quantizer.propagation",),
    "quantizer": ("quantizer.low", "quantizer.high"),
}


def label_of(axis: str) -> Label:
    """How an axis names a record's value: those of LABELS, or any setting by its dotted name."""
    return LABELS[axis] if axis in LABELS else partial(_setting_label, axis)


def _setting_label(axis: str, record: RunRecord) -> str:
    """A setting's value, or those of a group; a ConfigError if there is no such setting."""
    settings = settings_of(record.config)
    if axis in settings:
        return str(settings[axis])
    group = {name: value for name, value in settings.items() if name.startswith(f"{axis}.")}
    if not group:
        examples = ("profile.clusters", "calibration.tokens", "calibration.alpha")
        raise unknown("axis", axis, [*LABELS, *examples])
    return str(group)


def fixed_key(record: RunRecord, axis: str) -> str:
    """The key of everything but the axis and the seeds: runs that share it are compared.

    Orders that were measured for the record only do not count.
    """
    free = FREE.get(axis, (axis,))
    if axis == "order" or record.config.order.name == "random":
        free = (*free, "profile.orders")
    return keys.digest(without(seedless(settings_of(record.config)), *free))


def along(study: Study, axis: str, reader: Reader, base: str | None = None) -> list[Comparison]:
    """Every value of an axis against one of them, best first.

    Only mixed plans count (for what calibrates and how layers are packed, one tier everywhere does
    too), and only settings that both ran with. A setting's seeds are averaged question by question.

    Args:
        study: its runs are compared.
        axis: one of LABELS, or a setting by its dotted name.
        reader: of the answers.
        base: the value that the others are compared with; None: that of `BASES`, or the first.

    Raises:
        ConfigError: there is no such axis, or no run has the base's value.
    """
    values = values_along(study, axis)
    if base is not None and base not in values:
        raise unknown(f"value of {axis}", base, values)
    if len(values) < 2:
        return []
    if base is None:
        base = _base(axis, list(values))
    comparisons = []
    for name, settings in values.items():
        if name != base and settings.keys() & values[base].keys():
            comparisons.append(against(axis, base, values[base], name, settings, reader))
    return sorted(comparisons, key=lambda comparison: -comparison.pooled.mean)


def _base(axis: str, values: list[str]) -> str:
    """The usual base of an axis if it ran, else the first value."""
    usual = BASES.get(axis, "")
    if usual in values:
        return usual
    of_entropy = [value for value in values if axis == "order" and is_entropy(value)]
    return (of_entropy or values)[0]


def values_along(study: Study, axis: str) -> dict[str, Settings]:
    """Value of the axis -> its runs by setting."""
    label = label_of(axis)
    is_of_tiers = axis == "weighting" or axis.startswith(("calibration", "quantizer."))
    # the 16-bit model is not calibrated, so a calibration set says nothing of it
    values: dict[str, Settings] = {}
    for record in study.records:
        if is_mixed(record) or (is_of_tiers and record.tiers[0] != "float16"):
            settings = values.setdefault(label(record), {})
            settings.setdefault(fixed_key(record, axis), []).append(record)
    return values


def against(
    axis: str, a: str, base: Settings, b: str, other: Settings, reader: Reader
) -> Comparison:
    """One value of an axis, b, against another, a, over the settings that both have."""
    pairs = [Pair(name_of(base[key][0]), base[key], other[key]) for key in base if key in other]
    runs_a = [run for pair in pairs for run in pair.a]
    runs_b = [run for pair in pairs for run in pair.b]
    reader.know([*runs_a, *runs_b])
    # one run without its answers makes the whole comparison unpaired: no mixture of both kinds
    by_question = _all_have(reader.scores, [*runs_a, *runs_b])
    divergence = None
    if by_question:
        scores = _paired(pairs, reader.scores)
        of_plans = [(pair.setting, _paired([pair], reader.scores)) for pair in pairs]
        if _all_have(reader.divergences, [*runs_a, *runs_b]):
            divergence = _paired(pairs, reader.divergences, scale=1)[-1]
    else:
        scores = unpaired(pairs)
        of_plans = [(pair.setting, unpaired([pair])) for pair in pairs]
    # the last difference is that of the mean; there is none where nothing is shared
    plans = [(setting, differences[-1]) for setting, differences in of_plans if differences]
    return Comparison(axis, a, b, len(runs_b), scores, divergence, plans, by_question)


def _all_have(measure: Measure, runs: list[RunRecord]) -> bool:
    """Whether something was measured of every run, and is there."""
    return all(measure(run.key) for run in runs)


def _paired(pairs: list[Pair], measure: Measure, scale: float = 100) -> list[Difference]:
    """Differences question by question, of what was measured of the runs of either side."""
    left = _averaged([pair.a for pair in pairs], measure)
    right = _averaged([pair.b for pair in pairs], measure)
    return paired(left, right, scale=scale)


def _averaged(side: list[list[RunRecord]], measure: Measure) -> dict[str, Units]:
    """Means over the seeds of each setting, and then over the settings.

    Each setting weighs the same, however many seeds it has.
    """
    settings = []
    for runs in side:
        seeds = [measure(run.key) or {} for run in runs]
        settings.append(average(seeds))
    return average(settings)


def name_of(record: RunRecord) -> str:
    """What tells a setting from its neighbours, for a reader."""
    rule = record.config.allocation.name
    return f"{rule}, k = {record.k}, {_quantizer_label(record)}"


def unpaired(pairs: list[Pair]) -> list[Difference]:
    """Differences per benchmark and of their mean, from the scores' own intervals alone.

    Each setting weighs the same.
    """
    runs = [run for pair in pairs for run in (*pair.a, *pair.b)]
    left: list[Estimate] = []
    right: list[Estimate] = []
    differences = []
    for benchmark, first in runs[0].scores.items():
        if all(benchmark in run.scores and run.scores[benchmark].was_asked for run in runs):
            left.append(_over_settings([pair.a for pair in pairs], benchmark))
            right.append(_over_settings([pair.b for pair in pairs], benchmark))
            differences.append(_difference(benchmark, left[-1], right[-1], first.n))
    if not differences:
        return []
    n = sum(difference.n for difference in differences)
    mean = _difference(MEAN, intervals.of_mean(left), intervals.of_mean(right), n)
    return [*differences, mean]


def _over_settings(side: list[list[RunRecord]], benchmark: str) -> Estimate:
    """A benchmark's mean score over the settings of one side, each the mean of its seeds."""
    of_settings = []
    for runs in side:
        of_seeds = [run.scores[benchmark].interval for run in runs]
        of_settings.append(intervals.over_runs(of_seeds))
    # all runs were asked the same questions, so more runs do not make the interval narrower
    return intervals.over_runs(of_settings)


def _difference(name: str, a: Estimate, b: Estimate, n: int) -> Difference:
    """A difference of two scores; nobody counted who won how often."""
    change, low, high = intervals.combined([(1, b), (-1, a)])
    return Difference(name, a.score, b.score, change, low, high, n, wins=0, ties=0, losses=0)


def loss(runs: list[RunRecord], reader: Reader) -> Difference | None:
    """A plan against its own 16-bit model: the mean of the benchmarks; None without answers.

    Args:
        runs: of the plan, a seed each.
        reader: of the answers.
    """
    reader.know(runs)
    if not _all_have(reader.scores, runs) or not _all_have(reader.float_scores, runs):
        return None
    float_scores = _averaged([runs], reader.float_scores)
    return paired(float_scores, _averaged([runs], reader.scores))[-1]
