"""Refinement: a layer's output comes nearer to the 16-bit model's, and never goes further away."""

from pathlib import Path

import pytest
import torch
from torch import nn

from luq.calibration.samples import CalibrationSet
from luq.config import (
    CalibrationConfig,
    GptqTier,
    LayerTiers,
    RefineConfig,
    RtnTier,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.errors import DataError
from luq.formats.base import GridCodes
from luq.formats.layer_file import PackedLayer
from luq.models.scratch import Parked, Scratch
from luq.models.vlm import VLM
from luq.quantization.layer import quantize_layer, runtime_modules
from luq.quantization.methods import make_quantizer
from luq.quantization.refine import LESSON_TOKENS, LayerRefiner, lessons_of
from luq.quantization.refit import follow, refit
from luq.quantization.rounding import MARGIN, TunedRounding
from luq.quantization.states import first_inputs
from luq.quantization.tuning import Lesson, Lessons, TrialLinear
from tests.conftest import pocket_samples

SETTINGS = RefineConfig(fit=True, steps=4, rate=0.2, batch=512, held_out=0.25)
TIERS: dict[str, TierConfig] = {
    "rtn2": RtnTier(bits=2, group_size=32),
    "gptq2": GptqTier(bits=2, group_size=32),
    "ternary": TernaryTier(group_size=32),
    "trellis2": TrellisTier(bits=2, window=8),
}


@pytest.fixture(scope="module")
def samples(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=1024))


@pytest.fixture(scope="module")
def lessons(vlm: VLM, samples: CalibrationSet) -> Lessons:
    vlm.restore()
    states = first_inputs(vlm, samples, batch_tokens=LESSON_TOKENS)
    return lessons_of(vlm.layers[0], states, states, SETTINGS.held_out)


def pack(vlm: VLM, lessons: Lessons, tier: TierConfig, refined: bool = True) -> PackedLayer:
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
def test_a_refined_layer_is_nearer_to_the_16_bit_one_in_as_many_bytes(
    vlm: VLM, lessons: Lessons, tier: str
) -> None:
    plain = pack(vlm, lessons, TIERS[tier], refined=False)
    refined = pack(vlm, lessons, TIERS[tier])
    error = held_out_error(vlm, lessons, refined)
    assert 0 < error < 0.99 * held_out_error(vlm, lessons, plain)
    for name, weight in refined.items():
        assert weight.ledger() == plain[name].ledger()


def test_the_same_layer_is_refined_to_the_same_bytes_and_the_model_is_left_as_it_was(
    vlm: VLM, lessons: Lessons
) -> None:
    before = {name: weight.clone() for name, weight in vlm.original(0).items()}
    first = pack(vlm, lessons, TIERS["rtn2"])
    second = pack(vlm, lessons, TIERS["rtn2"])
    for name, weight in first.items():
        for buffer, stored in weight.buffers.items():
            assert torch.equal(stored, second[name].buffers[buffer])
    assert 0 not in vlm.standing
    for name, weight in vlm.original(0).items():
        assert torch.equal(weight, before[name])
        assert type(vlm.layers[0].get_submodule(name)) is nn.Linear
        assert not weight.requires_grad


def test_one_batch_is_too_little(vlm: VLM, samples: CalibrationSet) -> None:
    states = first_inputs(vlm, samples)[:1]
    with pytest.raises(DataError, match=r"Raise calibration\.tokens, or set"):
        lessons_of(vlm.layers[0], states, states, 0.125)


def test_held_out_lessons_are_spread_evenly_and_never_taught(lessons: Lessons) -> None:
    state = lessons.taught[0].state
    sixteen = [Lesson(state, Parked(torch.tensor(place)), {}, ()) for place in range(16)]
    split = Lessons.of(sixteen, 0.25)
    assert [int(lesson.target.get()) for lesson in split.held_out] == [2, 6, 10, 14]
    assert sorted(map(id, (*split.taught, *split.held_out))) == sorted(map(id, sixteen))
    assert Lessons.of(sixteen, 0.0).held_out == []
    assert len(Lessons.of(sixteen[:2], 0.1).held_out) == 1


def test_steps_have_as_many_tokens_as_asked_for(lessons: Lessons) -> None:
    steps = lessons.steps(600, torch.Generator().manual_seed(0))
    for _ in range(3):
        assert sum(lesson.tokens for lesson in next(steps)) >= 600
    more_than_all = lessons.steps(10**6, torch.Generator().manual_seed(0))
    assert len(next(more_than_all)) == len(lessons.taught)


def test_a_rounding_starts_at_the_codes_that_it_was_given() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 70, generator=generator)
    packed = make_quantizer(RtnTier(bits=2, group_size=32)).quantize(weight, None)
    coded = packed.grid_codes()
    assert coded is not None
    # codes that nearest rounding would not give
    moved = coded._replace(
        codes=(coded.codes + torch.randint(-1, 2, coded.codes.shape)).clamp(0, 3)
    )
    rounding = TunedRounding(moved, weight)
    stored = rounding.stored()
    assert torch.equal(stored.codes, moved.codes)
    assert torch.equal(stored.scale, moved.scale)
    assert torch.equal(stored.zero, moved.zero)
    assert torch.equal(packed.with_codes(stored).dequantize(), rounding.values())


def test_a_rounding_steps_against_the_gradient() -> None:
    # One weight of three on the grid {0, 1, 2, 3}: it is rounded to 1, and 2 is wanted.
    coded = GridCodes(
        torch.tensor([[0.0, 1.0, 3.0]]), torch.ones(1, 1), torch.zeros(1, 1), 4, 3, False
    )
    rounding = TunedRounding(coded, torch.tensor([[0.0, 1.4, 3.0]]))
    assert rounding.values().tolist() == [[0.0, 1.0, 3.0]]
    for parameter in rounding.parameters:
        parameter.requires_grad_()
    rounding.values()[0, 1].sub(2).square().backward()  # type: ignore[no-untyped-call]
    assert rounding.offset.grad is not None
    assert rounding.offset.grad.tolist() == [[0, -2, 0]]
    rounding.step(0.2)
    assert rounding.offset.tolist() == [[0, pytest.approx(0.2), 0]]
    assert rounding.offset.grad is None
    assert rounding.stored().codes.tolist() == [[0, 2, 3]]


def test_a_place_far_from_its_code_is_drawn_to_its_edge() -> None:
    coded = GridCodes(torch.tensor([[1.0, 0.0]]), torch.ones(1, 1), torch.zeros(1, 1), 4, 2, False)
    rounding = TunedRounding(coded, torch.tensor([[2.9, -5.0]]))
    # the first code has no end below
    assert rounding.weight.tolist() == [[pytest.approx(1.5 - MARGIN), -5.0]]


def test_the_last_linear_is_refitted_to_what_stands_before_it(vlm: VLM, lessons: Lessons) -> None:
    layer = vlm.layers[0]
    trials = {
        name: TrialLinear(weight.float().clone(), vlm.bias(0, name))
        for name, weight in vlm.original(0).items()
    }
    name, last = list(trials.items())[-1]
    original = last.weight.clone()
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    last.weight += 0.1 * original.std() * noise
    vlm.install(0, dict(trials))
    try:
        damaged = lessons.held_out_error(layer)
        left = refit(layer, name, last, lessons)
        assert lessons.held_out_error(layer) < 0.5 * damaged
        assert 0 < left < 0.5
        # queries are not added to the layer's output
        first = next(iter(trials))
        assert refit(layer, first, trials[first], lessons) == 1.0
    finally:
        vlm.install(0, None)


def test_linears_follow_their_16_bit_outputs(vlm: VLM, lessons: Lessons) -> None:
    layer = vlm.layers[0]
    name = next(iter(lessons.taught[0].inputs))
    original = vlm.original(0)[name].float()
    damaged = TrialLinear(1.1 * original, vlm.bias(0, name))
    vlm.install(0, {name: damaged})
    try:
        left = follow(layer, [name], [(damaged, original)], lessons)
    finally:
        vlm.install(0, None)
    # its inputs are those of the 16-bit model here: nothing but the damage is to be undone
    assert left < 0.1
    assert (damaged.weight - original).norm() < 0.5 * (0.1 * original).norm()


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_what_waits_comes_back(tmp_path: Path, is_on_disk: bool) -> None:
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    parked = Parked(first, Scratch(tmp_path) if is_on_disk else None)
    assert torch.equal(parked.get(), first)
    parked.put(second)
    assert torch.equal(parked.get(), second)
