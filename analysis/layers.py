"""What the profiles say of the layers: entropy over depth, which layers a plan chose, how alike the orders rank."""

from collections import Counter

import pandas as pd
from scipy.stats import kendalltau

from analysis.charts import Heat, Lines
from analysis.compare import calibration_label
from analysis.frame import Study, order_label
from pipelines.results import Record

MODALITIES = {"all": "all tokens", "image": "image tokens", "text": "text tokens"}


def profiled(study: Study) -> dict[str, Record]:
    """One record per calibration set, that of the most common number of clusters; multimodal ones first."""
    clusters = Counter(r["profile"][0]["clusters"] for r in study.records if r["profile"])
    if not clusters:
        return {}
    usual = clusters.most_common(1)[0][0]
    mine = [r for r in study.records if r["profile"] and r["profile"][0]["clusters"] == usual]
    mine.sort(key=lambda r: (calibration_label(r) == "text", not _explains(r), r["config"]["seed"]))
    return {calibration_label(r): r for r in reversed(mine)}


def _explains(record: Record) -> bool:
    """Whether the record's low layers are those of the lowest entropy."""
    return order_label(record["config"]) == "entropy" and len(set(record["tiers"])) > 1


def entropy_chart(study: Study) -> Lines | None:
    """Entropy per layer and modality with its spread over K-means seeds; open: the layers that a plan put in the low tier."""
    records = profiled(study)
    rows = []
    multimodal = [name for name in records if name != "text"]
    shown = [
        *([max(multimodal, key=lambda n: _explains(records[n]))] if multimodal else []),
        *(["text"] if "text" in records else []),
    ]
    if not shown:
        return None
    marked = records[shown[0]]
    low = (
        {i for i, t in enumerate(marked["tiers"]) if t == marked["config"]["quantizer"]["low"]}
        if _explains(marked)
        else set()
    )
    for name in shown:
        for e in records[name]["profile"]:
            if name == "text" and e["modality"] != "all":
                continue
            series = f"{MODALITIES[e['modality']]}, {name} calibration"
            spread = {"low": e["mean"] - e["spread"], "high": e["mean"] + e["spread"]}
            hollow = e["layer"] in low and name == shown[0] and e["modality"] == "all"
            rows.append(
                {"series": series, "x": e["layer"], "y": e["mean"], "hollow": hollow, **spread}
            )
    first = marked["profile"][0]
    caption = f"K = {first['clusters']}, {first['tokens']} vectors per layer and modality; bars: spread over K-means seeds. "
    if low:
        caption += f"Open: the {len(low)} layers in {marked['config']['quantizer']['low']} in {marked['name']}."
    table = pd.DataFrame(rows)
    title = "Activation entropy per layer"
    return Lines(
        "entropy",
        title,
        caption,
        table,
        "decoder layer",
        "entropy, bits",
        joined=frozenset(table["series"]),
        hollow="low tier",
    )


def orders(study: Study) -> dict[str, list[int]]:
    """Order -> its layers, most compressible first; of the calibration set that has most of them. Random ones are left out."""
    found: dict[str, dict[str, list[int]]] = {}
    for record in study.records:
        config = record["config"]
        if (
            len(set(record["tiers"])) > 1
            and config["order"]["name"] != "random"
            and config["profile"]["clusters"]
        ):
            group = found.setdefault(
                f"{record['calibration']['hash']} {config['quantizer']['low']} {config['profile']['clusters']}",
                {},
            )
            group.setdefault(order_label(config), record["order"])
    return max(found.values(), key=len) if found else {}


def correlation_chart(study: Study) -> Heat | None:
    """Kendall's tau between the orders' rankings of the layers."""
    ranked = {
        name: [order.index(layer) for layer in range(len(order))]
        for name, order in sorted(orders(study).items())
    }
    if len(ranked) < 3:
        return None
    rows = []
    for a, left in ranked.items():
        for b, right in ranked.items():
            tau = float(kendalltau(left, right).statistic)
            rows.append({"row": a, "column": b, "value": tau, "text": f"{tau:.2f}"})
    layers = len(next(iter(ranked.values())))
    caption = f"1: the same ranking of the {layers} layers, 0: unrelated, -1: the reverse."
    return Heat(
        "correlations",
        "How alike the orders rank the layers",
        caption,
        pd.DataFrame(rows),
        "Kendall's tau",
        -1,
        1,
        0,
    )


def places_chart(study: Study) -> Heat | None:
    """Where each order puts each layer: 1 goes low first."""
    ranked = orders(study)
    if len(ranked) < 2:
        return None
    rows = [
        {
            "row": name,
            "column": str(layer),
            "value": order.index(layer) + 1,
            "text": str(order.index(layer) + 1),
        }
        for name, order in ranked.items()
        for layer in range(len(order))
    ]
    layers = len(next(iter(ranked.values())))
    caption = "1: the first layer to go to the low tier."
    return Heat(
        "places",
        "Place of each layer in each order",
        caption,
        pd.DataFrame(rows),
        "place",
        1,
        layers,
    )
