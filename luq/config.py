"""Every setting as frozen dataclasses, checked when they are made; nothing here knows Hydra.
A wrong value is a ConfigError that names the key, the value and the allowed range, before any work starts.
"""

from dataclasses import dataclass, field

from luq import registry
from luq.errors import ConfigError

PROPAGATIONS = ("exact", "high", "float")
MODALITIES = ("all", "image", "text")
SPLITS = ("report", "selection", "all")
ERRORS = ("output_error", "kl", "delta_loss")  # of one layer in one tier
TRACKERS = ("wandb", "wandb_offline", "none")


def _require(fine: bool, key: str, value: object, allowed: str) -> None:
    if not fine:
        raise ConfigError(f"{key}={value!r} is not possible: it must be {allowed}")


@dataclass(frozen=True)
class ModelConfig:
    """A Hugging Face vision-language checkpoint and how it is asked."""

    name: str
    path: str  # hub id or local folder; "pocket:NAME" is one that ships with the project
    revision: str | None = None
    device: str = "auto"  # auto: cuda if there is one
    system_prompt: str = ""
    benchmarks: list[str] = field(default_factory=list)
    data: str = "hub"  # where its questions usually come from: see EvaluationConfig.data
    text: str = "wikitext"  # and its held-out text
    text_length: int = 2048
    calibration_tokens: int = 128 * 2048  # the paper's
    min_pixels: int | None = None  # of an image, for families that take any size
    max_pixels: int | None = None
    activations_gb: float = 4.0  # of calibration activations kept in memory; the others wait on disk
    stream: bool = False  # leave the decoder's layers on disk and read each when it is needed, in the checkpoint's own dtype

    def __post_init__(self) -> None:
        for name in self.benchmarks:
            registry.check("benchmark", name)


@dataclass(frozen=True)
class CalibrationConfig:
    """Which tokens the model sees while it is profiled and quantized."""

    name: str
    alpha: float  # share of multimodal tokens, counted in tokens
    tokens: int = 16384  # in all
    sample_tokens: int = 128  # per text sample
    source: str = "pocket"  # where questions come from: pocket, hub (the training split), or a folder as for evaluation.data
    text: str = "pocket"  # where passages come from: pocket, wikitext (the training split), or a text file
    benchmarks: list[str] = field(default_factory=lambda: ["textvqa"])  # whose questions make the multimodal samples
    seed: int = 0

    def __post_init__(self) -> None:
        _require(0 <= self.alpha <= 1, "calibration.alpha", self.alpha, "in [0, 1]")
        _require(self.tokens >= 256, "calibration.tokens", self.tokens, "at least 256")
        _require(8 <= self.sample_tokens <= self.tokens, "calibration.sample_tokens", self.sample_tokens, "in [8, tokens]")
        _require(self.alpha == 0 or bool(self.benchmarks), "calibration.benchmarks", self.benchmarks, "not empty")
        for name in self.benchmarks:
            registry.check("benchmark", name)


@dataclass(frozen=True)
class ProfileConfig:
    """How layer entropies are measured."""

    clusters: int = 100  # K of K-means
    tokens: int = 4096  # output vectors kept per layer and modality
    seeds: int = 3  # repetitions, each with its own subsample and K-means start
    samples: int = 8  # units per benchmark of the selection split for the one-at-a-time KL
    orders: list[str] = field(default_factory=list)  # that the profile compares beside the one that is used
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.orders:
            registry.check("order", name)
        for name, least in (("samples", 1), ("clusters", 2), ("tokens", 64), ("seeds", 1)):
            _require(getattr(self, name) >= least, f"profile.{name}", getattr(self, name), f"at least {least}")


@dataclass(frozen=True)
class OrderConfig:
    """A ranking of layers, most compressible first."""

    name: str = "entropy"
    modality: str = "all"  # whose tokens entropy, variance and lim are over
    seed: int = 0  # of a random order

    def __post_init__(self) -> None:
        registry.check("order", self.name)
        _require(self.modality in MODALITIES, "order.modality", self.modality, f"one of {', '.join(MODALITIES)}")


@dataclass(frozen=True)
class AllocationConfig:
    """Which layers get which tier."""

    name: str = "count"
    k: int | None = None  # count: number of low-tier layers
    entropy_max: float | None = None  # threshold: bits; every layer at or below goes low
    quantile: float | None = None  # threshold: the same as a quantile of the layers' entropies
    bits: float | None = None  # budget, search: average stored bits per weight of the decoder linears
    bytes: str | None = None  # budget, search: size of the whole checkpoint, as in 2.5GB
    tiers: list[str] = field(default_factory=list)  # budget, search: tiers to choose from, if not low and high
    error: str = "output_error"  # budget with more than two tiers, search: the error to make small
    drop: float | None = None  # quality: points of the selection score below the high-tier model's that are allowed
    swaps: int = 0  # search: how many exchanges to try on the selection split
    samples: int | None = None  # quality, search: units per benchmark of the selection split; null: all

    def __post_init__(self) -> None:
        registry.check("plan", self.name)
        if self.name == "count":
            _require(self.k is not None and self.k >= 0, "allocation.k", self.k, "a number of layers, 0 or more")
        if self.name == "threshold":
            one = (self.entropy_max is None) != (self.quantile is None)
            given = f"entropy_max={self.entropy_max}, quantile={self.quantile}"
            _require(one, "allocation", given, "exactly one of allocation.entropy_max (bits) and allocation.quantile")
        if self.name in ("budget", "search"):
            one = (self.bits is None) != (self.bytes is None)
            given = f"bits={self.bits}, bytes={self.bytes}"
            _require(one, "allocation", given, "exactly one of allocation.bits (stored, per weight) and allocation.bytes")
        if self.name == "quality":
            _require(self.drop is not None and self.drop >= 0, "allocation.drop", self.drop, "0 or more points")
        if self.quantile is not None:
            _require(0 <= self.quantile <= 1, "allocation.quantile", self.quantile, "in [0, 1]")
        _require(self.error in ERRORS, "allocation.error", self.error, f"one of {', '.join(ERRORS)}")
        _require(self.swaps >= 0, "allocation.swaps", self.swaps, "0 or more")
        _require(self.samples is None or self.samples >= 1, "allocation.samples", self.samples, "at least 1, or null for all")


@dataclass(frozen=True)
class TierConfig:
    """How a layer is stored: a method and its parameters."""

    method: str
    bits: int = 4
    group_size: int = 128  # columns per group; 0: one group per row
    symmetric: bool = False
    act_order: bool = False
    static_groups: bool = False
    clip_steps: int = 0  # shrink factors tried per group; 0: no clip search
    damping: float = 0.01  # share of the mean diagonal of the Hessian
    block: int = 128
    window: int = 12  # trellis: bits that a weight is looked up by; each one more takes twice the time
    true_sequential: bool = True
    faithful: bool = True  # billm: as the released code does it; false: as the paper says it

    def __post_init__(self) -> None:
        registry.check("quantizer", self.method)
        widths = (1, 2, 3, 4) if self.method == "trellis" else (2, 3, 4, 8)
        _require(self.bits in widths, "tier.bits", self.bits, f"one of {widths}")
        _require(self.bits + 4 <= self.window <= 16, "tier.window", self.window, "in [bits + 4, 16]")
        _require(self.group_size >= 0, "tier.group_size", self.group_size, "0 (one group per row) or a divisor of the columns")
        _require(self.block >= 1, "tier.block", self.block, "at least 1")
        _require(0 <= self.damping <= 1, "tier.damping", self.damping, "in [0, 1]")


@dataclass(frozen=True)
class QuantizerConfig:
    """The two tiers of a run, by name, and the table of tiers."""

    low: str
    high: str
    propagation: str = "exact"
    tiers: dict[str, TierConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, name in (("low", self.low), ("high", self.high)):
            if name not in self.tiers:
                raise registry.unknown(f"tier in quantizer.{key}", name, self.tiers)
        _require(self.propagation in PROPAGATIONS, "quantizer.propagation", self.propagation, f"one of {', '.join(PROPAGATIONS)}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Which questions are asked, and how many."""

    name: str
    benchmarks: list[str]
    data: str = "pocket"  # "pocket", "hub", or a folder of <benchmark>.parquet or <benchmark>/
    sources: dict[str, str] = field(default_factory=dict)  # benchmark -> a file or folder (or hub) for it alone
    organisation: str = "lmms-lab-encoder"  # whose copies of the datasets on the hub are read
    fallback: str = "lmms-lab"  # their old name
    split: str = "report"  # report, selection (for choosing a plan) or all
    samples: int | None = None  # units per benchmark; null: all
    batch_size: int = 32
    strict: bool = False  # the first bad row stops the evaluation, instead of counting as wrong
    fidelity: int | None = 0  # units per benchmark for KL and likelihoods; null: as many as samples
    text: str = "pocket"  # held-out text for perplexity: "pocket", "wikitext" or a text file
    text_tokens: int = 0  # how much of it; 0: no perplexity
    text_length: int = 2048  # tokens per sequence
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*self.benchmarks, *self.sources):
            registry.check("benchmark", name)
        _require(self.samples is None or self.samples >= 1, "evaluation.samples", self.samples, "at least 1, or null for all")
        _require(self.fidelity is None or self.fidelity >= 0, "evaluation.fidelity", self.fidelity, "0 or more, or null for all")
        _require(self.split in SPLITS, "evaluation.split", self.split, f"one of {', '.join(SPLITS)}")
        for name, least in (("text_tokens", 0), ("text_length", 2), ("batch_size", 1)):
            _require(getattr(self, name) >= least, f"evaluation.{name}", getattr(self, name), f"at least {least}")


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs are mirrored; the JSON record is always written."""

    name: str = "wandb_offline"
    project: str = "luq"
    entity: str | None = None

    def __post_init__(self) -> None:
        _require(self.name in TRACKERS, "tracking.name", self.name, f"one of {', '.join(TRACKERS)}")


@dataclass(frozen=True)
class PathsConfig:
    """Directories; the only place that names them."""

    outputs: str = "outputs"


@dataclass(frozen=True)
class RunConfig:
    """One run, whole."""

    model: ModelConfig
    calibration: CalibrationConfig
    profile: ProfileConfig
    order: OrderConfig
    allocation: AllocationConfig
    quantizer: QuantizerConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    paths: PathsConfig
    seed: int = 0
    group: str = "default"
    checkpoint: bool = False  # also write the packed model as a Hugging Face folder

    def __post_init__(self) -> None:
        same = self.calibration.text == self.evaluation.text and self.calibration.text not in ("pocket", "wikitext")
        _require(not same, "calibration.text", self.calibration.text, "another file than evaluation.text")
        for name in self.allocation.tiers:
            if name not in self.quantizer.tiers:
                raise registry.unknown("tier in allocation.tiers", name, self.quantizer.tiers)
