"""One run, whole."""

from dataclasses import dataclass

from luq.config.allocation import AllocationConfig
from luq.config.calibration import CalibrationConfig
from luq.config.checks import require
from luq.config.evaluation import EvaluationConfig
from luq.config.model import ModelConfig
from luq.config.order import OrderConfig
from luq.config.paths import PathsConfig
from luq.config.profile import ProfileConfig
from luq.config.quantizer import QuantizerConfig
from luq.config.tracking import TrackingConfig
from luq.errors import unknown


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
        same = self.calibration.text == self.evaluation.text and self.calibration.text not in (
            "pocket",
            "wikitext",
        )
        require(
            not same, "calibration.text", self.calibration.text, "another file than evaluation.text"
        )
        for name in self.allocation.tiers:
            if name not in self.quantizer.tiers:
                raise unknown("tier in allocation.tiers", name, self.quantizer.tiers)
