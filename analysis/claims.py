"""The paper's four claims on one model: numbers with their intervals, and a verdict on each.

A verdict is `yes`, `no`, or `cannot tell` where the interval holds 0 (that of a loss: the limit).
Intervals are over questions and, where calibration sets or random orders were drawn several times,
over the draws too: the distances of both kinds of ends add in squares.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import NamedTuple

from analysis import compare
from analysis.compare import LABELS, Comparison, Reader, Settings
from analysis.frame import Study
from analysis.loading import is_mixed
from analysis.settings import is_entropy, seedless, settings_of, without
from analysis.steadiness import RANDOM, TEXT, Steadinesses
from luq.allocation.orders import kendall
from luq.allocation.steadiness import places
from luq.evaluation import intervals
from luq.evaluation.compare import Difference
from luq.evaluation.intervals import Estimate
from luq.profiling.entropies import LayerEntropy
from luq.store import keys
from pipelines.record import RunRecord

YES = "yes"
NO = "no"
OPEN = "cannot tell"
IMAGE = "image"  # modalities of tokens
WORDS = "text"
# Orders by what each layer alone does to the model: the first that was run is the measured best.
MEASURED = ("kl", "delta_loss")
# What a profile does not depend on, of its settings.
NOT_OF_PROFILES = ("profile.orders", "profile.samples")


def verdict(difference: Estimate) -> str:
    """Whether something is above 0: `yes`, `no`, or `cannot tell` if its interval holds 0."""
    if difference.low > 0:
        return YES
    if difference.high < 0:
        return NO
    return OPEN


def together(verdicts: Iterable[str]) -> str:
    """Of a claim on several things: `no` if one is, `yes` if all are, else `cannot tell`."""
    distinct = set(verdicts)
    if NO in distinct:
        return NO
    return YES if distinct == {YES} else OPEN


def estimate_of(difference: Difference) -> Estimate:
    """A difference with its interval alone."""
    return Estimate(difference.mean, difference.low, difference.high)


class Entropies(NamedTuple):
    """Image tokens' entropy minus text tokens', by one kind of calibration.

    `difference`: the mean over layers, in bits, with its interval over `draws` of the calibration
    set, or over the `repetitions` of K-means if there is one draw. `higher`: in how many of the
    layers image tokens' is the higher one, of means over the draws. `vectors`: that were clustered
    of each layer and modality, as many of images as of text.
    """

    kind: str
    draws: int
    repetitions: int
    vectors: int
    layers: int
    higher: int
    difference: Estimate

    @property
    def verdict(self) -> str:
        return verdict(self.difference)


def entropies(study: Study) -> list[Entropies]:
    """The first claim, a row per kind of calibration; the kind with most draws first."""
    # kind of calibration, settings -> hash of a calibration set -> a run that profiled it
    groups: dict[tuple[str, str], dict[str, RunRecord]] = {}
    for record in study.records:
        pairs = _image_and_text(record.profile)
        if record.config.order.draws == 1 and pairs:
            place = (LABELS["calibration"](record), _profile_settings(record))
            groups.setdefault(place, {}).setdefault(record.calibration_hash, record)
    rows = [_entropies(kind, list(draws.values())) for (kind, _), draws in groups.items()]
    return sorted(rows, key=lambda row: -row.draws)


def _profile_settings(record: RunRecord) -> str:
    """The key of all but seeds that decides a profile of a given kind of calibration."""
    settings = without(seedless(settings_of(record.config)), *NOT_OF_PROFILES)
    decisive = {
        name: value
        for name, value in settings.items()
        if name.startswith(("calibration.", "profile."))
    }
    return keys.digest(decisive)


def _image_and_text(profile: Sequence[LayerEntropy]) -> list[tuple[LayerEntropy, LayerEntropy]]:
    """Each layer's entropies of image and of text tokens; none if their numbers differ."""
    of_images = [entry for entry in profile if entry.modality == IMAGE]
    of_text = [entry for entry in profile if entry.modality == WORDS]
    if len(of_images) != len(of_text):
        return []
    pairs = list(zip(of_images, of_text, strict=True))
    are_equal = all(image.tokens == text.tokens for image, text in pairs)
    return pairs if are_equal else []


def _entropies(kind: str, draws: Sequence[RunRecord]) -> Entropies:
    """What some draws of one kind of calibration say together."""
    first = _image_and_text(draws[0].profile)
    layers = len(first)
    repetitions = draws[0].config.profile.seeds
    gaps = []  # [draws, layers], bits
    for record in draws:
        pairs = _image_and_text(record.profile)
        gaps.append([image.mean - text.mean for image, text in pairs])
    if len(draws) > 1:
        difference = intervals.of_draws([fmean(gap) for gap in gaps])
    else:
        # Layers and modalities are clustered apart. The spread s over n repetitions has n in its
        # denominator: the squared error of a layer's mean is s^2 / (n - 1).
        variance = sum(image.spread**2 + text.spread**2 for image, text in first)
        error = sqrt(variance / max(repetitions - 1, 1)) / layers
        difference = intervals.student(fmean(gaps[0]), error, repetitions)
    mean_gaps = [fmean(of_layer) for of_layer in zip(*gaps, strict=True)]
    return Entropies(
        kind,
        len(draws),
        repetitions,
        min(image.tokens for image, _ in first),
        layers,
        sum(gap > 0 for gap in mean_gaps),
        difference,
    )


class Contrast(NamedTuple):
    """What is claimed to be better against another: two orders, or two calibration sets.

    `comparison`: the claimed one minus the other, over questions. `interval`: of its points of the
    mean score, over questions and draws. `setting`: what both share beside the tiers, the kind of
    calibration or the order. `tau`: of the other order with the measured best, `own_tau`: of the
    claimed one. `is_noise`: the order of entropy that they rest on is within its noise.
    """

    tiers: str
    setting: str
    claimed: str
    other: str
    comparison: Comparison
    interval: Estimate
    draws: int
    other_draws: int
    is_noise: bool = False
    tau: float | None = None
    own_tau: float | None = None

    @property
    def has_draws(self) -> bool:
        """Whether the interval is over draws, too."""
        return max(self.draws, self.other_draws) > 1

    @property
    def verdict(self) -> str:
        if self.is_noise and self.draws == 1:
            return OPEN  # another draw of the order could have another verdict
        return verdict(self.interval)


def orders(study: Study, steadiness: Steadinesses, reader: Reader) -> list[Contrast]:
    """The second claim: low entropy first against every other order, by pairs of tiers.

    With the kind of calibration under which most orders were run.
    """
    contrasts: list[Contrast] = []
    for tiers, records in _mixes(study).items():
        by_kind = _grouped(records, "calibration")
        of_kinds = {
            kind: compare.values_along(study._replace(records=group), "order")
            for kind, group in by_kind.items()
        }
        kind = max(of_kinds, key=lambda name: len(of_kinds[name]))
        values = of_kinds[kind]
        claimed = next((order for order in values if is_entropy(order)), None)
        if claimed is None:
            continue
        taus = _taus(values)
        for other in values:
            contrast = _contrast("order", tiers, kind, claimed, other, values, reader)
            if contrast is not None:
                contrasts.append(
                    contrast._replace(
                        is_noise=_is_noise(claimed, kind, steadiness),
                        tau=taus.get(other),
                        own_tau=taus.get(claimed),
                    )
                )
    return contrasts


def calibrations(study: Study, steadiness: Steadinesses, reader: Reader) -> list[Contrast]:
    """The third claim: multimodal against text-only calibration, by pairs of tiers and orders.

    The order of entropy first: there another calibration set chooses other layers, too.
    """
    contrasts: list[Contrast] = []
    for tiers, records in _mixes(study).items():
        by_order = _grouped(records, "order")
        for order in sorted(by_order, key=lambda name: not is_entropy(name)):
            values = compare.values_along(study._replace(records=by_order[order]), "calibration")
            for kind in values:
                contrast = _contrast("calibration", tiers, order, kind, TEXT, values, reader)
                if contrast is not None:
                    is_noise = _is_noise(order, kind, steadiness)
                    contrasts.append(contrast._replace(is_noise=is_noise))
    return contrasts


def _is_noise(order: str, kind: str, steadiness: Steadinesses) -> bool:
    """Whether an order by a kind of calibration is known to be within its noise."""
    for entry in steadiness.entries:
        if (entry.order, entry.kind) == (order, kind) and entry.noise is not None:
            return entry.noise.is_noise
    return False


def _mixes(study: Study) -> dict[str, list[RunRecord]]:
    """Pair of tiers -> the runs that mix them."""
    mixed = [record for record in study.records if is_mixed(record)]
    return _grouped(mixed, "quantizer")


def _grouped(records: Iterable[RunRecord], axis: str) -> dict[str, list[RunRecord]]:
    """Value of an axis -> the runs that have it."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(LABELS[axis](record), []).append(record)
    return groups


def _contrast(
    axis: str,
    tiers: str,
    setting: str,
    claimed: str,
    other: str,
    values: Mapping[str, Settings],
    reader: Reader,
) -> Contrast | None:
    """The claimed value of an axis against another; None if no setting ran with both."""
    if claimed == other or other not in values:
        return None
    shared = values[claimed].keys() & values[other].keys()
    if not shared:
        return None
    own = {key: values[claimed][key] for key in sorted(shared)}
    others = {key: values[other][key] for key in sorted(shared)}
    comparison = compare.against(axis, other, others, claimed, own, reader)
    if not comparison.scores:
        return None
    own_scores = by_draw(own.values())
    other_scores = by_draw(others.values())
    interval = over_draws(estimate_of(comparison.pooled), own_scores, other_scores)
    return Contrast(
        tiers, setting, claimed, other, comparison, interval, len(own_scores), len(other_scores)
    )


class Draw(NamedTuple):
    """What was drawn for a run beside the questions."""

    is_order: bool  # a random order, and not a calibration set
    seed: int


def by_draw(settings: Iterable[Sequence[RunRecord]]) -> dict[Draw, float]:
    """The mean score of each draw that all of some settings have, over these settings."""
    tables = []
    for runs in settings:
        scores: dict[Draw, list[float]] = {}
        for run in runs:
            scores.setdefault(_draw_of(run), []).append(run.mean_score)
        tables.append({draw: fmean(of_draw) for draw, of_draw in scores.items()})
    draws = [draw for draw in tables[0] if all(draw in table for table in tables)]
    return {draw: fmean(table[draw] for table in tables) for draw in draws}


def _draw_of(record: RunRecord) -> Draw:
    if record.config.order.name == RANDOM:
        return Draw(True, record.config.order.seed)
    return Draw(False, record.config.calibration.seed)


def over_draws(
    difference: Estimate, scores: Mapping[Draw, float], other_scores: Mapping[Draw, float]
) -> Estimate:
    """A difference whose interval is over questions, with one over questions and draws.

    Draws that both sides have are pairs; else the draws of each side vary alone. A side with one
    draw adds nothing, since nothing is known of its spread.

    Args:
        difference: with its interval over questions.
        scores: of one side by draw.
        other_scores: of the side that it is compared with.
    """
    spreads: list[Estimate] = []
    if scores.keys() == other_scores.keys() and len(scores) > 1:
        spreads.append(intervals.of_draws([scores[draw] - other_scores[draw] for draw in scores]))
    else:
        for side in (scores, other_scores):
            if len(side) > 1:
                spreads.append(intervals.of_draws(list(side.values())))
    terms = [(1.0, difference)]
    for spread in spreads:
        # the mean of the draws is in the difference already: what they add is an interval of 0
        deviation = Estimate(0.0, spread.low - spread.score, spread.high - spread.score)
        terms.append((1.0, deviation))
    return intervals.combined(terms)


def _taus(values: Mapping[str, Settings]) -> dict[str, float]:
    """Order -> its mean Kendall's tau with the measured best, over its different rankings."""
    rankings: dict[str, set[tuple[int, ...]]] = {}
    for order, settings in values.items():
        runs = [run for of_setting in settings.values() for run in of_setting]
        rankings[order] = {tuple(run.order) for run in runs if run.order}
    best = next((order for order in MEASURED if rankings.get(order)), None)
    if best is None:
        return {}
    taus: dict[str, float] = {}
    for order, own in rankings.items():
        of_pairs = [kendall(places(a), places(b)) for a in own for b in rankings[best]]
        if of_pairs:
            taus[order] = fmean(of_pairs)
    return taus
