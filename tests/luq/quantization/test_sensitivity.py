from pathlib import Path

import pytest
import torch

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import CalibrationConfig, Float16Tier, LayerTiers, ModelConfig, RtnTier
from luq.formats.layer_file import PackedLayer, read_layer
from luq.models.families import LINEARS
from luq.models.vlm import VLM, load_vlm
from luq.quantization.gradients import next_token_loss
from luq.quantization.layer import runtime_modules
from luq.quantization.rest import quantize_part
from luq.quantization.sensitivity import (
    block_errors,
    delta_losses,
    fisher_losses,
    linear_output_errors,
    output_errors,
)
from luq.quantization.walk import install
from tests.conftest import pocket_samples
from tests.luq.models import tiny_families
from tests.luq.quantization.packing_by_hand import pack

TIERS = {
    "float16": Float16Tier(),
    "rtn8": RtnTier(bits=8),
    "rtn4": RtnTier(bits=4),
    "rtn2": RtnTier(bits=2),
}


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=512))


@pytest.fixture(scope="module")
def packed(
    vlm: VLM, calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("packed")
    count = len(vlm.layers)
    return {
        name: pack(vlm, calibration, root / name, [tier] * count) for name, tier in TIERS.items()
    }


def layers(folders: list[Path]) -> list[PackedLayer]:
    return [read_layer(folder) for folder in folders]


def test_errors_grow_as_bits_fall(
    vlm: VLM, calibration: CalibrationSet, packed: dict[str, list[Path]]
) -> None:
    of_layers = {t: output_errors(vlm, calibration, layers(packed[t])) for t in TIERS}
    assert max(of_layers["float16"]) < 1e-3
    for layer in range(len(vlm.layers)):
        errors = [of_layers[tier][layer] for tier in TIERS]
        assert errors == sorted(errors)
    for measure in (linear_output_errors, delta_losses, fisher_losses):
        eight = measure(vlm, calibration, layers(packed["rtn8"]))
        two = measure(vlm, calibration, layers(packed["rtn2"]))
        for layer in range(len(vlm.layers)):
            for name in LINEARS:
                assert 0 < eight[layer][name] < two[layer][name]
    assert not any(w.requires_grad or w.grad is not None for w in vlm.model.parameters())
    assert not vlm.standing


@torch.no_grad()
def test_output_error_is_that_of_the_layer_alone(
    vlm: VLM, calibration: CalibrationSet, packed: dict[str, list[Path]]
) -> None:
    """The last layer's error by two whole forward passes, all other layers in 16 bit."""
    last, outputs = len(vlm.layers) - 1, []

    def output() -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        hook = vlm.layers[last].register_forward_hook(
            lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for batch in calibration.batches():
            vlm.model(**inputs_of(batch, vlm.device), use_cache=False)
        hook.remove()
        return [s.double() for s in seen]

    vlm.restore()
    outputs.append(output())
    vlm.install(
        last, runtime_modules(vlm, last, read_layer(packed["rtn2"][last]), "rtn2", cache=False)
    )
    outputs.append(output())
    vlm.restore()
    wrong = sum(float((q - y).square().sum()) for y, q in zip(*outputs, strict=True))
    whole = sum(float(y.square().sum()) for y in outputs[0])
    assert output_errors(vlm, calibration, layers(packed["rtn2"]))[last] == pytest.approx(
        wrong / whole, rel=1e-4
    )


def test_delta_loss_bounds_the_first_order_change(
    vlm: VLM, calibration: CalibrationSet, packed: dict[str, list[Path]]
) -> None:
    """Sum of |g x error| is at least |sum of g x error|, which the loss follows for a small error."""
    of_linears = delta_losses(vlm, calibration, layers(packed["rtn8"]))
    found = [sum(errors.values()) for errors in of_linears]

    def loss() -> float:
        with torch.no_grad():
            return sum(float(part) for part in next_token_loss(vlm, calibration))

    tokens = sum(int((~s.image_mask[1:]).sum()) for s in calibration.samples)
    vlm.restore()
    before = loss()
    for layer in (0, len(vlm.layers) - 1):
        mixed = list(packed["float16"])
        mixed[layer] = packed["rtn8"][layer]
        install(vlm, mixed)
        assert abs(loss() - before) / tokens < found[layer] * 1.05 + 1e-4
        vlm.restore()


def test_the_fisher_loss_is_of_each_token_s_gradient_and_error(
    vlm: VLM, calibration: CalibrationSet, packed: dict[str, list[Path]]
) -> None:
    """By hand for one linear, from the gradient of the loss by its output."""
    index, name = 4, "mlp.down_proj"
    vlm.restore()
    linear = vlm.originals[index][name]
    difference = read_layer(packed["rtn2"][index])[name].dequantize() - linear.weight
    seen: list[torch.Tensor] = []

    def start_here(
        module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        seen[:] = [arguments[0], output.detach().requires_grad_()]
        return seen[1]

    hook = linear.register_forward_hook(start_here)
    total = 0.0
    for batch in calibration.batches():
        inputs = inputs_of(batch, vlm.device)
        logits = vlm.model(**inputs).logits[:, :-1]
        targets = inputs["input_ids"][:, 1:]
        logarithms = logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
        (-logarithms[~vlm.image_mask(targets)].sum()).backward()
        assert seen[1].grad is not None
        change = torch.einsum("bto,oi,bti->bt", seen[1].grad, difference, seen[0])
        total += float(change.square().sum())
    hook.remove()
    tokens = sum(int((~s.image_mask[1:]).sum()) for s in calibration.samples)
    found = fisher_losses(vlm, calibration, layers(packed["rtn2"]))
    assert found[index][name] == pytest.approx(total / (2 * tokens), rel=1e-3)


def test_only_what_differs_is_swapped(vlm: VLM, packed: dict[str, list[Path]]) -> None:
    count = len(vlm.layers)
    assert install(vlm, packed["rtn4"]) == count
    assert install(vlm, packed["rtn4"]) == 0
    before = [vlm.layers[i].get_submodule(LINEARS[0]) for i in range(count)]
    mixed = [packed["rtn2" if i in (2, 5) else "rtn4"][i] for i in range(count)]
    assert install(vlm, mixed) == 2
    after = [vlm.layers[i].get_submodule(LINEARS[0]) for i in range(count)]
    assert [a is b for a, b in zip(before, after, strict=True)] == [
        i not in (2, 5) for i in range(count)
    ]
    assert install(vlm, packed["rtn2"]) == count - 2
    vlm.restore()
    assert all(
        vlm.layers[i].get_submodule(name) is vlm.originals[i][name]
        for i in range(count)
        for name in LINEARS
    )


@torch.no_grad()
def test_a_blocks_error_is_that_of_what_the_decoder_is_given(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    """By whole runs of the model with the block's 16-bit weights changed."""
    packed = quantize_part(vlm, "vision", LayerTiers(TIERS["rtn2"]), None)
    embeddings: list[torch.Tensor] = []
    handle = vlm.model.get_decoder().register_forward_pre_hook(
        lambda m, a, options: embeddings.append(options["inputs_embeds"]), with_kwargs=True
    )
    batches = [batch for batch in calibration.batches() if batch[0].multimodal]

    def given() -> torch.Tensor:
        embeddings.clear()
        for batch in batches:
            vlm.model(**inputs_of(batch, vlm.device))
        return torch.cat([tensor.flatten() for tensor in embeddings]).double()

    errors = block_errors(vlm, calibration, packed)
    assert [error.block for error in errors] == [
        f"vision_tower.encoder.layers.{i}" for i in range(4)
    ]
    assert sorted(name for error in errors for name in error.linears) == sorted(packed)
    full = given()
    tower = vlm.model.model.vision_tower.encoder.layers[1]
    own = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    for name in errors[1].linears:
        module = tower.get_submodule(name.split("layers.1.")[1])
        module.weight.copy_(packed[name].dequantize())
    changed = given()
    tower.load_state_dict(own)
    handle.remove()
    expected = float((changed - full).square().sum() / full.square().sum())
    assert errors[1].error == pytest.approx(expected, rel=1e-3)
    assert not vlm.standing_parts


@pytest.mark.parametrize(
    ("family", "is_seen"),
    [
        ("llava", [True, True, False]),
        ("mllama", [True] * 3),
        ("llava_onevision", [True] * 3 + [False]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_block_that_the_model_does_not_look_at_costs_nothing(
    family: str, is_seen: list[bool], tmp_path: Path
) -> None:
    """LLaVA takes the block before the last, Mllama attends to the tower's states."""
    folder = tiny_families.write(tmp_path / family, family)
    tiny = load_vlm(ModelConfig(family, str(folder), device="cpu"))
    config = CalibrationConfig("images", alpha=1.0, tokens=256, sample_tokens=64)
    samples = pocket_samples(tiny, config)
    packed = quantize_part(tiny, "vision", LayerTiers(RtnTier(bits=2, group_size=8)), None)
    errors = block_errors(tiny, samples, packed)
    assert [error.error > 0 for error in errors] == is_seen
    assert [error.block for error in errors if not error.block] == [""] * (len(is_seen) - 3)
