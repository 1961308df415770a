"""Records in the shape that runs write, with the numbers that a test wants. No model ran for them."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from luq.store import keys
from pipelines.results import SCHEMA, Record

BENCHMARKS = ("gqa", "mme", "pope")
BITS = {"float16": 16.0, "gptq8": 8.0, "gptq4": 4.0, "gptq3": 3.0, "gptq2": 2.0, "billm": 1.0}
STORED = BITS | {"billm": 3.1}
LAYERS, WEIGHTS, REST = 8, 80_000, 10_000


def config(**changes: Any) -> dict[str, Any]:
    """A run's config; `changes` by dotted names: `config(**{"order.name": "lim"})`."""
    made: dict[str, Any] = {
        "model": {"name": "pocket_test", "device": "auto"},
        "calibration": {"name": "multimodal", "alpha": 0.5, "seed": 0, "tokens": 1000},
        "profile": {"clusters": 100, "orders": [], "seed": 0},
        "order": {"name": "entropy", "modality": "all", "seed": 0},
        "allocation": {"name": "count", "k": 0},
        "quantizer": {"low": "billm", "high": "gptq4", "propagation": "high", "tiers": {}},
        "evaluation": {"seed": 0},
        "seed": 0,
    }  # fmt: skip
    for name, value in changes.items():
        place, _, last = name.rpartition(".")
        (made[place] if place else made)[last] = value
    return made


def record(
    name: str,
    tiers: list[str] | None = None,
    score: float | dict[str, float | None] = 60.0,
    sweep: str = "demo",
    original: float = 80.0,
    collapsed: str = "",
    bytes_: int | None = None,
    finished: float = 0.0,
    fingerprint: str = "f1",
    subset: str = "q1",
    **changes: Any,
) -> Record:
    """A record; scores per benchmark, or one for all. None leaves a benchmark out."""
    tiers = tiers or ["gptq4"] * LAYERS
    settings = config(**{"allocation.k": tiers.count("billm"), **changes})
    given = score if isinstance(score, dict) else dict.fromkeys(BENCHMARKS, score)
    scores = {
        b: {
            "score": s, "stderr": 2.0, "n": 50, "metrics": {}, "collapsed": collapsed, "errors": 0, "float_score": original,
            "retention": s / original if original else None,
        }
        for b, s in given.items() if s is not None
    }  # fmt: skip
    bits = sum(BITS[t] for t in tiers) / len(tiers)
    stored = (
        bytes_ - REST
        if bytes_
        else int(WEIGHTS * (sum(STORED[t] for t in tiers) / len(tiers) + 0.2) / 8)
    )
    ledger = {"codes": stored - 100, "scales": 60, "header": 40, "vision": REST}
    memory = {
        "weights": WEIGHTS,
        "nominal_bits": bits,
        "stored_bits": 8 * stored / WEIGHTS,
        "stored_bytes": stored,
        "ledger": ledger,
    }
    memory |= {
        "rest_bytes": REST,
        "checkpoint_bytes": stored + REST,
        "resident_bytes": stored - 40,
        "peak_bytes": 10**6,
    }
    mean = sum(s["score"] for s in scores.values()) / max(len(scores), 1)
    key = keys.key(settings, tiers, fingerprint, subset, sweep, name)
    kl = {
        "n": 50,
        "kl": [1 - mean / 100, 0, 1],
        "agreement": [mean / 100, 0, 1],
        "loglik": [-1.0, -2, 0],
        "key": f"d{key}",
    }
    profile = [
        {
            "layer": i,
            "modality": m,
            "mean": 5 + i / 10 + shift,
            "spread": 0.01,
            "tokens": 99,
            "clusters": settings["profile"]["clusters"],
        }
        for i in range(LAYERS)
        for m, shift in (("all", 0.0), ("image", -1.0), ("text", 0.5))
    ]
    return {
        "schema": SCHEMA, "key": key, "name": name, "command": f"luq run {name}", "sweep": sweep, "config": settings,
        "versions": {"luq": "0.1.0", "torch": "2.13.0"}, "git_sha": "abcdef0123456789", "model_fingerprint": fingerprint,
        "device": "cpu", "split": "report", "subset": dict.fromkeys(scores, subset), "prompt_version": 1, "scorer_version": 2,
        "calibration": {"tokens": 1000, "alpha": 0.5, "hash": "h"}, "profile": profile, "order": list(range(LAYERS)),
        "allocation": " ".join(f"{i}:{t}" for i, t in enumerate(tiers)), "tiers": tiers, "k": tiers.count("billm"), "plan": {},
        "layer_scores": {}, "memory": memory, "scores": scores, "mean_score": mean, "float_mean_score": original,
        "mean_retention": mean / original if original else None, "fidelity": dict.fromkeys(scores, kl),
        "perplexity": {"value": 30.0, "low": 29.0, "high": 31.0, "tokens": 100}, "wall_seconds": 3.0, "finished": finished,
        "artefacts": {"evaluate": {b: f"{key}{b}" for b in scores}, "evaluate 16-bit": {}},
        "seconds": {"quantize": 1.0, "evaluate": 2.0}, "cached": {"quantize": True, "evaluate": False},
    }  # fmt: skip


def ladder(**changes: Any) -> list[Record]:
    """The uniform baselines, from 16 to 2 bits."""
    scores = {"float16": 80.0, "gptq8": 80.0, "gptq4": 79.0, "gptq3": 76.0, "gptq2": 40.0}
    made = []
    for tier, score in scores.items():
        settings = {
            "allocation.name": "uniform",
            "quantizer.high": tier,
            "quantizer.propagation": "exact",
            **changes,
        }
        made.append(record(tier, [tier] * LAYERS, score, **settings))
    return made


def mixed(k: int, score: float, **changes: Any) -> Record:
    """A plan with its first k layers low; named after what differs from the usual."""
    words = [f"{name}={value}" for name, value in changes.items() if "." in name or name == "seed"]
    return record(
        " ".join([*words, f"allocation.k={k}"]),
        ["billm"] * k + ["gptq4"] * (LAYERS - k),
        score,
        **changes,
    )


def many(count: int) -> Iterator[Record]:
    """A large sweep in which no two runs are the same plan: orders x calibration x k x tokens, and the ladder."""
    yield from ladder(sweep="large")
    orders = ("entropy", "entropy_reverse", "depth", "lim", "kl", "zd", "random", "variance")
    grid = product(range(10**6), orders, ("text", "multimodal"), range(1, LAYERS))
    for i, (size, order, calibration, k) in zip(range(count - 5), grid, strict=False):
        score = 78 - 4 * k + (i * 37 % 11) / 3
        changes = {
            "order.name": order,
            "calibration.name": calibration,
            "calibration.tokens": 1000 + size,
        }
        yield mixed(k, score, sweep="large", **changes)
