"""The record of a run: what was asked, what came of it, and which artefacts it rests on.

`outputs/runs/KEY/result.json` is `to_json` of a `RunRecord`. Needs neither torch nor Hydra. Records
of schema 3 are read too.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from luq.allocation.reports import PlanReport
from luq.config import RunConfig
from luq.formats.sizes import Memory
from luq.profiling.entropies import LayerEntropy

SCHEMA = 4


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchmarkScore:
    """One benchmark of a run. Scores are percent of the maximum, retention a share of 16-bit."""

    score: float
    stderr: float
    n: int  # units: questions, pairs, questions with all their rotations
    metrics: dict[str, float]  # under their usual names
    collapsed: str  # why the model is none any more; empty if it is one
    errors: int  # rows that could not be asked, and count as wrong
    float_score: float  # of the same model in 16 bit
    retention: float | None  # score / float_score; None if that is zero


@dataclass(frozen=True)
class BenchmarkFidelity:
    """How far the probabilities of one benchmark's reference answers moved from the 16-bit model's.

    KL in nats per answer token, agreement as a share of tokens with the same first choice, the
    answers' log-likelihood in nats. None where no question could be measured. `key`: the artefact.
    """

    n: int
    kl: Interval | None
    agreement: Interval | None
    loglik: Interval | None
    key: str


@dataclass(frozen=True)
class Perplexity:
    """Perplexity on held-out text with its 95 % interval, over so many tokens."""

    value: float
    low: float
    high: float
    tokens: int


@dataclass(frozen=True)
class CalibrationSummary:
    """The calibration set that was used: the hash of its content, tokens, share of multimodal ones."""

    hash: str
    tokens: int
    alpha: float


@dataclass(frozen=True)
class ArtefactKeys:
    """Which artefacts a record rests on. `used` lists all of them as STAGE/KEY."""

    calibration: str
    profile: str | None
    layers: list[str]  # in layer order
    float_layers: list[str]
    answers: dict[str, str]  # benchmark -> key
    float_answers: dict[str, str]
    used: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunRecord:
    """One finished run."""

    key: str
    name: str
    command: str  # gives this record again
    sweep: str
    config: RunConfig
    versions: dict[str, str]  # package -> version, of what made the run's artefacts
    git_sha: str | None
    model_fingerprint: str  # digest of all bytes of the checkpoint
    model_commit: str | None  # of the hub's repository; None for a folder
    device: str
    split: str
    subset: dict[str, str]  # benchmark -> digest of the rows that were asked
    prompt_version: int
    scorer_version: int
    calibration: CalibrationSummary
    profile: list[LayerEntropy]
    order: list[int]  # most compressible layer first
    allocation: str
    tiers: list[str]  # layer -> tier
    plan: PlanReport
    layer_scores: dict[str, list[float]]  # order -> score per layer
    k: int  # layers in the low tier
    memory: Memory
    scores: dict[str, BenchmarkScore]
    mean_score: float
    float_mean_score: float
    mean_retention: float | None
    fidelity: dict[str, BenchmarkFidelity]
    perplexity: Perplexity | None
    artefacts: ArtefactKeys
    seconds: dict[str, float]  # stage -> seconds
    cached: dict[str, bool]  # stage -> whether the store had all of it
    wall_seconds: float
    finished: float  # seconds since the epoch
