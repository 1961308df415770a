"""Layers: their entropy over depth, how alike the orders rank them, and their linears' tiers."""

from collections import Counter

import pandas as pd

from analysis.charts import Heat, Lines
from analysis.frame import Study
from analysis.loading import is_mixed
from analysis.settings import calibration_label, order_label
from luq.allocation.allocations import Allocation
from luq.allocation.orders import kendall
from luq.config import QuantizerConfig
from pipelines.record import RunRecord

MODALITIES = {"all": "all tokens", "image": "image tokens", "text": "text tokens"}


def profiled(study: Study) -> dict[str, RunRecord]:
    """One record per calibration set, of the most common number of clusters.

    Multimodal sets come first; of a set's records one whose plan follows the entropy, then the
    smallest seed.
    """
    records = [record for record in study.records if record.profile]
    clusters = Counter(record.profile[0].clusters for record in records)
    if not clusters:
        return {}
    usual = clusters.most_common(1)[0][0]
    records = [record for record in records if record.profile[0].clusters == usual]
    records.sort(key=_profile_rank)
    # the last of a name stays, so the best ones come last
    return {calibration_label(r.config.calibration): r for r in reversed(records)}


def _profile_rank(record: RunRecord) -> tuple[bool, bool, int]:
    is_text = calibration_label(record.config.calibration) == "text"
    return is_text, not _follows_entropy(record), record.config.seed


def _follows_entropy(record: RunRecord) -> bool:
    """Whether the record's low layers are those of the lowest entropy."""
    order = record.config.order
    return (order.name, order.modality) == ("entropy", "all") and is_mixed(record)


def _entropy_sets(records: dict[str, RunRecord]) -> list[str]:
    """The calibration sets of the entropy figure: a multimodal one, and text-only."""
    names = []
    multimodal = [name for name in records if name != "text"]
    if multimodal:
        names.append(max(multimodal, key=lambda name: _follows_entropy(records[name])))
    if "text" in records:
        names.append("text")
    return names


def _draws_words(record: RunRecord) -> str:
    """Of a mean over several calibration sets how many they are."""
    draws = record.config.order.draws
    return f", {draws} draws" if draws > 1 else ""


def _spread_words(records: list[RunRecord]) -> str:
    """What the spreads of some profiles are over."""
    several = [record.config.order.draws > 1 for record in records]
    if all(several):
        return "the draws of the calibration set"
    return (
        "K-means seeds, or over draws where there are several" if any(several) else "K-means seeds"
    )


def entropy_chart(study: Study) -> Lines | None:
    """Entropy per layer and modality, with its spread over K-means seeds, or over draws.

    Open marks are the layers that a plan put in the low tier.
    """
    records = profiled(study)
    names = _entropy_sets(records)
    if not names:
        return None
    marked = records[names[0]]
    low_tier = marked.config.quantizer.low
    low_layers: set[int] = set()
    if _follows_entropy(marked):
        low_layers = {layer for layer, tier in enumerate(marked.tiers) if tier == low_tier}
    rows = []
    for name in names:
        draws = _draws_words(records[name])
        for entropy in records[name].profile:
            of_all = entropy.modality == "all"
            # of text-only sets all tokens are text tokens: one line says it
            if name == "text" and not of_all:
                continue
            is_low = entropy.layer in low_layers and of_all and name == names[0]
            rows.append(
                {
                    "series": f"{MODALITIES[entropy.modality]}, {name} calibration{draws}",
                    "x": entropy.layer,
                    "y": entropy.mean,
                    "hollow": is_low,
                    "low": entropy.mean - entropy.spread,
                    "high": entropy.mean + entropy.spread,
                }
            )
    first = marked.profile[0]
    caption = (
        f"K = {first.clusters}, {first.tokens} vectors per layer and modality; "
        f"bars: spread over {_spread_words([records[name] for name in names])}. "
    )
    if low_layers:
        caption += f"Open: the {len(low_layers)} layers in {low_tier} in {marked.name}."
    table = pd.DataFrame(rows)
    return Lines(
        "entropy",
        "Activation entropy per layer",
        caption,
        table,
        "decoder layer",
        "entropy, bits",
        joined=frozenset(table["series"]),
        hollow="low tier",
        whole=True,
    )


def orders(study: Study) -> dict[str, list[int]]:
    """Order -> its layers, most compressible first.

    Of the calibration set, low tier and number of clusters that have most orders; random ones are
    left out.
    """
    groups: dict[tuple[str, str, int], dict[str, list[int]]] = {}
    for record in study.records:
        config = record.config
        if is_mixed(record) and config.order.name != "random" and config.profile.clusters:
            place = (record.calibration_hash, config.quantizer.low, config.profile.clusters)
            group = groups.setdefault(place, {})
            group.setdefault(order_label(config.order), record.order)
    return max(groups.values(), key=len, default={})


def correlation_chart(study: Study) -> Heat | None:
    """Kendall's tau between the orders' rankings of the layers."""
    ranked = {}
    for name, order in sorted(orders(study).items()):
        ranked[name] = [order.index(layer) for layer in range(len(order))]
    # two orders have one correlation, which is no picture
    if len(ranked) < 3:
        return None
    rows = []
    for name, places in ranked.items():
        for other, other_places in ranked.items():
            tau = kendall(places, other_places)
            rows.append({"row": name, "column": other, "value": tau, "text": f"{tau:.2f}"})
    layers = len(next(iter(ranked.values())))
    return Heat(
        "correlations",
        "How alike the orders rank the layers",
        f"1: the same ranking of the {layers} layers, 0: unrelated, -1: the reverse.",
        pd.DataFrame(rows),
        "Kendall's tau",
        low=-1,
        high=1,
        middle=0,
    )


def places_chart(study: Study) -> Heat | None:
    """Where each order puts each layer: 1 goes low first."""
    ranked = orders(study)
    if len(ranked) < 2:
        return None
    rows = []
    for name, order in ranked.items():
        for layer in range(len(order)):
            place = order.index(layer) + 1
            rows.append({"row": name, "column": str(layer), "value": place, "text": str(place)})
    return Heat(
        "places",
        "Place of each layer in each order",
        "1: the first layer to go to the low tier.",
        pd.DataFrame(rows),
        "place",
        low=1,
        high=len(next(iter(ranked.values()))),
    )


def tiers_chart(study: Study) -> Heat | None:
    """The tier of every linear, linears x layers: of the plan with the best score that has tiers
    within layers.
    """
    records = [record for record in study.records if record.other_tiers and record.plan.linears]
    if not records:
        return None
    record = max(records, key=lambda record: (record.mean_score, record.key))
    allocation = Allocation(tuple(record.tiers), tuple(record.other_tiers))
    numbers = _numbers_of_tiers(allocation, record.config.quantizer)
    rows = []
    for linear in record.plan.linears:
        for layer in range(len(allocation.tiers)):
            number = numbers[allocation.tier_of(layer, linear)]
            rows.append(
                {
                    "row": linear.rpartition(".")[2],
                    "column": str(layer),
                    "value": number,
                    "text": f"{number:g}",
                }
            )
    names = ", ".join(f"{number:g}: {tier}" for tier, number in numbers.items())
    return Heat(
        "linear_tiers",
        "The tier of every linear",
        f"{record.name}, {record.memory.stored_bits:.2f} stored bits, by decoder layer. {names}.",
        pd.DataFrame(rows),
        "bits",
        low=min(numbers.values()) - 1,  # the lightest colour is for less than all
        high=max(numbers.values()),
    )


def _numbers_of_tiers(allocation: Allocation, quantizer: QuantizerConfig) -> dict[str, float]:
    """The bits of the tiers that occur, lowest first; 1, 2 .. if one says no bits."""
    bits: dict[str, float] = {}
    for name in sorted(allocation.names()):
        value = getattr(quantizer.tiers[name], "bits", None)
        if value is None:
            return {name: i for i, name in enumerate(sorted(allocation.names()), start=1)}
        bits[name] = float(value)
    return dict(sorted(bits.items(), key=lambda item: item[1]))
