"""Runs that differ in one thing only, question by question: calibration, order, propagation, ..."""

import copy
import math
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from analysis.frame import MEAN, Study, order_label, seedless
from analysis.pareto import Z
from luq.errors import StoreError, unknown
from luq.evaluation import answers
from luq.evaluation.compare import Difference, Units, average, paired
from luq.store import keys
from luq.store.store import Store
from pipelines.results import Record

Label = Callable[[Record], str]
Settings = dict[str, list[Record]]  # everything but the axis -> its runs


class Comparison(NamedTuple):
    """B against A over the settings that both ran with. `plans` is one difference of the mean per setting.

    Where the answers are gone `by_question` is false: the intervals then come from the standard errors, which are wider.
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
        return self.scores[-1]


class Reader:
    """The kept answers of an outputs folder, each read once; None where they are not there."""

    def __init__(self, outputs: Path):
        self.store = Store(outputs / "store")
        self.scores = cache(self._scores)
        self.divergences = cache(self._divergences)
        self.records: dict[str, Record] = {}

    def know(self, records: Iterable[Record]) -> None:
        self.records |= {record["key"]: record for record in records}

    def _read(self, what: Callable[..., dict[str, Units]], *where: Any) -> dict[str, Units] | None:
        try:
            return what(self.store, *where)
        except StoreError:
            return None

    def _scores(self, key: str, whose: str = answers.REPORT) -> dict[str, Units] | None:
        return self._read(answers.scores, self.records[key], whose)

    def _divergences(self, key: str) -> dict[str, Units] | None:
        return self._read(answers.divergences, self.records[key])


def calibration_label(record: Record) -> str:
    """`text`, or the name of the multimodal set with its share of multimodal tokens, `multimodal 0.5`."""
    calibration = record["config"]["calibration"]
    text = calibration["name"] == "text" or calibration["alpha"] == 0
    return "text" if text else f"{calibration['name']} {calibration['alpha']:g}"


def weighting_label(record: Record) -> str:
    """`count`, `balance`, or `factor` with what an image token counts."""
    calibration = record["config"]["calibration"]
    name = str(calibration.get("weighting", "count"))
    return f"{name} {calibration['image_factor']:g}" if name == "factor" else name


LABELS: dict[str, Label] = {
    "weighting": weighting_label,
    "calibration": calibration_label,
    "order": lambda r: order_label(r["config"]),
    "propagation": lambda r: r["config"]["quantizer"]["propagation"],
    "quantizer": lambda r: (
        f"{r['config']['quantizer']['low']} under {r['config']['quantizer']['high']}"
    ),
}
BASES = {
    "weighting": "count",
    "calibration": "text",
    "order": "entropy",
    "propagation": "exact",
}  # what the others are compared with, if it ran


def label_of(axis: str) -> Label:
    """How an axis names a record's value: those of LABELS, or any setting by its dotted name. A ConfigError if it is none."""
    if axis in LABELS:
        return LABELS[axis]

    def setting(record: Record) -> str:
        value: Any = record["config"]
        for part in axis.split("."):
            if not isinstance(value, dict) or part not in value:
                raise unknown(
                    "axis",
                    axis,
                    [*LABELS, "profile.clusters", "calibration.tokens", "calibration.alpha"],
                )
            value = value[part]
        return str(value)

    return setting


def rest(record: Record, axis: str) -> str:
    """Everything but the axis and the seeds: runs that share it are compared. Orders measured for the record do not count."""
    config = copy.deepcopy(seedless(record["config"]))
    hidden = {
        "propagation": ["quantizer.propagation"],
        "quantizer": ["quantizer.low", "quantizer.high"],
        "weighting": ["calibration.weighting", "calibration.image_factor"],
    }.get(axis, [axis])
    if axis == "order" or config["order"]["name"] == "random":
        hidden = [*hidden, "profile.orders"]
    for name in hidden:
        place, parts = config, name.split(".")
        for part in parts[:-1]:
            place = place[part]
        place[parts[-1]] = None
    return keys.key(config)


def along(study: Study, axis: str, reader: Reader, base: str | None = None) -> list[Comparison]:
    """Every value of an axis against the base (`BASES`, or the first), best first.

    Only mixed plans count (for what calibrates, one tier everywhere does too), and only settings that both ran with. A setting's
    seeds are averaged question by question.
    """
    label, found = label_of(axis), dict[str, Settings]()
    uniform = axis == "weighting" or axis.startswith("calibration")
    for record in study.records:
        tiers = set(record["tiers"])
        if len(tiers) > 1 or (uniform and tiers != {"float16"}):
            found.setdefault(label(record), {}).setdefault(rest(record, axis), []).append(record)
    if base is not None and base not in found:
        raise unknown(f"value of {axis}", base, found)
    if len(found) < 2:
        return []
    chosen = base or (BASES.get(axis) if BASES.get(axis) in found else next(iter(found)))
    assert chosen is not None
    others = [name for name in found if name != chosen]
    made = [
        against(axis, chosen, found[chosen], name, found[name], reader)
        for name in others
        if found[name].keys() & found[chosen].keys()
    ]
    return sorted(made, key=lambda c: -c.pooled.mean)


def against(
    axis: str, a: str, base: Settings, b: str, other: Settings, reader: Reader
) -> Comparison:
    """One value against another, over the settings that both have."""
    pairs = [(name_of(base[s][0]), (base[s], other[s])) for s in base if s in other]
    ours, theirs = ([r for _, pair in pairs for r in pair[side]] for side in (0, 1))
    reader.know([*ours, *theirs])
    read = [[reader.scores(r["key"]) for r in side] for side in (ours, theirs)]
    by_question = all(found is not None for side in read for found in side)
    if not by_question:
        single = [(setting, unpaired([pair])) for setting, pair in pairs]
        whole = unpaired([pair for _, pair in pairs])
        return Comparison(
            axis,
            a,
            b,
            len(theirs),
            whole,
            None,
            [(setting, found[-1]) for setting, found in single],
            by_question,
        )

    def mean(side: list[list[Record]], of: Callable[[str], Any]) -> dict[str, Units]:
        """Over the seeds of each setting, and then over the settings: each weighs the same, however many seeds it has."""
        return average([average([of(r["key"]) for r in runs]) for runs in side])

    left, right = [pair[0] for _, pair in pairs], [pair[1] for _, pair in pairs]
    plans = [
        (s, paired(mean([one], reader.scores), mean([two], reader.scores))[-1])
        for s, (one, two) in pairs
    ]
    known = all(reader.divergences(r["key"]) for r in (*ours, *theirs))
    far = (
        paired(mean(left, reader.divergences), mean(right, reader.divergences), scale=1)[-1]
        if known
        else None
    )
    scores = paired(mean(left, reader.scores), mean(right, reader.scores))
    return Comparison(axis, a, b, len(theirs), scores, far, plans, True)


def name_of(record: Record) -> str:
    """What tells a setting from its neighbours, for a reader."""
    config = record["config"]
    return f"{config['allocation']['name']}, k = {record['k']}, {config['quantizer']['low']} under {config['quantizer']['high']}"


def unpaired(pairs: list[tuple[list[Record], list[Record]]]) -> list[Difference]:
    """Differences per benchmark and of their mean, from scores and standard errors alone; each setting weighs the same."""
    every = [r for pair in pairs for side in pair for r in side]
    found = []
    for name in (n for n in every[0]["scores"] if all(n in r["scores"] for r in every)):
        means, errors = [], []
        for side in (0, 1):
            settings = [[r["scores"][name] for r in pair[side]] for pair in pairs]
            means.append(fmean(fmean(s["score"] for s in runs) for runs in settings))
            errors.append(
                fmean(fmean(s["stderr"] ** 2 for s in runs) for runs in settings)
            )  # one set of questions
        found.append(
            _normal(name, means[0], means[1], math.sqrt(sum(errors)), every[0]["scores"][name]["n"])
        )
    spread = math.sqrt(sum(((d.high - d.low) / 2 / Z) ** 2 for d in found)) / len(found)
    before, after = (fmean(getattr(d, side) for d in found) for side in "ab")
    return [*found, _normal(MEAN, before, after, spread, sum(d.n for d in found))]


def _normal(name: str, a: float, b: float, error: float, n: int) -> Difference:
    return Difference(name, a, b, b - a, b - a - Z * error, b - a + Z * error, n, 0, 0, 0)


def loss(record: Record, reader: Reader) -> Difference | None:
    """A run against its own 16-bit model, question by question: the mean of the benchmarks; None without answers."""
    reader.know([record])
    mine, original = reader.scores(record["key"]), reader.scores(record["key"], answers.FLOAT)
    return paired(original, mine)[-1] if mine and original else None
