"""What the report says in words, computed from the data: findings, what was run, how to read it, and what it does not show."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.compare import Comparison, Reader, loss
from analysis.frame import BASE, Study
from analysis.pareto import ParetoInfo
from luq.evaluation.compare import Difference

PROMISE_SIZE, PROMISE_LOSS = (
    0.40,
    0.10,
)  # the paper: 40 % less memory than 4-bit with under 10 % loss
CONTRAST = {"better": "beats", "worse": "loses to", "tie": "ties with"}


def points(d: Difference) -> str:
    return f"{d.mean:+.1f} points, 95 % interval {d.low:+.1f} to {d.high:+.1f}"


def headline(study: Study, info: ParetoInfo, reader: Reader) -> list[str]:
    """Sentences on the claim of the paper, by bytes of files."""
    table = info.points.assign(saved=_saved(info.points))
    good = table[~table["collapsed"] & (table["retention"] >= 1 - PROMISE_LOSS)].sort_values(
        "bytes"
    )
    if good.empty:
        return ["No plan keeps 90 % of the 16-bit score."]
    best = good.iloc[0]
    than = (
        f", {abs(100 * best['saved']):.1f} % {'less' if best['saved'] >= 0 else 'more'} than {BASE}"
    )
    keeps = f"keeps {100 * best['retention']:.1f} % of the 16-bit score"
    if lost := _loss(study, str(best["plan"]), reader):
        keeps += f" ({points(lost)})"
    size = f"{_size(best['bytes'])} whole{than if pd.notna(best['saved']) else ''}"
    said = [
        f"The smallest plan within 10 % of the 16-bit score is {best['label']}: {size}; it {keeps}."
    ]
    mixed = good[good["mixed"]]
    if len(mixed) and best["tier"]:
        first = mixed.iloc[0]
        larger = f"{100 * (first['bytes'] / best['bytes'] - 1):.1f} % larger"
        said.append(
            f"The smallest mix of tiers that does is {first['label']}: {_size(first['bytes'])} ({larger}), "
            f"{100 * first['retention']:.1f} %."
        )
    elif table["mixed"].any() and best["tier"]:
        said.append("No mix of tiers does.")
    return [*said, promise(study, table)]


def promise(study: Study, table: pd.DataFrame) -> str:
    """Whether a plan is 40 % smaller than 4-bit with under 10 % loss, by its linears and by the whole file."""
    plans = study.plans.set_index("plan")
    known = table[table["plan"].isin(plans.index)].assign(
        linears=lambda t: t["plan"].map(plans["linears_saved"])
    )
    if known["linears"].isna().all():
        return f"No run all in {BASE} is here, so the paper's 40 % cannot be checked: run experiment={BASE}."
    kept = known[~known["collapsed"] & (known["retention"] >= 1 - PROMISE_LOSS)]
    whole, linears = (
        f"{100 * kept[c].max():.1f} %" if len(kept) else "nothing" for c in ("saved", "linears")
    )
    done = len(kept) and kept["saved"].max() >= PROMISE_SIZE
    half = len(kept) and kept["linears"].max() >= PROMISE_SIZE
    verdict = "holds here" if done else "does not hold here"
    if half and not done:
        verdict = "holds here for the decoder's linears, not for the whole file"
    return (
        f"The paper's claim, 40 % less memory than 4-bit with under 10 % loss, {verdict}: with at most 10 % loss the most "
        f"saved against {BASE} is {linears} of the decoder's linears and {whole} of the whole checkpoint."
    )


def _saved(table: pd.DataFrame) -> pd.Series:
    base = table[table["tier"] == BASE]
    return 1 - table["bytes"] / (base["bytes"].iloc[0] if len(base) else float("nan"))


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _loss(study: Study, plan: str, reader: Reader) -> Difference | None:
    rows = study.runs[study.runs["plan"] == plan]
    record = next((r for r in study.records if len(rows) and r["key"] == rows["key"].iloc[0]), None)
    return loss(record, reader) if record else None


def calibration(comparisons: Sequence[Comparison]) -> list[str]:
    """Multimodal against text-only calibration, in a sentence each."""
    said = []
    for c in (c for c in comparisons[:2] if c.a == "text"):
        over = f"over {len(c.plans)} plan{'s' * (len(c.plans) > 1)}"
        said.append(
            f"Calibration {c.b} {CONTRAST[c.pooled.verdict]} text-only calibration {over}: {points(c.pooled)}."
        )
    return said


def orders(comparisons: Sequence[Comparison]) -> list[str]:
    """Entropy against the other orders, whoever wins."""
    mine = [c for c in comparisons if c.a == "entropy"]
    if not mine:
        return []
    names = {v: [c.b for c in mine if c.pooled.verdict == v] for v in CONTRAST}
    told = {"better": "loses to", "worse": "beats", "tie": "ties with"}
    parts = [f"{told[v]} {', '.join(found)}" for v, found in names.items() if found]
    best = mine[0]
    if best.pooled.verdict != "better":
        return [f"Ascending entropy {'; '.join(parts)}."]
    return [
        f"Ascending entropy {'; '.join(parts)}. The best order is {best.b}: {points(best.pooled)} against entropy."
    ]


def grid(study: Study) -> list[tuple[str, str]]:
    """The settings that differ between the runs, and their values."""
    flat = [_flat(r["config"]) for r in study.records if len(set(r["tiers"])) > 1] or [
        _flat(r["config"]) for r in study.records
    ]
    found = []
    for name in dict.fromkeys(key for config in flat for key in config):
        values = list(dict.fromkeys(str(config.get(name)) for config in flat))
        if len(values) > 1:
            found.append(
                (
                    name,
                    ", ".join(sorted(values, key=lambda v: (len(v), v))[:20])
                    + (" ..." if len(values) > 20 else ""),
                )
            )
    return found


def _flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    skipped = (
        "group",
        "tracking",
        "paths",
        "quantizer.tiers",
        "evaluation.batch_size",
        "model.device",
    )
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{path}{key}"
        if name not in skipped:
            found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def setup(study: Study) -> list[tuple[str, str]]:
    """What ran, on what, with which versions."""
    records = study.records

    def every(values: Sequence[Any]) -> str:
        return ", ".join(sorted({str(v) for v in values}))

    versions = dict.fromkeys(f"{name} {v}" for r in records for name, v in r["versions"].items())
    sizes = ", ".join(f"{name} {s['n']}" for name, s in records[0]["scores"].items())
    return [
        ("model", f"{study.name}, fingerprint {records[0]['model_fingerprint']}"),
        ("sweeps", every([r["sweep"] for r in records])),
        ("runs", f"{len(records)}, of {len(study.plans)} plans"),
        (
            "questions",
            f"{every([r['split'] for r in records])} split; n = {study.runs['n'].iloc[0]}: {sizes}",
        ),
        (
            "calibration",
            every(
                [
                    f"{r['config']['calibration']['name']} ({r['calibration']['tokens']} tokens)"
                    for r in records
                ]
            ),
        ),
        ("seeds", every([r["config"]["seed"] for r in records])),
        (
            "prompts, scorers",
            f"version {records[0]['prompt_version']}, {records[0]['scorer_version']}",
        ),
        ("commit", every([(r["git_sha"] or "unknown")[:10] for r in records])),
        ("device", every([r["device"] for r in records])),
        ("versions", ", ".join(versions)),
    ]


PROTOCOL = [
    "Nominal bits are code bits per weight of the decoder's linears, the paper's convention. Stored bits are 8 x bytes "
    "of the layer files / weights: codes, scales, zeros, masks, headers. The checkpoint adds everything that stays "
    "16-bit.",
    "What is scored is what is stored: before every evaluation the buffers in memory are compared with the files, bit by bit.",
    "Retention is the score divided by the same model's own 16-bit score on the same questions. Intervals of single "
    "plans come from standard errors over questions; the 16-bit score's own error is not in them.",
    "Comparisons are paired: each question's score is averaged over the runs of either side, the difference taken, and "
    "the questions drawn anew 2,000 times. A difference whose 95 % interval holds 0 is called a tie. Nothing corrects "
    "for many comparisons: of twenty with no difference one is expected outside.",
    "A benchmark is collapsed where more than 95 % of the answers are one and the same, or most are gibberish. A plan "
    "with half of its benchmarks collapsed is drawn open, and is never on a front.",
    "Calibration, selection and report questions are disjoint. Scores are those of the split named above.",
]
POCKET = (
    "pocket models have a few million parameters and were trained on a synthetic world. What is measured on them shows "
    "that the software works and that its comparisons can see a difference. It proves nothing about 7B models: neither "
    "that LUQ works there, nor that it does not. Which order wins, and whether multimodal calibration helps, must be "
    "measured again on the model that you care about."
)
