"""The record of a run: what was asked, what came of it, and which artefacts it rests on.

`outputs/runs/KEY/result.json` is `to_json` of a `RunRecord`. Needs neither torch nor Hydra. Records
of schema 3 are read too.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from luq.allocation.allocations import LinearTier
from luq.allocation.reports import PlanReport, VisionPlan
from luq.config import RunConfig
from luq.config.building import build, plain
from luq.config.quantizer import VISION
from luq.evaluation import intervals
from luq.evaluation.intervals import Estimate
from luq.formats.sizes import Memory
from luq.profiling.entropies import LayerEntropy

SCHEMA = 4
# Settings that say where a run is written and mirrored, what it returns, and on what it is
# computed.
ELSEWHERE = ("paths", "tracking", "group", "checkpoint", "objective")
MACHINE = (("model", "device"), ("model", "activations_gb"), ("evaluation", "batch_size"))
LISTS_OF_NAMES = (
    ("model", "benchmarks"),
    ("calibration", "benchmarks"),
    ("profile", "orders"),
    ("allocation", "tiers"),
    ("evaluation", "benchmarks"),
)
# Fields that differ between two runs that did the same.
PASSING = ("seconds", "cached", "wall_seconds", "finished", "git_sha", "versions", "device")


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
    rows: int = 0  # that the score is of, errors and all; 0 in records of earlier versions
    low: float | None = None  # ends of the score's 95 % interval; None in earlier records
    high: float | None = None

    @property
    def interval(self) -> Estimate:
        """The score with its 95 % interval; of earlier versions' records from standard errors."""
        if self.low is None or self.high is None:
            return intervals.of_error(self.score, self.stderr, self.n)
        return Estimate(self.score, self.low, self.high)

    @property
    def was_asked(self) -> bool:
        """Whether there is a score: not every row was an error."""
        return self.rows == 0 or self.errors < self.rows


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
    left_out: int = 0  # questions that could not be asked


@dataclass(frozen=True)
class Perplexity:
    """Perplexity on held-out text with its 95 % interval, over so many tokens.

    `float_value` is the 16-bit model's on the same sequences, `ratio` this one over that with a
    paired interval. Records of earlier versions have neither.
    """

    value: float
    low: float
    high: float
    tokens: int
    float_value: float | None = None
    ratio: Interval | None = None


@dataclass(frozen=True)
class CalibrationSummary:
    """The calibration set: the hash of its content, its tokens, the share of multimodal ones."""

    hash: str
    tokens: int
    alpha: float


@dataclass(frozen=True)
class ArtefactKeys:
    """Which artefacts a record rests on. `used` lists all of them as STAGE/KEY."""

    calibration: str | None  # None where nothing of the run needs data
    profile: str | None  # of the first draw; None where no layer had to be chosen
    layers: list[str]  # in layer order
    float_layers: list[str]
    answers: dict[str, str]  # benchmark -> key
    float_answers: dict[str, str]
    parts: dict[str, str] = field(default_factory=dict)  # part -> key, of packed ones
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
    calibration: CalibrationSummary | None  # None where nothing of the run needs data
    # Empty where no layer had to be chosen. With order.draws above 1: means over the draws of the
    # calibration set, and their spreads are those over the draws.
    profile: list[LayerEntropy]
    order: list[int]  # most compressible layer first; empty where no layer had to be chosen
    allocation: str
    tiers: list[str]  # layer -> tier, of most of its linears
    plan: PlanReport
    layer_scores: dict[str, list[float]]  # order -> score per layer, a mean over the draws
    k: int  # layers in the low tier
    memory: Memory
    scores: dict[str, BenchmarkScore]
    mean_score: float  # without questions: the 16-bit model's perplexity over this one's, percent
    float_mean_score: float
    mean_retention: float | None
    fidelity: dict[str, BenchmarkFidelity]
    perplexity: Perplexity | None
    artefacts: ArtefactKeys
    seconds: dict[str, float]  # stage -> seconds
    cached: dict[str, bool]  # stage -> whether the store had all of it
    wall_seconds: float
    finished: float  # seconds since the epoch
    # Linears in another tier than most of their layer. Earlier versions had none.
    other_tiers: list[LinearTier] = field(default_factory=list)
    # Order -> of each draw the score per layer, for scores that are means over several draws.
    draw_scores: dict[str, list[list[float]]] = field(default_factory=dict)
    # The tiers of the vision tower's blocks; None where they were not planned.
    vision: VisionPlan | None = None

    @property
    def part_tiers(self) -> dict[str, str]:
        """The tiers of what is packed beside the decoder's linears, in words, by part."""
        planned = {} if self.vision is None else {VISION: str(self.vision)}
        tiers = self.config.quantizer.parts | planned
        return {part: tiers[part] for part in self.artefacts.parts}

    @property
    def score_interval(self) -> Estimate:
        """The mean score with its 95 % interval."""
        perplexity = self.perplexity
        if not self.scores and perplexity is not None and perplexity.ratio is not None:
            # the score is 100 / ratio
            ratio = perplexity.ratio
            return Estimate(self.mean_score, 100 / ratio.high, 100 / ratio.low)
        return intervals.of_mean([score.interval for score in self.averaged])

    @property
    def averaged(self) -> list[BenchmarkScore]:
        """The scores that the mean is over: those of benchmarks that could be asked."""
        return [score for score in self.scores.values() if score.was_asked]

    @property
    def calibration_hash(self) -> str:
        """What two runs that were calibrated on the same share."""
        return "" if self.calibration is None else self.calibration.hash


def to_json(record: RunRecord) -> dict[str, Any]:
    """A record as plain data with its schema number: dicts, lists, strings, numbers, None."""
    return {"schema": SCHEMA, **plain(record)}


def from_json(data: object) -> RunRecord:
    """The record that `to_json`, or a version that wrote schema 3, made plain data of.

    Args:
        data: what `json.load` gave.

    Returns:
        The typed record. Fields that this version does not know are left out.

    Raises:
        ValueError: it is no record, of a schema that this version does not read, or incomplete.
    """
    if not isinstance(data, dict):
        raise ValueError("it holds no record")
    schema = data.get("schema")
    data = _without_repetitions(data)
    if schema == 3:
        record = build(RunRecord, _from_schema_3(data), "record", strict=False)
        return replace(record, artefacts=replace(record.artefacts, used=_named_artefacts(record)))
    if schema != SCHEMA:
        raise ValueError(f"it has schema {schema}, this version reads 3 and {SCHEMA}")
    return build(RunRecord, data, "record", strict=False)


def lasting(record: RunRecord) -> dict[str, Any]:
    """A record's plain data without what differs between two runs that did the same."""
    data = to_json(record)
    for name in PASSING:
        del data[name]
    del data["memory"]["peak_bytes"]
    for name in ELSEWHERE:
        del data["config"][name]
    for group, name in MACHINE:
        del data["config"][group][name]
    return data


def _without_repetitions(data: dict[str, Any]) -> dict[str, Any]:
    """A record whose lists of names have each name once: earlier versions took them twice."""
    config = data.get("config")
    if not isinstance(config, dict):
        return data
    settings = dict(config)
    for group, name in LISTS_OF_NAMES:
        values = settings.get(group)
        names = values.get(name) if isinstance(values, dict) else None
        if isinstance(names, list) and all(isinstance(item, str) for item in names):
            settings[group] = {**settings[group], name: list(dict.fromkeys(names))}
    return {**data, "config": settings}


def _from_schema_3(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 3 as schema 4: its artefacts were keys under the names of the stages of a run."""
    stages = data.get("artefacts")
    if not isinstance(stages, dict):
        raise ValueError("it lacks the keys of its artefacts")
    artefacts = {
        "calibration": stages.get("calibration", ""),
        "profile": stages.get("profile"),
        "layers": stages.get("quantize", []),
        "float_layers": stages.get("quantize 16-bit", []),
        "answers": stages.get("evaluate", {}),
        "float_answers": stages.get("evaluate 16-bit", {}),
    }
    # the first records of this schema had neither a command nor the commit of a hub's repository
    added_later: dict[str, Any] = {"command": "", "model_commit": None, "layer_scores": {}}
    return {**added_later, **data, "artefacts": artefacts}


def _named_artefacts(record: RunRecord) -> list[str]:
    """STAGE/KEY of the artefacts whose keys a record of schema 3 holds: those of scores and of
    perplexity are not among them."""
    artefacts = record.artefacts
    keys_of_stages: dict[str, list[str | None]] = {
        "calibration": [artefacts.calibration],
        "profile": [artefacts.profile],
        "layers": [*artefacts.layers, *artefacts.float_layers],
        "evaluation": [*artefacts.answers.values(), *artefacts.float_answers.values()],
        "fidelity": [measured.key for measured in record.fidelity.values()],
    }
    used = []
    for stage, stage_keys in keys_of_stages.items():
        used += [f"{stage}/{key}" for key in stage_keys if key]
    return used
