"""One run, whole."""

from dataclasses import dataclass, field

from luq.config.allocation import AllocationConfig
from luq.config.calibration import CalibrationConfig
from luq.config.checks import require, require_distinct, require_seed, require_text
from luq.config.evaluation import EvaluationConfig
from luq.config.model import ModelConfig
from luq.config.order import OrderConfig
from luq.config.paths import PathsConfig
from luq.config.profile import ProfileConfig
from luq.config.quantizer import QuantizerConfig
from luq.config.tracking import TrackingConfig
from luq.errors import ConfigError, unknown

# Texts with a part for calibration and another one for the report.
SPLIT_TEXTS = ("pocket", "wikitext")
# What a search can make large (the first two) or small; `pipelines/objectives.py` reads them.
OBJECTIVES = (
    "retention",
    "score",
    "kl",
    "perplexity",
    "checkpoint_bytes",
    "stored_bytes",
    "stored_bits",
    "nominal_bits",
)


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
    # also write the packed model as a Hugging Face folder
    checkpoint: bool = False
    # what the run returns to a sweeper of Hydra that searches
    objective: list[str] = field(default_factory=lambda: ["retention"])

    def __post_init__(self) -> None:
        require_seed("seed", self.seed)
        require_text("group", self.group)
        require(bool(self.objective), "objective", self.objective, "one name or several")
        require_distinct("objective", self.objective)
        for name in self.objective:
            if name not in OBJECTIVES:
                raise unknown("name in objective", name, OBJECTIVES)
        text = self.calibration.text
        is_other_text = text in SPLIT_TEXTS or text != self.evaluation.text
        require(is_other_text, "calibration.text", text, "another file than evaluation.text")
        self._require_tiers("allocation.tiers", self.allocation.tiers)
        vision = self.allocation.vision
        self._require_tiers("allocation.vision.tiers", vision.tiers)
        if vision.is_given and self.quantizer.vision is not None:
            raise ConfigError(
                f"quantizer.vision={self.quantizer.vision} is not possible with "
                f"allocation.vision.bits={vision.bits}, which chooses a tier for each block of the "
                "tower: set quantizer.vision=null, or leave allocation.vision out"
            )

    def _require_tiers(self, key: str, names: list[str]) -> None:
        """A ConfigError for a name that is none of a tier."""
        for name in names:
            if name not in self.quantizer.tiers:
                raise unknown(f"tier in {key}", name, self.quantizer.tiers)
