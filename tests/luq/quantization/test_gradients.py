"""What tokens count by the gradients of the calibration loss."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig, LayerTiers, QuantizerConfig
from luq.config.named_tiers import NAMED_TIERS
from luq.errors import ConfigError, DataError, ModelError
from luq.models.vlm import VLM
from luq.quantization.gradients import (
    LEAST_WEIGHT,
    Squares,
    by_modality,
    next_token_loss,
    read_squares,
    squared_gradients,
    token_weights,
    write_squares,
)
from luq.quantization.layer import hessians, quantize_layer
from luq.quantization.states import first_inputs
from tests.conftest import pocket_samples

LAST = "mlp.down_proj"


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=512))


@pytest.fixture(scope="module")
def squares(vlm: VLM, calibration: CalibrationSet) -> list[Squares]:
    return squared_gradients(vlm, calibration)


def test_squares_are_those_of_gradients_by_finite_differences(
    vlm: VLM, calibration: CalibrationSet, squares: list[Squares]
) -> None:
    """A step along any direction d changes the loss by g . d, so one along g by |g|."""
    layer = len(vlm.layers) - 1
    first = calibration.samples[0]
    one = replace(calibration, samples=[first])
    alone = squared_gradients(vlm, one)[layer][LAST]
    token = int(alone.argmax())
    linear = vlm.layers[layer].get_submodule(LAST)
    direction = _gradient(vlm, one, linear)[token]

    def loss(step: float) -> float:
        def move(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            moved = output.clone()
            moved[0, token] += step * direction / direction.norm()
            return moved

        handle = linear.register_forward_hook(move)
        try:
            with torch.no_grad():
                return sum(float(part) for part in next_token_loss(vlm, one))
        finally:
            handle.remove()

    step = 0.02
    slope = (loss(step) - loss(-step)) / (2 * step)
    assert slope**2 == pytest.approx(float(alone[token]), rel=0.05)


def _gradient(vlm: VLM, samples: CalibrationSet, linear: nn.Module) -> torch.Tensor:
    """Of the summed loss by a linear's output [tokens, width], by torch alone."""
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = linear.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            (loss,) = next_token_loss(vlm, samples)
            (gradient,) = torch.autograd.grad(loss, seen)
    finally:
        handle.remove()
    return gradient[0]


def test_tokens_are_in_the_order_of_the_batches(
    vlm: VLM, calibration: CalibrationSet, squares: list[Squares]
) -> None:
    tokens = calibration.tokens
    assert all(len(values) == tokens for layer in squares for values in layer.values())
    sample = next(calibration.batches())[0]
    alone = squared_gradients(vlm, replace(calibration, samples=[sample]))
    for name, values in alone[0].items():
        assert torch.allclose(squares[0][name][: sample.tokens], values, rtol=1e-3)


def test_the_last_token_of_a_sample_says_nothing_and_still_counts(
    calibration: CalibrationSet, squares: list[Squares]
) -> None:
    """No token is predicted from it, so no gradient reaches it in the last layer."""
    last = next(calibration.batches())[0].tokens - 1
    assert float(squares[-1][LAST][last]) == 0
    weights = token_weights(squares[-1], [LAST])
    assert float(weights[last]) == pytest.approx(LEAST_WEIGHT)
    assert float(weights.mean()) == pytest.approx(1, abs=2 * LEAST_WEIGHT)


def test_weights_are_lengths_of_the_gradient_by_all_outputs() -> None:
    squares = {"q": torch.tensor([9.0, 0.0, 1.0]), "k": torch.tensor([16.0, 0.0, 0.0])}
    assert token_weights(squares, ["q", "k"]).tolist() == pytest.approx([2.5, LEAST_WEIGHT, 0.5])
    assert token_weights({"q": torch.zeros(3)}, ["q"]).tolist() == [1, 1, 1]


def test_by_modality_a_token_counts_as_the_mean_of_its_kind() -> None:
    images = torch.tensor([True, True, False, False, False])
    squares = {"q": torch.tensor([1.0, 9.0, 0.0, 0.0, 36.0]), "k": torch.zeros(5)}
    averaged = by_modality(squares, images)
    assert averaged["q"].tolist() == [4, 4, 4, 4, 4]
    assert averaged["k"].tolist() == [0, 0, 0, 0, 0]
    assert token_weights(averaged, ["q", "k"]).tolist() == [1, 1, 1, 1, 1]
    squares["q"][1] = 25
    weights = token_weights(by_modality(squares, images), ["q", "k"])
    assert weights.tolist() == pytest.approx([3 / 2.4, 3 / 2.4, 2 / 2.4, 2 / 2.4, 2 / 2.4])


def test_text_alone_counts_alike_by_modality() -> None:
    squares = by_modality({"q": torch.tensor([1.0, 4.0])}, torch.tensor([False, False]))
    assert token_weights(squares, ["q"]).tolist() == [1, 1]


@torch.no_grad()
def test_hessians_count_tokens_by_their_gradients(
    vlm: VLM, calibration: CalibrationSet, squares: list[Squares]
) -> None:
    weighted = replace(calibration, image_weight=0.5)
    states = first_inputs(vlm, weighted, squares=squares)
    seen: list[torch.Tensor] = []
    group = ("self_attn.q_proj", "self_attn.k_proj")
    hook = vlm.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].flatten(0, -2))
    )
    found = hessians(vlm.layers[0], states, (group,))[group[0]]
    hook.remove()
    inputs = torch.cat(seen).double()
    weights = token_weights(squares[0], group).double()
    weights *= torch.where(calibration.image_mask(), 0.5, 1.0)
    wanted = 2 * (inputs * weights[:, None]).T @ inputs / weights.sum()
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_small_batches_have_the_same_tokens_weights(
    vlm: VLM, calibration: CalibrationSet, squares: list[Squares]
) -> None:
    def weights(batch_tokens: int) -> torch.Tensor:
        states = first_inputs(vlm, calibration, None, batch_tokens, squares=squares)
        return torch.cat([state.weights([LAST]) for state in states])

    assert torch.equal(weights(64), weights(2048))


def test_files_give_back_what_was_written(tmp_path: Path, squares: list[Squares]) -> None:
    write_squares(squares, tmp_path / "file")
    found = read_squares(tmp_path / "file", len(squares))
    for layer, expected in zip(found, squares, strict=True):
        assert layer.keys() == expected.keys()
        assert all(torch.equal(layer[name], expected[name]) for name in layer)


def test_a_linear_that_is_given_other_tokens_is_named(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    with (
        _Twice(vlm.layers[0].mlp),
        pytest.raises(ModelError, match=r"(?s)layer 0 mlp.gate_proj is given 184 .*weights=count"),
    ):
        squared_gradients(vlm, calibration)


class _Twice:
    """Calls a module two times, and gives the mean of both."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward = module.forward

    def __enter__(self) -> None:
        self.module.forward = lambda x: (self.forward(x) + self.forward(x)) / 2

    def __exit__(self, *error: object) -> None:
        del self.module.forward


@pytest.fixture
def broken(vlm: VLM) -> Iterator[None]:
    """The last layer's gradients are NaN."""
    head = vlm.model.get_output_embeddings()
    handle = head.register_full_backward_hook(
        lambda module, given, taken: tuple(g * float("nan") for g in given)
    )
    yield
    handle.remove()


@pytest.mark.usefixtures("broken")
def test_a_gradient_that_is_none_names_its_linear(vlm: VLM, calibration: CalibrationSet) -> None:
    with pytest.raises(DataError, match=r"layer \d+ .*gradient .* NaN or infinite.*float32"):
        squared_gradients(vlm, calibration)


def test_unknown_weights_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"quantizer\.token_weights='norm' .*count, gradient"):
        QuantizerConfig("rtn4", "rtn4", tiers=dict(NAMED_TIERS), token_weights="norm")


def test_layers_are_packed_with_them(
    vlm: VLM, calibration: CalibrationSet, squares: list[Squares]
) -> None:
    tiers = LayerTiers(NAMED_TIERS["gptq3"])
    plain = quantize_layer(vlm, 0, tiers, first_inputs(vlm, calibration))
    guided = quantize_layer(vlm, 0, tiers, first_inputs(vlm, calibration, squares=squares))
    assert not torch.equal(plain[LAST].buffers["codes"], guided[LAST].buffers["codes"])
