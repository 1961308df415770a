"""How steady the orders are: their rankings of the layers drawn again, and beside the best one.

A draw is a calibration set: runs that differ in `calibration.seed` have different ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

from analysis import compare
from analysis.compare import Comparison, Reader
from analysis.frame import Study
from analysis.settings import calibration_label, order_label
from luq.allocation import steadiness
from luq.allocation.orders import ascending, kendall
from luq.allocation.steadiness import Agreement, agreement, places
from luq.config import ERRORS, OrderConfig, RunConfig
from luq.config.building import plain
from luq.config.order import ORDERS_OVER_TOKENS
from luq.evaluation.compare import Difference
from luq.profiling.entropies import LayerEntropy
from luq.store import keys
from pipelines.record import RunRecord

RANDOM = "random"
REVERSE = "_reverse"
MOST_PROFILES = 8  # whose K-means is repeated
TEXT = "text"  # the label of text-only calibration
# Settings of the calibration that make its kind, or tell draws of it apart.
OF_KIND = ("name", "alpha", "benchmarks", "seed")
# What is for Hessians alone, and so for orders by quantized layers.
OF_HESSIANS = ("weighting", "image_factor")


class Ranking(NamedTuple):
    """An order's ranking of the layers, by one calibration set or by the mean of several."""

    order: str
    config: OrderConfig
    kind: str  # of calibration
    settings: str  # key of what decides it, seeds and kind aside
    low: str  # the tier that it is measured in; empty for orders that need none
    draws: range  # seeds of the calibration sets
    content: str  # hash of the first set's; empty if it is not known
    places: list[int]  # by layer

    @property
    def place(self) -> tuple[str, str, str, str, range]:
        """Two with the same one are the same ranking."""
        return self.order, self.kind, self.settings, self.low, self.draws


class Steadiness(NamedTuple):
    """What is known of one order by one kind of calibration.

    `same`: between two draws of this kind, `across`: between this kind and text-only, `halves`:
    between means over halves of the draws, `expected`: of K-means alone. `best`: tau with the order
    that scores best, and `difference` the scores: this one minus the best.
    """

    order: str
    kind: str  # of calibration
    config: OrderConfig
    rankings: int  # different ones: by draws, sizes of the set, low tiers
    same: Agreement | None
    across: Agreement | None
    halves: Agreement | None
    expected: Agreement | None
    best: float | None
    difference: Difference | None

    @property
    def needs_samples(self) -> bool:
        """Whether another calibration set can give another ranking."""
        return self.config.name in (*ORDERS_OVER_TOKENS, *ERRORS)

    @property
    def can_be_averaged(self) -> bool:
        """Whether order.draws would help."""
        return self.config.name in ORDERS_OVER_TOKENS and self.config.draws == 1

    @property
    def noise(self) -> Agreement | None:
        """The best evidence of its noise that there is: of real draws, or of K-means alone."""
        return self.same or self.halves or self.expected


class Steadinesses(NamedTuple):
    """Of all orders of a study and kinds of calibration, the best order first, and its name.

    The name is empty without scores.
    """

    best: str
    entries: list[Steadiness]


def measured(study: Study, comparisons: Sequence[Comparison], reader: Reader) -> Steadinesses:
    """How steady each order of a study is. Random ones are left out.

    Args:
        study: its runs have the rankings.
        comparisons: of orders with one of them, at equal bytes.
        reader: of the answers.
    """
    groups: dict[tuple[str, str], list[Ranking]] = {}  # by order and kind of calibration
    for ranking in rankings(study):
        groups.setdefault((ranking.order, ranking.kind), []).append(ranking)
    best = _best(comparisons)
    differences: dict[str, Difference] = {}
    if best and best == comparisons[0].a:
        differences = {comparison.b: comparison.pooled for comparison in comparisons}
    elif best:
        against = compare.along(study, "order", reader, best)
        differences = {comparison.b: comparison.pooled for comparison in against}
    entries: list[Steadiness] = []
    for (order, kind), own in groups.items():
        records = [record for record in study.records if _group(record) == (order, kind)]
        of_text = groups.get((order, TEXT), []) if kind != TEXT else []
        entries.append(
            Steadiness(
                order,
                kind,
                own[0].config,
                len(own),
                _agreement([(a, b) for a, b in combinations(own, 2) if _are_draws(a, b)]),
                _agreement([(a, b) for a in own for b in of_text if a.settings == b.settings]),
                _halves(records),
                _expected(records),
                _tau(own, groups.get((best, kind), [])),
                differences.get(order),
            )
        )

    def best_first(entry: Steadiness) -> tuple[bool, float, str, str]:
        change = float("-inf") if entry.difference is None else entry.difference.mean
        return entry.order != best, -change, entry.order, entry.kind

    return Steadinesses(best, sorted(entries, key=best_first))


def _best(comparisons: Sequence[Comparison]) -> str:
    """The order with the highest mean score, each on the settings that it shares with the base."""
    differences = {comparison.b: comparison.pooled.mean for comparison in comparisons}
    differences = {name: mean for name, mean in differences.items() if not _is_random(name)}
    if not differences:
        return ""
    base = comparisons[0].a
    best = max(differences, key=lambda name: differences[name])
    return best if differences[best] > 0 or _is_random(base) else base


def _is_random(order: str) -> bool:
    return order.partition(" ")[0] == RANDOM


def rankings(study: Study) -> list[Ranking]:
    """The different rankings of a study's runs, and those of single draws of runs with several."""
    different: dict[tuple[str, str, str, str, range], Ranking] = {}
    for record in study.records:
        if not record.order or record.config.order.name == RANDOM:
            continue
        for ranking in _rankings_of(record):
            different.setdefault(ranking.place, ranking)
    return list(different.values())


def _rankings_of(record: RunRecord) -> list[Ranking]:
    order = record.config.order
    seed = record.config.calibration.seed
    whole = range(seed, seed + order.draws)
    of_record = [_ranking(record, order, whole, record.calibration_hash, record.order)]
    for number, scores in enumerate(draws_of(record)[: steadiness.MOST]):
        ranked = ascending(scores)
        if order.name.endswith(REVERSE):
            ranked = ranked[::-1]
        draw = range(seed + number, seed + number + 1)
        content = record.calibration_hash if number == 0 else ""
        of_record.append(_ranking(record, replace(order, draws=1), draw, content, ranked))
    return of_record


def _ranking(
    record: RunRecord, order: OrderConfig, draws: range, content: str, ranked: list[int]
) -> Ranking:
    config = record.config
    kind = calibration_label(config.calibration)
    low = config.quantizer.low if order.name in ERRORS else ""
    settings = keys.digest(_decisive(config, order))
    return Ranking(order_label(order), order, kind, settings, low, draws, content, places(ranked))


def _decisive(config: RunConfig, order: OrderConfig) -> dict[str, Any]:
    """The settings that decide an order, but for seeds and the kind of calibration."""
    calibration = plain(config.calibration)
    profile = plain(config.profile)
    ranking = plain(order)
    quantizer: dict[str, Any] = {}
    unread = list(OF_KIND)
    if order.name in ERRORS:
        quantizer = plain(config.quantizer)
    else:
        unread += OF_HESSIANS
    for name in unread:
        del calibration[name]
    for name in ("orders", "samples", "seed"):
        del profile[name]
    del ranking["seed"]
    return {
        "calibration": calibration,
        "profile": profile,
        "order": ranking,
        "quantizer": quantizer,
    }


def draws_of(record: RunRecord) -> list[list[float]]:
    """Of each draw of a record's order the score per layer; none if it has one draw."""
    table = record.draw_scores.get(record.config.order.name.removesuffix(REVERSE), [])
    layers = len(record.order)
    return table if all(len(scores) == layers for scores in table) else []


def _group(record: RunRecord) -> tuple[str, str]:
    """Order and kind of calibration."""
    return order_label(record.config.order), calibration_label(record.config.calibration)


def _agreement(pairs: Sequence[tuple[Ranking, Ranking]]) -> Agreement | None:
    """What pairs of rankings say together; None if there is none."""
    taus = [kendall(a.places, b.places) for a, b in pairs]
    return agreement(taus) if taus else None


def _are_draws(a: Ranking, b: Ranking) -> bool:
    """Whether two rankings of a kind differ in nothing but their draws, and share none of these."""
    share_draws = a.draws.start < b.draws.stop and b.draws.start < a.draws.stop
    share_content = bool(a.content) and a.content == b.content
    return a.settings == b.settings and not share_draws and not share_content


def _tau(own: Sequence[Ranking], others: Sequence[Ranking]) -> float | None:
    """The mean tau of an order with another one of the same kind of calibration and low tier.

    Of the same first draws, where there are such.
    """
    pairs: list[tuple[Ranking, Ranking]] = []
    for a in own:
        for b in others:
            if a.low == b.low or not a.low or not b.low:
                pairs.append((a, b))
    of_same_draw = [(a, b) for a, b in pairs if a.draws.start == b.draws.start]
    taus = [kendall(a.places, b.places) for a, b in of_same_draw or pairs]
    return agreement(taus).mean if taus else None


def _halves(records: Sequence[RunRecord]) -> Agreement | None:
    """Between means over halves of the draws, of the first record that has draws."""
    for record in records:
        if draws_of(record):
            return steadiness.between_halves(draws_of(record))
    return None


def _expected(records: Sequence[RunRecord]) -> Agreement | None:
    """What is to be expected of K-means alone, over profiles of one calibration set each."""
    if not records:  # of single draws of a mean
        return None
    order = records[0].config.order
    if order.draws > 1 or not order.name.startswith("entropy"):
        return None
    # of one number of repetitions, most often the only one
    repetitions = records[0].config.profile.seeds
    profiles: dict[str | None, list[LayerEntropy]] = {}
    for record in records:
        if record.profile and record.config.profile.seeds == repetitions:
            profiles.setdefault(record.artefacts.profile, record.profile)
    chosen = list(profiles.values())[:MOST_PROFILES]
    return steadiness.of_k_means(chosen, order.modality, repetitions) if chosen else None
