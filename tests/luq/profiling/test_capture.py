"""Which tokens' vectors are picked out of a forward pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig
from luq.models.vlm import VLM
from luq.profiling.capture import LayerOutputs, choose_tokens, hidden_states, layer_outputs
from tests.conftest import pocket_samples


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=2048))


def test_as_many_tokens_of_each_modality_are_drawn_as_asked_for() -> None:
    mask = torch.arange(50) % 5 == 0
    chosen = choose_tokens(mask, 8, 0)
    assert list(chosen) == ["all", "image", "text"]
    for positions in chosen.values():
        assert len(positions) == 8
        assert positions.tolist() == sorted(set(positions.tolist()))
    assert mask[chosen["image"]].all()
    assert not mask[chosen["text"]].any()


def test_fewer_tokens_than_asked_for_are_all_drawn() -> None:
    mask = torch.arange(50) % 5 == 0
    chosen = choose_tokens(mask, 10**6, 0)
    assert torch.equal(chosen["all"], torch.arange(50))
    assert torch.equal(chosen["image"], torch.arange(0, 50, 5))


def test_without_images_the_text_tokens_are_those_of_all() -> None:
    chosen = choose_tokens(torch.zeros(500, dtype=torch.bool), 50, 3)
    assert torch.equal(chosen["all"], chosen["text"])


def test_the_draw_depends_on_the_seed() -> None:
    mask = torch.arange(500) % 5 == 0
    assert torch.equal(choose_tokens(mask, 50, 3)["all"], choose_tokens(mask, 50, 3)["all"])
    assert not torch.equal(choose_tokens(mask, 50, 3)["all"], choose_tokens(mask, 50, 4)["all"])


@pytest.mark.parametrize(("image", "left_out"), [(False, "image"), (True, "text")])
def test_a_modality_without_tokens_is_left_out(image: bool, left_out: str) -> None:
    chosen = choose_tokens(torch.full((50,), image), 10, 0)
    assert set(chosen) == {"all", "image", "text"} - {left_out}


def test_shapes_and_types_are_checked_in_tests() -> None:
    with pytest.raises(Exception, match=r"violates type hint|Type-check"):
        choose_tokens(torch.zeros(5), 2, 0)


def test_a_layer_may_return_a_tuple() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(hidden_states((hidden, None)), hidden.reshape(6, 2))
    assert torch.equal(hidden_states(hidden), hidden.reshape(6, 2))


def test_chosen_rows_are_found_in_every_batch(tmp_path: Path) -> None:
    """Positions count over all batches; a batch may hold none of them."""
    layers = nn.ModuleList([nn.Identity(), nn.Identity()])
    outputs = LayerOutputs(layers, {"all": torch.tensor([0, 3, 4, 9, 11])}, tmp_path)
    batches = torch.arange(24.0).reshape(12, 2).split([4, 4, 1, 3])
    for batch in batches:
        for scale, layer in enumerate(layers, 1):
            layer(scale * batch[None])
        outputs.advance(len(batch))
    outputs.finish()
    layers[0](batches[0])  # no longer watched
    expected = torch.arange(24.0).reshape(12, 2)[[0, 3, 4, 9, 11]]
    assert len(outputs) == 2
    assert torch.equal(outputs[0]["all"], expected)
    assert torch.equal(outputs[1]["all"], 2 * expected)
    assert [set(rows) for rows in outputs[0:2]] == [{"all"}, {"all"}]
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_vectors_are_given_in_fp32(tmp_path: Path) -> None:
    layers = nn.ModuleList([nn.Identity()])
    outputs = LayerOutputs(layers, {"all": torch.tensor([1])}, tmp_path)
    layers[0](torch.ones(1, 2, 4, dtype=torch.bfloat16))
    assert outputs[0]["all"].dtype == torch.float32


def test_all_layers_give_the_chosen_tokens(vlm: VLM, calibration: CalibrationSet) -> None:
    outputs = layer_outputs(vlm, calibration, tokens=100, seed=0)
    assert len(outputs) == len(vlm.layers)
    for modality in ("all", "image", "text"):
        assert outputs[0][modality].shape == (100, 128)
    everything = layer_outputs(vlm, calibration, tokens=10**6, seed=0)
    mask = calibration.image_mask()
    assert len(everything[0]["image"]) == int(mask.sum())
    chosen = choose_tokens(mask, 100, 0)
    for layer in (0, len(vlm.layers) - 1):
        assert torch.equal(outputs[layer]["text"], everything[layer]["all"][chosen["text"]])
        assert torch.equal(everything[layer]["image"], everything[layer]["all"][mask])


def test_tokens_may_go_through_the_model_with_products_in_bf16(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    exact = layer_outputs(vlm, calibration, tokens=100, seed=0)[0]["all"]
    rough = layer_outputs(vlm, replace(calibration, compute="bfloat16"), tokens=100, seed=0)
    assert rough[0]["all"].dtype == torch.float32
    error = (rough[0]["all"] - exact).norm() / exact.norm()
    assert 1e-5 < float(error) < 0.02


def test_hooks_are_gone_when_a_forward_pass_fails(
    vlm: VLM, calibration: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = [list(layer._forward_hooks) for layer in vlm.layers]
    monkeypatch.setattr(vlm.model.base_model, "forward", fail)
    with pytest.raises(KeyboardInterrupt):
        layer_outputs(vlm, calibration, tokens=10, seed=0)
    assert [list(layer._forward_hooks) for layer in vlm.layers] == before
