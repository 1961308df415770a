"""Records in the shape that runs write, with the numbers that a test wants. No model ran."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from luq.allocation.reports import PlanReport
from luq.config import (
    AllocationConfig,
    CalibrationConfig,
    EvaluationConfig,
    ModelConfig,
    OrderConfig,
    PathsConfig,
    ProfileConfig,
    RunConfig,
    TrackingConfig,
)
from luq.config.building import build
from luq.formats.sizes import Memory
from luq.profiling.entropies import LayerEntropy
from luq.store import keys
from pipelines.record import (
    ArtefactKeys,
    BenchmarkFidelity,
    BenchmarkScore,
    CalibrationSummary,
    Interval,
    Perplexity,
    RunRecord,
    plain,
)

BENCHMARKS = ("gqa", "mme", "pope")
METHODS = {
    "float16": {"method": "float16"},
    "gptq8": {"method": "gptq", "bits": 8},
    "gptq4": {"method": "gptq", "bits": 4},
    "gptq3": {"method": "gptq", "bits": 3},
    "gptq2": {"method": "gptq", "bits": 2},
    "billm": {"method": "billm"},
}
BITS = {"float16": 16.0, "gptq8": 8.0, "gptq4": 4.0, "gptq3": 3.0, "gptq2": 2.0, "billm": 1.0}
STORED = BITS | {"billm": 3.1}
HEADER_BITS = 0.2  # per weight, of every file
LAYERS = 8
WEIGHTS = 80_000
REST = 10_000
N = 50  # questions per benchmark
STDERR = 2.0


def config(**changes: Any) -> RunConfig:
    """A run's config; `changes` by dotted names: `config(**{"order.name": "lim"})`."""
    quantizer = {"low": "billm", "high": "gptq4", "propagation": "high", "tiers": METHODS}
    usual = {
        "model": plain(ModelConfig("pocket_test", "pocket:test")),
        "calibration": plain(CalibrationConfig("multimodal", 0.5, tokens=1000)),
        "profile": plain(ProfileConfig()),
        "order": plain(OrderConfig()),
        "allocation": plain(AllocationConfig("count", k=0)),
        "quantizer": quantizer,
        "evaluation": plain(EvaluationConfig("pocket", list(BENCHMARKS))),
        "tracking": plain(TrackingConfig()),
        "paths": plain(PathsConfig()),
        "seed": 0,
        "group": "demo",
    }
    for name, value in changes.items():
        group, _, setting = name.rpartition(".")
        table = usual[group] if group else usual
        table[setting] = value
    return build(RunConfig, usual)


def record(
    name: str,
    tiers: list[str] | None = None,
    score: float | dict[str, float] = 60.0,
    sweep: str = "demo",
    original: float = 80.0,
    collapsed: str = "",
    checkpoint_bytes: int | None = None,
    fingerprint: str = "f1",
    subset: str = "q1",
    **changes: Any,
) -> RunRecord:
    """A record.

    Args:
        name: of the run.
        tiers: of the layers; None: all in gptq4.
        score: per benchmark, or one for all.
        sweep: that the run belongs to.
        original: the score of the 16-bit model.
        collapsed: why the model is none any more, on every benchmark.
        checkpoint_bytes: None: what the tiers take.
        fingerprint: of the model.
        subset: digest of the rows that were asked.
        changes: of the settings, by dotted names.
    """
    tiers = tiers or ["gptq4"] * LAYERS
    k = tiers.count("billm")
    settings = config(**{"allocation.k": k, **changes})
    of_benchmarks = score if isinstance(score, dict) else dict.fromkeys(BENCHMARKS, score)
    scores = {}
    for benchmark, value in of_benchmarks.items():
        retention = value / original if original else None
        scores[benchmark] = BenchmarkScore(value, STDERR, N, {}, collapsed, 0, original, retention)
    mean = sum(of_benchmarks.values()) / max(len(scores), 1)
    key = keys.digest(settings, tiers, fingerprint, subset, sweep, name)
    return RunRecord(
        key=key,
        name=name,
        command=f"luq run {name}",
        sweep=sweep,
        config=settings,
        versions={"luq": "0.1.0", "torch": "2.13.0"},
        git_sha="abcdef0123456789",
        model_fingerprint=fingerprint,
        model_commit=None,
        device="cpu",
        split="report",
        subset=dict.fromkeys(scores, subset),
        prompt_version=1,
        scorer_version=2,
        calibration=CalibrationSummary("h", 1000, 0.5),
        profile=profile(settings.profile.clusters),
        order=list(range(LAYERS)),
        allocation=" ".join(f"{i}:{tier}" for i, tier in enumerate(tiers)),
        tiers=tiers,
        plan=PlanReport(),
        layer_scores={},
        k=k,
        memory=memory(tiers, checkpoint_bytes),
        scores=scores,
        mean_score=mean,
        float_mean_score=original,
        mean_retention=mean / original if original else None,
        fidelity=dict.fromkeys(scores, fidelity(mean, f"d{key}")),
        perplexity=Perplexity(30.0, 29.0, 31.0, 100),
        artefacts=ArtefactKeys("c", "p", [], [], {name: f"{key}{name}" for name in scores}, {}),
        seconds={"quantize": 1.0, "evaluate": 2.0},
        cached={"quantize": True, "evaluate": False},
        wall_seconds=3.0,
        finished=0.0,
    )


def memory(tiers: list[str], checkpoint_bytes: int | None = None) -> Memory:
    """Sizes of a model of `LAYERS` equal layers."""
    stored_bits = sum(STORED[tier] for tier in tiers) / len(tiers) + HEADER_BITS
    stored = int(WEIGHTS * stored_bits / 8)
    if checkpoint_bytes is not None:
        stored = checkpoint_bytes - REST
    return Memory(
        weights=WEIGHTS,
        nominal_bits=sum(BITS[tier] for tier in tiers) / len(tiers),
        stored_bits=8 * stored / WEIGHTS,
        stored_bytes=stored,
        rest_bytes=REST,
        checkpoint_bytes=stored + REST,
        resident_bytes=stored - 40,
        peak_bytes=10**6,
        ledger={"codes": stored - 100, "scales": 60, "header": 40, "vision": REST},
    )


def profile(clusters: int) -> list[LayerEntropy]:
    """Entropies that rise with the layers, those of images a bit below those of all tokens."""
    entropies = []
    for layer in range(LAYERS):
        for modality, shift in (("all", 0.0), ("image", -1.0), ("text", 0.5)):
            bits = 5 + layer / 10 + shift
            entropies.append(LayerEntropy(layer, modality, bits, 0.01, 99, clusters))
    return entropies


def fidelity(score: float, key: str) -> BenchmarkFidelity:
    """The nearer a score to 100, the smaller the divergence."""
    kl = Interval(1 - score / 100, 0, 1)
    agreement = Interval(score / 100, 0, 1)
    return BenchmarkFidelity(N, kl, agreement, Interval(-1.0, -2, 0), key)


def with_answers(run: RunRecord, answers: dict[str, str]) -> RunRecord:
    """The same run with other keys of its answers."""
    return replace(run, artefacts=replace(run.artefacts, answers=answers))


def ladder(**changes: Any) -> list[RunRecord]:
    """The uniform baselines, from 16 to 2 bits."""
    scores = {"float16": 80.0, "gptq8": 80.0, "gptq4": 79.0, "gptq3": 76.0, "gptq2": 40.0}
    runs = []
    for tier, score in scores.items():
        settings = {
            "allocation.name": "uniform",
            "quantizer.high": tier,
            "quantizer.propagation": "exact",
            **changes,
        }
        runs.append(record(tier, [tier] * LAYERS, score, **settings))
    return runs


def mixed(k: int, score: float | dict[str, float], **changes: Any) -> RunRecord:
    """A plan with its first k layers low; named after what differs from the usual."""
    words = [f"{name}={value}" for name, value in changes.items() if "." in name or name == "seed"]
    name = " ".join([*words, f"allocation.k={k}"])
    return record(name, ["billm"] * k + ["gptq4"] * (LAYERS - k), score, **changes)


def many(count: int) -> Iterator[RunRecord]:
    """A large sweep in which no two runs are the same plan: the ladder, then a grid.

    The grid: tokens x orders x calibration x k.
    """
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
