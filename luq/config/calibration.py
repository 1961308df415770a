"""The tokens that a model is calibrated on."""

from dataclasses import dataclass, field

from luq.config.checks import (
    VOLATILE,
    require,
    require_above,
    require_between,
    require_compute,
    require_count,
    require_distinct,
    require_seed,
    require_text,
)
from luq.config.evaluation import require_benchmark

FEWEST_TOKENS = 256  # of a calibration set
OWN_SAMPLES = ".jsonl"  # how a file of a user's own samples ends
WEIGHTINGS = ("count", "balance", "factor")


@dataclass(frozen=True)
class CalibrationConfig:
    """Which tokens the model sees while it is profiled and quantized."""

    name: str = field(metadata=VOLATILE)
    # share of multimodal tokens, counted in tokens
    alpha: float
    # in all
    tokens: int = 16384
    # per text sample
    sample_tokens: int = 128
    # Where questions come from: a plug-in, hub (the training split), or a folder as for
    # evaluation.data, or a .jsonl file with samples of one's own, which are taken whole. What was
    # read stands in keys, not where it was.
    source: str = field(default="pocket", metadata=VOLATILE)
    # Where passages come from: a plug-in, wikitext (the training split), or a text file.
    text: str = field(default="pocket", metadata=VOLATILE)
    # whose questions make the multimodal samples
    benchmarks: list[str] = field(default_factory=lambda: ["textvqa"])
    # Of tokens in the Hessians: count (all alike), balance (image and text tokens half each) or
    # factor (an image token counts `image_factor` times as much as a text token).
    weighting: str = "count"
    image_factor: float = 1.0
    # How the samples go through the model: model (in its own type), or bfloat16, whose products are
    # several times as fast where the processor has them. Weights, norms and Hessians stay.
    compute: str = "model"
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.weighting in WEIGHTINGS,
            "calibration.weighting",
            self.weighting,
            f"one of {', '.join(WEIGHTINGS)}",
        )
        require_above("calibration.image_factor", self.image_factor, 0, "a number above 0")
        require(
            self.weighting == "factor" or self.image_factor == 1,
            "calibration.image_factor",
            self.image_factor,
            "1, unless calibration.weighting=factor",
        )
        require_compute("calibration.compute", self.compute)
        require_between("calibration.alpha", self.alpha, 0, 1, "in [0, 1]")
        require_count("calibration.tokens", self.tokens, FEWEST_TOKENS)
        require_between(
            "calibration.sample_tokens", self.sample_tokens, 8, self.tokens, "in [8, tokens]"
        )
        require_seed("calibration.seed", self.seed)
        require_text("calibration.source", self.source)
        require_text("calibration.text", self.text)
        require_distinct("calibration.benchmarks", self.benchmarks)
        require(
            self.alpha == 0 or bool(self.benchmarks),
            "calibration.benchmarks",
            self.benchmarks,
            "not empty",
        )
        for name in self.benchmarks:
            require_benchmark(name)

    @property
    def is_own(self) -> bool:
        """Whether the samples are a user's own: a file of them is the calibration set as it is."""
        return self.source.endswith(OWN_SAMPLES)
