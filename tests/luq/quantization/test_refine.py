"""Refinement: a layer's output comes nearer to the 16-bit model's, and never goes further away."""

from pathlib import Path

import pytest
import torch

from luq.calibration.samples import CalibrationSet
from luq.config import (
    CalibrationConfig,
    GptqTier,
    LayerTiers,
    RefineConfig,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.errors import DataError
from luq.formats.layer_file import PackedLayer
from luq.models.vlm import VLM
from luq.quantization.layer import quantize_layer, runtime_modules
from luq.quantization.refine import LESSON_TOKENS, LayerRefiner, lessons_of
from luq.quantization.states import first_inputs
from luq.quantization.tuning import Lessons
from tests.conftest import pocket_samples

SETTINGS = RefineConfig(steps=8, batch=256, held_out=0.25)
TIERS: dict[str, TierConfig] = {
    "gptq2": GptqTier(bits=2, group_size=32),
    "ternary": TernaryTier(group_size=32),
    "trellis2": TrellisTier(bits=2, window=8),
}


@pytest.fixture(scope="module")
def samples(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=2048))


@pytest.fixture(scope="module")
def lessons(vlm: VLM, samples: CalibrationSet) -> Lessons:
    states = first_inputs(vlm, samples, batch_tokens=LESSON_TOKENS)
    return lessons_of(vlm.layers[0], states, states, SETTINGS.held_out)


def packed_layer(vlm: VLM, lessons: Lessons, tier: TierConfig, refined: bool) -> PackedLayer:
    states = [lesson.state for lesson in (*lessons.taught, *lessons.held_out)]
    refiner = LayerRefiner(vlm, 0, lessons, SETTINGS) if refined else None
    return quantize_layer(vlm, 0, LayerTiers(tier), states, refiner)


def held_out_error(vlm: VLM, lessons: Lessons, packed: PackedLayer) -> float:
    vlm.install(0, runtime_modules(vlm, 0, packed, "measured", cache=True))
    try:
        return lessons.held_out_error(vlm.layers[0])
    finally:
        vlm.install(0, None)


@pytest.mark.parametrize("tier", TIERS)
def test_a_refined_layer_is_nearer_to_the_16_bit_one(
    vlm: VLM, lessons: Lessons, tier: str
) -> None:
    plain = packed_layer(vlm, lessons, TIERS[tier], refined=False)
    refined = packed_layer(vlm, lessons, TIERS[tier], refined=True)
    error = held_out_error(vlm, lessons, refined)
    print(tier, held_out_error(vlm, lessons, plain), error)
    assert 0 < error < held_out_error(vlm, lessons, plain)
    for name, weight in refined.items():
        assert weight.ledger() == plain[name].ledger()
