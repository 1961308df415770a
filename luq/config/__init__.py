"""Every setting as frozen dataclasses, checked when they are made; nothing here knows Hydra.

A wrong value is a ConfigError that names the key, the value and the allowed range, before any work starts.
"""

from luq.config.allocation import ERRORS, AllocationConfig
from luq.config.calibration import CalibrationConfig
from luq.config.evaluation import SPLITS, EvaluationConfig
from luq.config.model import ModelConfig
from luq.config.order import MODALITIES, OrderConfig
from luq.config.paths import PathsConfig
from luq.config.profile import ProfileConfig
from luq.config.run import RunConfig
from luq.config.tiers import PROPAGATIONS, QuantizerConfig, TierConfig
from luq.config.tracking import TRACKERS, TrackingConfig

__all__ = [
    "ERRORS",
    "MODALITIES",
    "PROPAGATIONS",
    "SPLITS",
    "TRACKERS",
    "AllocationConfig",
    "CalibrationConfig",
    "EvaluationConfig",
    "ModelConfig",
    "OrderConfig",
    "PathsConfig",
    "ProfileConfig",
    "QuantizerConfig",
    "RunConfig",
    "TierConfig",
    "TrackingConfig",
]
