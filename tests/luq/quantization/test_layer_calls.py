"""How a layer calls its linears, and what packed ones are asked for only once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig, GptqTier, LayerTiers
from luq.formats.linear import PackedLinear
from luq.models.families import LINEARS
from luq.models.vlm import VLM
from luq.quantization.layer import quantize_layer
from luq.quantization.layer_calls import KnownOutputs, calls_of
from luq.quantization.states import State, first_inputs
from tests.conftest import pocket_samples


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=1024))


def test_the_smallest_batch_says_how_a_layer_calls_its_linears(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    states = first_inputs(vlm, calibration)
    assert min(state.tokens for state in states) < states[0].tokens
    seen: list[int] = []
    hook = vlm.layers[0].register_forward_pre_hook(lambda m, x: seen.append(x[0][..., 0].numel()))
    try:
        calls = calls_of(vlm.layers[0], states)
    finally:
        hook.remove()
    assert seen == [min(state.tokens for state in states)]
    assert calls.groups[0] == ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    assert calls.counts == dict.fromkeys(LINEARS, 1)


@pytest.mark.parametrize("room", [4.0, 0.0], ids=["room for all", "no room"])
def test_packed_linears_compute_each_batch_once_if_there_is_room(
    vlm: VLM, calibration: CalibrationSet, room: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is packed is the same, bit for bit."""
    tiers = LayerTiers(GptqTier(bits=2))
    expected = quantize_layer(vlm, 1, tiers, first_inputs(vlm, calibration))
    states = first_inputs(vlm, calibration)
    monkeypatch.setattr(vlm, "config", replace(vlm.config, activations_gb=room))
    products: Counter[tuple[int, int]] = Counter()
    compute = PackedLinear.forward

    def forward(self: PackedLinear, x: Tensor) -> Tensor:
        products.update([(self.out_features, self.in_features)])
        return compute(self, x)

    monkeypatch.setattr(PackedLinear, "forward", forward)
    packed = quantize_layer(vlm, 1, tiers, states)
    for name, weight in packed.items():
        for buffer, stored in weight.buffers.items():
            assert torch.equal(stored, expected[name].buffers[buffer])
    # before o: q, k and v; before gate and up: these again, and o; before down: all
    passes = {"q_proj": 3, "k_proj": 3, "v_proj": 3, "o_proj": 2, "gate_proj": 1, "up_proj": 1}
    runs: Counter[tuple[int, int]] = Counter()
    for name in LINEARS:
        linear = vlm.originals[1][name]
        times = passes.get(name.rpartition(".")[2], 0)
        runs[linear.out_features, linear.in_features] += min(times, 1) if room else times
    assert products == {shape: count * len(states) for shape, count in runs.items() if count}


class Doubling(nn.Module):
    """Counts its calls, too."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


class Asked(NamedTuple):
    """A linear whose outputs are remembered, and what remembers them."""

    linear: Any
    outputs: KnownOutputs

    def in_a_pass(self, state: State, *inputs: Tensor) -> list[Tensor]:
        """What it gives for the calls of one pass of a batch."""
        self.outputs.begin(state)
        return [self.linear(x) for x in inputs]


def asked(counts: Mapping[str, int], room_bytes: float = 1e9) -> Asked:
    linear = Doubling()
    outputs = KnownOutputs(room_bytes, counts)
    outputs.remember({"a": linear})
    return Asked(linear, outputs)


@torch.no_grad()
def test_outputs_that_a_layer_wrote_into_are_computed_anew(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    state = first_inputs(vlm, calibration)[0]
    known = asked({"a": 1})
    x = torch.ones(3)
    (first,) = known.in_a_pass(state, x)
    assert known.in_a_pass(state, x)[0] is first
    assert known.linear.calls == 1
    first.add_(1)
    assert torch.equal(known.in_a_pass(state, x)[0], 2 * x)
    assert known.linear.calls == 2


@torch.no_grad()
@pytest.mark.parametrize(
    ("counts", "room_bytes"), [({"a": 2}, 1e9), ({"a": 1}, 11.0)], ids=["called twice", "no room"]
)
def test_what_is_called_twice_or_has_no_room_is_not_remembered(
    vlm: VLM, calibration: CalibrationSet, counts: dict[str, int], room_bytes: float
) -> None:
    state = first_inputs(vlm, calibration)[0]
    known = asked(counts, room_bytes)
    x = torch.ones(3)
    for _ in range(2):
        assert torch.equal(known.in_a_pass(state, x)[0], 2 * x)
    assert known.linear.calls == 2


@torch.no_grad()
def test_a_batch_may_call_a_linear_more_often_than_the_smallest_did(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    """As layers do that cut long batches into pieces: each piece has its own output."""
    state = first_inputs(vlm, calibration)[0]
    known = asked({"a": 1})
    pieces = [torch.ones(3), torch.full((3,), 5.0)]
    for _ in range(2):
        outputs = known.in_a_pass(state, *pieces)
        assert [output.tolist() for output in outputs] == [[2.0] * 3, [10.0] * 3]
    assert known.linear.calls == 3
