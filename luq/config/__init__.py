"""Every setting as frozen dataclasses, checked when they are made; nothing here knows Hydra.

A wrong value is a ConfigError that names the key, the value and the allowed range, before any work starts.
"""

from luq.config.inputs import CalibrationConfig, ModelConfig
from luq.config.plans import ERRORS, MODALITIES, AllocationConfig, OrderConfig, ProfileConfig
from luq.config.runs import SPLITS, TRACKERS, EvaluationConfig, PathsConfig, RunConfig, TrackingConfig
from luq.config.tiers import PROPAGATIONS, QuantizerConfig, TierConfig

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
