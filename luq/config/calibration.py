"""The tokens that a model is calibrated on."""

from dataclasses import dataclass, field

from luq import registry
from luq.config.checks import VOLATILE, require

WEIGHTINGS = ("count", "balance", "factor")


@dataclass(frozen=True)
class CalibrationConfig:
    """Which tokens the model sees while it is profiled and quantized."""

    name: str = field(metadata=VOLATILE)
    alpha: float  # share of multimodal tokens, counted in tokens
    tokens: int = 16384  # in all
    sample_tokens: int = 128  # per text sample
    # Where questions come from: a plug-in, hub (the training split), or a folder as for
    # evaluation.data. What was read stands in keys, not where it was.
    source: str = field(default="pocket", metadata=VOLATILE)
    # Where passages come from: a plug-in, wikitext (the training split), or a text file.
    text: str = field(default="pocket", metadata=VOLATILE)
    benchmarks: list[str] = field(
        default_factory=lambda: ["textvqa"]
    )  # whose questions make the multimodal samples
    weighting: str = "count"  # of tokens in the Hessians: all alike, balance (image and text tokens half each), or factor
    image_factor: float = (
        1.0  # with weighting=factor: what an image token counts against a text token
    )
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.weighting in WEIGHTINGS,
            "calibration.weighting",
            self.weighting,
            f"one of {', '.join(WEIGHTINGS)}",
        )
        require(self.image_factor > 0, "calibration.image_factor", self.image_factor, "above 0")
        factor = self.weighting == "factor" or self.image_factor == 1
        require(
            factor,
            "calibration.image_factor",
            self.image_factor,
            "1, unless calibration.weighting=factor",
        )
        require(0 <= self.alpha <= 1, "calibration.alpha", self.alpha, "in [0, 1]")
        require(self.tokens >= 256, "calibration.tokens", self.tokens, "at least 256")
        require(
            8 <= self.sample_tokens <= self.tokens,
            "calibration.sample_tokens",
            self.sample_tokens,
            "in [8, tokens]",
        )
        require(
            self.alpha == 0 or bool(self.benchmarks),
            "calibration.benchmarks",
            self.benchmarks,
            "not empty",
        )
        for name in self.benchmarks:
            registry.check("benchmark", name)
