"""Every setting as frozen dataclasses, checked when they are made; nothing here knows Hydra.

A wrong value is a ConfigError that names the key, the value and the allowed range, before any work
starts.
"""

from luq.config.allocation import ERRORS, AllocationConfig, VisionBudget
from luq.config.calibration import CalibrationConfig
from luq.config.evaluation import SPLITS, EvaluationConfig
from luq.config.model import ModelConfig
from luq.config.order import MODALITIES, OrderConfig
from luq.config.paths import PathsConfig
from luq.config.profile import ProfileConfig
from luq.config.quantizer import (
    PROPAGATIONS,
    TIERS,
    ArbRcTier,
    BillmTier,
    Float16Tier,
    GgufTier,
    GptqTier,
    LayerTiers,
    OwnTier,
    QuantizerConfig,
    RefineConfig,
    RtnTier,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.config.run import RunConfig
from luq.config.tracking import TRACKERS, TrackingConfig

__all__ = [
    "ERRORS",
    "MODALITIES",
    "PROPAGATIONS",
    "SPLITS",
    "TIERS",
    "TRACKERS",
    "AllocationConfig",
    "ArbRcTier",
    "BillmTier",
    "CalibrationConfig",
    "EvaluationConfig",
    "Float16Tier",
    "GgufTier",
    "GptqTier",
    "LayerTiers",
    "ModelConfig",
    "OrderConfig",
    "OwnTier",
    "PathsConfig",
    "ProfileConfig",
    "QuantizerConfig",
    "RefineConfig",
    "RtnTier",
    "RunConfig",
    "TernaryTier",
    "TierConfig",
    "TrackingConfig",
    "TrellisTier",
    "VisionBudget",
]
