"""A walk through a model: what each layer receives, and what stands in the model afterwards."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet
from luq.config import (
    BillmTier,
    CalibrationConfig,
    Float16Tier,
    GptqTier,
    LayerTiers,
    ModelConfig,
    RtnTier,
    TierConfig,
)
from luq.errors import DataError, ModelError, StoreError
from luq.formats.known import FORMATS
from luq.formats.layer_file import FILE, layer_size, read_layer
from luq.formats.linear import PackedLinear
from luq.formats.memory import linear_weights, peak_bytes, rest_ledger
from luq.formats.sizes import memory
from luq.models.families import LINEARS
from luq.models.vlm import VLM, load_vlm
from luq.quantization.hessian import SHRINKAGES, HessianSum
from luq.quantization.layer import hessians, quantize_layer
from luq.quantization.layer_calls import KnownOutputs, calls_of
from luq.quantization.states import first_inputs
from luq.quantization.walk import Walk, assert_installed, install
from tests.conftest import pocket_samples
from tests.luq.quantization.packing_by_hand import pack

TIERS: dict[str, TierConfig] = {
    "float16": Float16Tier(),
    "gptq4": GptqTier(bits=4, act_order=True, static_groups=True),
    "gptq2": GptqTier(bits=2),
    "rtn4": RtnTier(),
    "billm": BillmTier(act_order=True),
    "billm_faithful": BillmTier(faithful=True, true_sequential=False),
}


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=1024))


@pytest.mark.parametrize("tier", TIERS)
def test_ledger_and_files_agree_to_the_byte(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path, tier: str
) -> None:
    count = len(vlm.layers)
    folders = pack(vlm, calibration, tmp_path, [TIERS[tier]] * count)
    sizes = [layer_size(folder, read_layer(folder)) for folder in folders]
    for size, folder in zip(sizes, folders, strict=True):
        assert sum(size.ledger.values()) == size.bytes == (folder / FILE).stat().st_size
    measured = memory(sizes, rest_ledger(vlm), peak_bytes())
    assert measured.stored_bytes == sum((folder / FILE).stat().st_size for folder in folders)
    assert measured.stored_bits == 8 * measured.stored_bytes / measured.weights
    assert measured.checkpoint_bytes == sum(measured.ledger.values())
    total = sum(parameter.numel() for parameter in vlm.model.parameters())
    assert measured.weights == linear_weights(vlm)
    assert measured.rest_bytes == 2 * (total - linear_weights(vlm))
    assert 0 < sizes[0].ledger["header"] < 4000


@torch.no_grad()
def test_float16_answers_like_the_model_itself(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    folders = pack(vlm, calibration, tmp_path, [TIERS["float16"]] * len(vlm.layers))
    ids = torch.arange(5, 45).unsqueeze(0)
    before = vlm.model(input_ids=ids).logits
    install(vlm, folders)
    try:
        after = vlm.model(input_ids=ids).logits
    finally:
        vlm.restore()
    again = vlm.model(input_ids=ids).logits
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.equal(before, again)


@torch.no_grad()
def test_installed_layers_compute_with_the_files(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    tiers = [TIERS["gptq2"], *[TIERS["rtn4"]] * (len(vlm.layers) - 1)]
    folders = pack(vlm, calibration, tmp_path, tiers)
    assert install(vlm, folders) == len(folders)
    assert install(vlm, folders) == 0, "what stands is not read again"
    try:
        assert_installed(vlm, folders)
        for index, folder in enumerate(folders):
            packed = read_layer(folder)
            for name in LINEARS:
                module = vlm.layers[index].get_submodule(name)
                assert isinstance(module, PackedLinear)
                assert module.tier == folder.name
                unit_vectors = torch.eye(module.in_features)
                assert torch.equal(module(unit_vectors).T, packed[name].dequantize())
    finally:
        vlm.restore()


def test_what_stands_is_checked_against_the_files(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    folders = pack(vlm, calibration, tmp_path, [TIERS["rtn4"]] * len(vlm.layers))
    with pytest.raises(ModelError, match="layer 0 should be"):
        assert_installed(vlm, folders)
    install(vlm, folders)
    try:
        vlm.layers[3].self_attn.k_proj.scales[0, 0] *= 2
        with pytest.raises(ModelError, match=r"scales of layer 3 self_attn\.k_proj in memory"):
            assert_installed(vlm, folders)
    finally:
        vlm.restore()


def test_exact_equals_quantizing_by_hand(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    """Layer 1 is what one gets by installing layer 0 and quantizing on the model's own inputs."""
    tier = TIERS["gptq2"]
    folders = pack(vlm, calibration, tmp_path, [tier, tier], exact=True)
    states = first_inputs(vlm, calibration)
    install(vlm, folders[:1])
    try:
        for state in states:
            state.advance(state.output(vlm.layers[0]))
    finally:
        vlm.restore()
    by_hand = quantize_layer(vlm, 1, LayerTiers(tier), states)
    stored = read_layer(folders[1])
    for name in LINEARS:
        for buffer, content in by_hand[name].buffers.items():
            assert torch.equal(content, stored[name].buffers[buffer])


def test_linears_of_a_layer_are_each_in_their_tier(vlm: VLM, calibration: CalibrationSet) -> None:
    """Without packed groups before them they are what they are in a layer all in their tier."""
    low, high = GptqTier(bits=2, true_sequential=False), RtnTier(bits=4)
    tiers = LayerTiers.of(low, {"mlp.down_proj": high, "self_attn.q_proj": high})
    states = first_inputs(vlm, calibration)
    mixed = quantize_layer(vlm, 0, tiers, states)
    all_low = quantize_layer(vlm, 0, LayerTiers(low), states)
    all_high = quantize_layer(vlm, 0, LayerTiers(high), None)
    for name, weight in mixed.items():
        is_high = name in ("mlp.down_proj", "self_attn.q_proj")
        wanted = all_high[name] if is_high else all_low[name]
        assert weight.format == wanted.format
        for buffer, content in wanted.buffers.items():
            assert torch.equal(weight.buffers[buffer], content)


def test_a_batch_goes_only_as_far_into_a_layer_as_its_inputs_are_wanted(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    """The first batch of a pass goes through the whole layer, unless it is known how often linears
    are called; the Hessians are the same.
    """
    layer = vlm.layers[0]
    states = first_inputs(vlm, calibration)
    known = KnownOutputs(0.0, calls_of(layer, states).counts)
    count = len(states)
    assert count > 2
    runs: Counter[str] = Counter()
    whole = {name: HessianSum(linear.in_features) for name, linear in vlm.originals[0].items()}

    def hear(name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            runs.update([name])
            if name in whole and not runs["by groups"]:
                whole[name].add(inputs[0])

        return note

    hooks = [module.register_forward_hook(hear(name)) for name, module in layer.named_modules()]
    try:
        for state in states:
            state.output(layer)
        expected = {name: total.mean() for name, total in whole.items()}
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            runs.clear()
            runs["by groups"] = 1
            assert torch.equal(hessians(layer, states, ((name,),))[name], expected[name])
            assert runs["input_layernorm"] == count
            assert runs["self_attn.v_proj"] == (1 if name == "self_attn.q_proj" else count)
            assert runs["mlp.up_proj"] == (count if name == "mlp.down_proj" else 1)
            assert runs[""] == 1
        runs.clear()
        runs["by groups"] = 1
        hessian = hessians(layer, states, (("self_attn.o_proj",),), known=known)
        assert torch.equal(hessian["self_attn.o_proj"], expected["self_attn.o_proj"])
        assert runs["self_attn.v_proj"] == count
        assert runs["mlp.up_proj"] == runs[""] == 0
        runs.clear()
        runs["by groups"] = 1
        together = hessians(layer, states, (("self_attn.q_proj",), ("mlp.gate_proj",)))
        assert runs["self_attn.o_proj"] == count
        assert runs["mlp.down_proj"] == 1
        assert torch.equal(together["self_attn.q_proj"], expected["self_attn.q_proj"])
    finally:
        for hook in hooks:
            hook.remove()


def test_samples_may_go_through_the_model_with_products_in_bf16(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    """The first layer's products are those of rounded inputs and weights; what is stored stays."""
    layer = vlm.layers[0]
    exact = first_inputs(vlm, calibration)[0]
    rough = first_inputs(vlm, replace(calibration, compute="bfloat16"))[0]
    name = "self_attn.q_proj"
    products: list[Tensor] = []
    linear = layer.get_submodule(name)
    hook = linear.register_forward_hook(lambda m, x, y: products.append(y))
    try:
        outputs = [state.output(layer) for state in (exact, rough)]
    finally:
        hook.remove()
    assert products[0].dtype == torch.float32
    assert products[1].dtype == torch.bfloat16
    assert outputs[1].dtype == torch.float32
    error = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
    assert 1e-5 < float(error) < 0.02
    assert vlm.original(0)[name].dtype == torch.float32


def test_a_layer_goes_group_by_group_if_one_of_its_tiers_does(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    plain = GptqTier(bits=2, true_sequential=False)
    by_group = GptqTier(bits=3, true_sequential=True)
    states = first_inputs(vlm, calibration)
    mixed = quantize_layer(vlm, 0, LayerTiers.of(plain, {"mlp.up_proj": by_group}), states)
    alone = quantize_layer(vlm, 0, LayerTiers(plain), states)
    in_turn = quantize_layer(vlm, 0, LayerTiers(GptqTier(bits=2, true_sequential=True)), states)
    assert torch.equal(mixed["mlp.gate_proj"].dequantize(), in_turn["mlp.gate_proj"].dequantize())
    assert not torch.equal(mixed["mlp.gate_proj"].dequantize(), alone["mlp.gate_proj"].dequantize())


def test_a_tier_for_a_linear_that_is_none_is_refused(vlm: VLM) -> None:
    tiers = LayerTiers.of(RtnTier(bits=4), {"mlp.dwn_proj": RtnTier(bits=8)})
    with pytest.raises(ModelError, match=r"layer 0 has no linear mlp\.dwn_proj.*mlp\.down_proj"):
        quantize_layer(vlm, 0, tiers, None)


def test_a_walk_that_has_passed_a_layer_starts_again(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    folders = pack(vlm, calibration, tmp_path, [TIERS["rtn4"]] * 3)
    walk = Walk(vlm, calibration)
    fresh = [state.hidden.clone() for state in Walk(vlm, calibration).inputs(1, [])]
    walk.inputs(3, folders)
    again = [state.hidden for state in walk.inputs(1, [])]
    assert all(torch.equal(a, b) for a, b in zip(fresh, again, strict=True))
    packed = [state.hidden.clone() for state in walk.inputs(1, folders)]
    assert not any(torch.equal(a, b) for a, b in zip(fresh, packed, strict=True))


def test_states_that_an_error_left_half_way_are_not_used_again(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    """The next job of a multirun asks the same walk."""
    expected = [state.hidden.clone() for state in Walk(vlm, calibration).inputs(3, [])]
    walk = Walk(vlm, calibration)
    walk.inputs(1, [])
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.cuda.OutOfMemoryError

    hook = vlm.layers[2].register_forward_pre_hook(fail)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            walk.inputs(3, [])
    finally:
        hook.remove()
    again = [state.hidden for state in walk.inputs(3, [])]
    assert len(again) > 1, "the error came between two batches"
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@torch.no_grad()
def test_a_walk_goes_through_sixteen_bit_layers_whatever_stands_in_the_model(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    folders = pack(vlm, calibration, tmp_path, [TIERS["rtn4"]] * len(vlm.layers))
    walk = Walk(vlm, calibration)
    walk.inputs(1, [])
    install(vlm, folders)
    states = [state.hidden.clone() for state in walk.inputs(2, [])]
    expected = [state.hidden for state in Walk(vlm, calibration).inputs(2, [])]
    assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))


def test_a_bad_activation_names_the_layer(vlm: VLM, calibration: CalibrationSet) -> None:
    states = first_inputs(vlm, calibration)
    states[0].hidden = states[0].hidden.clone()
    states[0].hidden[0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"layer 0 self_attn\.q_proj: the Hessian holds NaN"):
        quantize_layer(vlm, 0, LayerTiers(TIERS["gptq4"]), states)


def test_a_bad_activation_names_the_layer_where_batches_are_held_out(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    states = first_inputs(vlm, calibration)
    states[0].hidden = torch.full_like(states[0].hidden, float("nan"))
    with pytest.raises(DataError, match=r"layer 0 self_attn\.q_proj: the Hessian holds NaN"):
        quantize_layer(vlm, 0, LayerTiers(TIERS["gptq4"]), states, held_out=0.25)


def test_linears_with_one_input_share_one_hessian(vlm: VLM, calibration: CalibrationSet) -> None:
    found = hessians(
        vlm.layers[0], first_inputs(vlm, calibration), (("self_attn.q_proj", "self_attn.k_proj"),)
    )
    assert found["self_attn.q_proj"] is found["self_attn.k_proj"]


def test_held_out_batches_shrink_a_hessian_towards_its_mean_diagonal(
    vlm: VLM, calibration: CalibrationSet
) -> None:
    layer, states = vlm.layers[0], first_inputs(vlm, calibration)
    groups = (("mlp.down_proj",),)
    plain = hessians(layer, states, groups)["mlp.down_proj"]
    shrunk = hessians(layer, states, groups, held_out=0.25)["mlp.down_proj"]
    added = (shrunk - plain) / torch.diagonal(plain).mean()
    share = float(torch.diagonal(added).mean())
    assert min(abs(share - known) for known in SHRINKAGES[1:]) < 1e-4
    assert torch.allclose(added, share * torch.eye(len(added)), atol=1e-4)


def test_too_few_batches_to_hold_one_out_are_said(vlm: VLM, calibration: CalibrationSet) -> None:
    states = first_inputs(vlm, calibration)[:2]
    with pytest.raises(DataError, match=r"makes 2 batches, and quantizer\.held_out=0\.25 holds"):
        quantize_layer(vlm, 0, LayerTiers(TIERS["gptq4"]), states, held_out=0.25)


@torch.no_grad()
@pytest.mark.parametrize(
    ("weighting", "factor"), [("balance", 1.0), ("factor", 0.25), ("count", 1.0)]
)
def test_image_tokens_count_as_the_weighting_says(vlm: VLM, weighting: str, factor: float) -> None:
    config = CalibrationConfig(
        name="multimodal", alpha=0.5, tokens=1024, weighting=weighting, image_factor=factor
    )
    made = pocket_samples(vlm, config)
    plain = pocket_samples(vlm, replace(config, weighting="count", image_factor=1.0))
    assert (made.hash == plain.hash) == (weighting == "count"), "other layers come of it"
    mask = made.image_mask()
    weight = {"balance": float((~mask).sum() / mask.sum()), "factor": factor, "count": 1.0}[
        weighting
    ]
    assert made.image_weight == pytest.approx(weight)
    states = first_inputs(vlm, made)
    seen: list[torch.Tensor] = []
    hook = vlm.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].reshape(-1, 128))
    )
    found = hessians(vlm.layers[0], states, (("self_attn.q_proj",),))["self_attn.q_proj"]
    hook.remove()
    inputs = torch.cat(seen).double()
    weights = torch.where(mask, weight, 1.0).double()
    wanted = 2 * (inputs * weights[:, None]).T @ inputs / weights.sum()
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_a_file_without_metadata_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from luq.formats.known import restore

    save_file({"q_proj.codes": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(StoreError, match="no luq metadata"):
        read_layer(tmp_path)
    with pytest.raises(StoreError, match=f"reads {', '.join(FORMATS)}"):
        restore("fractal", {}, (1, 1))


@pytest.mark.gpu
def test_cuda_packs_and_answers_like_the_cpu(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    config = ModelConfig(name="pocket_llava", path="pocket:pocket_llava", device="cuda")
    cuda = load_vlm(config)
    tiers = [TIERS["billm"], *[TIERS["gptq4"]] * (len(vlm.layers) - 1)]
    folders = pack(cuda, calibration, tmp_path, tiers)
    ids = torch.arange(5, 45).unsqueeze(0)
    answers = []
    for model in (vlm, cuda):
        install(model, folders)
        try:
            with torch.no_grad():
                answers.append(model.model(input_ids=ids.to(model.device)).logits.float().cpu())
        finally:
            model.restore()
    assert torch.allclose(*answers, atol=0.1, rtol=0.05)
