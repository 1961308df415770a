"""One run, whole."""

from dataclasses import dataclass

from luq.config.allocation import AllocationConfig
from luq.config.calibration import CalibrationConfig
from luq.config.checks import require, require_seed, require_text
from luq.config.evaluation import EvaluationConfig
from luq.config.model import ModelConfig
from luq.config.order import OrderConfig
from luq.config.paths import PathsConfig
from luq.config.profile import ProfileConfig
from luq.config.quantizer import QuantizerConfig
from luq.config.tracking import TrackingConfig
from luq.errors import unknown

# Texts with a part for calibration and another one for the report.
SPLIT_TEXTS = ("pocket", "wikitext")


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

    def __post_init__(self) -> None:
        require_seed("seed", self.seed)
        require_text("group", self.group)
        text = self.calibration.text
        is_other_text = text in SPLIT_TEXTS or text != self.evaluation.text
        require(is_other_text, "calibration.text", text, "another file than evaluation.text")
        for name in self.allocation.tiers:
            if name not in self.quantizer.tiers:
                raise unknown("tier in allocation.tiers", name, self.quantizer.tiers)
