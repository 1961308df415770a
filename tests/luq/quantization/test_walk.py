from dataclasses import replace
from pathlib import Path

import pytest
import torch

from luq.allocation.plans import Allocation
from luq.calibration.mixing import build
from luq.calibration.samples import CalibrationSet
from luq.config import BillmTier, CalibrationConfig, Float16Tier, GptqTier, QuantizerConfig, RtnTier
from luq.errors import DataError, StoreError
from luq.formats.known import FORMATS
from luq.formats.layer_file import FILE, layer_size, read_layer
from luq.formats.linear import PackedLinear
from luq.formats.memory import measure
from luq.models.families import LINEARS
from luq.models.vlm import VLM
from luq.quantization.walk import Walk, first_inputs, hessians, install, quantize_layer
from luq.store.store import Store

TIERS = {
    "float16": Float16Tier(),
    "gptq4": GptqTier(bits=4, act_order=True, static_groups=True),
    "gptq2": GptqTier(bits=2),
    "rtn4": RtnTier(),
    "billm": BillmTier(act_order=True),
    "billm_faithful": BillmTier(faithful=True, true_sequential=False),
}


@pytest.fixture(scope="module")
def calibration(vlm: VLM) -> CalibrationSet:
    return build(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=1024))


def walk(vlm: VLM, calibration: CalibrationSet, root: Path, propagation: str = "exact") -> Walk:
    config = QuantizerConfig("billm", "gptq4", propagation, TIERS)
    return Walk(vlm, lambda: calibration, calibration.hash, config, Store(root))


def every(tier: str, layers: int) -> Allocation:
    return Allocation((tier,) * layers)


@pytest.mark.parametrize("tier", TIERS)
def test_ledger_and_files_agree_to_the_byte(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path, tier: str
) -> None:
    count = len(vlm.layers)
    folders = walk(vlm, calibration, tmp_path, "float").quantize(every(tier, count))
    sizes = [layer_size(f, read_layer(f)) for f in folders]
    assert all(
        sum(s.ledger.values()) == s.bytes == (f / FILE).stat().st_size
        for s, f in zip(sizes, folders, strict=True)
    )
    memory = measure(vlm, sizes)
    assert memory.stored_bytes == sum((f / FILE).stat().st_size for f in folders)
    assert memory.stored_bits == 8 * memory.stored_bytes / memory.weights
    assert memory.checkpoint_bytes == sum(memory.ledger.values())
    linears = sum(w.numel() for i in range(count) for w in vlm.original(i).values())
    total = sum(p.numel() for p in vlm.model.parameters())
    assert memory.weights == linears
    assert memory.rest_bytes == 2 * (total - linears)
    assert 0 < sizes[0].ledger["header"] < 4000


def test_float16_answers_like_the_model_itself(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    allocation = every("float16", len(vlm.layers))
    folders = walk(vlm, calibration, tmp_path).quantize(allocation)
    ids = torch.arange(5, 45).unsqueeze(0)
    with torch.no_grad():
        before = vlm.model(input_ids=ids).logits
        install(vlm, allocation, folders)
        try:
            after = vlm.model(input_ids=ids).logits
        finally:
            vlm.restore()
        again = vlm.model(input_ids=ids).logits
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.equal(before, again)


def test_installed_layers_compute_with_the_files(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    allocation = Allocation(("gptq2", *["gptq4"] * (len(vlm.layers) - 1)))
    folders = walk(vlm, calibration, tmp_path).quantize(allocation)
    install(vlm, allocation, folders)
    try:
        for index, folder in enumerate(folders):
            packed = read_layer(folder)
            for name in LINEARS:
                module = vlm.layers[index].get_submodule(name)
                assert isinstance(module, PackedLinear)
                assert module.tier == allocation.tiers[index]
                x = torch.eye(module.in_features)
                with torch.no_grad():
                    assert torch.equal(module(x).T, packed[name].dequantize())
    finally:
        vlm.restore()


def test_exact_shares_prefixes_and_high_shares_everything(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    count = len(vlm.layers)
    first = every("gptq4", count)
    second = Allocation((*["gptq4"] * (count - 2), "billm", "gptq4"))
    exact = walk(vlm, calibration, tmp_path)
    a, b = exact.keys(first), exact.keys(second)
    assert a[: count - 2] == b[: count - 2]
    assert a[-1] != b[-1]  # its inputs come from another layer
    for propagation in ("high", "float"):
        shared = walk(vlm, calibration, tmp_path, propagation)
        assert shared.keys(first)[-1] == shared.keys(second)[-1]
    assert walk(vlm, calibration, tmp_path, "high").keys(first) != walk(
        vlm, calibration, tmp_path, "float"
    ).keys(first)


def test_exact_equals_quantizing_by_hand(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    """Layer 1 of a walk is what one gets by installing layer 0 and quantizing layer 1 on the model's own inputs."""
    count = len(vlm.layers)
    folders = walk(vlm, calibration, tmp_path).quantize(every("gptq2", count))
    states = first_inputs(vlm, calibration)
    install(vlm, Allocation(("gptq2",)), folders[:1])
    try:
        for state in states:
            with torch.no_grad():
                out = vlm.layers[0](state.hidden, **state.arguments)
            state.hidden = out[0] if isinstance(out, tuple) else out
    finally:
        vlm.restore()
    by_hand = quantize_layer(vlm, 1, TIERS["gptq2"], states)
    stored = read_layer(folders[1])
    for name in LINEARS:
        assert all(
            torch.equal(by_hand[name].buffers[b], stored[name].buffers[b])
            for b in by_hand[name].buffers
        )


def test_a_second_walk_reads_everything_from_the_store(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    allocation = every("gptq2", len(vlm.layers))
    walk(vlm, calibration, tmp_path).quantize(allocation)
    second = walk(vlm, calibration, tmp_path)
    second.calibration = lambda: pytest.fail("the calibration set is not needed")
    second.quantize(allocation)
    assert second.store.made == []
    assert len(second.store.found) == len(vlm.layers)


def test_an_interrupted_walk_continues_with_the_same_bytes(
    vlm: VLM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    allocation = every("gptq2", len(vlm.layers))

    def stop(what: str) -> None:
        if what.startswith("layer 3"):
            raise KeyboardInterrupt

    broken = walk(vlm, calibration, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        broken.quantize(allocation, stop)
    resumed = walk(vlm, calibration, tmp_path / "a").quantize(allocation)
    whole = walk(vlm, calibration, tmp_path / "b").quantize(allocation)
    for one, other in zip(resumed, whole, strict=True):
        assert (one / FILE).read_bytes() == (other / FILE).read_bytes()


def test_a_bad_activation_names_the_layer(vlm: VLM, calibration: CalibrationSet) -> None:
    states = first_inputs(vlm, calibration)
    states[0].hidden = states[0].hidden.clone()
    states[0].hidden[0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"layer 0 self_attn\.q_proj: the Hessian holds NaN"):
        quantize_layer(vlm, 0, TIERS["gptq4"], states)


def test_linears_with_one_input_share_one_hessian(vlm: VLM, calibration: CalibrationSet) -> None:
    found = hessians(
        vlm.layers[0], first_inputs(vlm, calibration), (("self_attn.q_proj", "self_attn.k_proj"),)
    )
    assert found["self_attn.q_proj"] is found["self_attn.k_proj"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("weighting", "factor"), [("balance", 1.0), ("factor", 0.25), ("count", 1.0)]
)
def test_image_tokens_count_as_the_weighting_says(vlm: VLM, weighting: str, factor: float) -> None:
    config = CalibrationConfig(
        name="multimodal", alpha=0.5, tokens=1024, weighting=weighting, image_factor=factor
    )
    made = build(vlm, config)
    plain = build(vlm, replace(config, weighting="count", image_factor=1.0))
    assert (made.hash == plain.hash) == (weighting == "count"), "other layers come of it"
    mask = made.image_mask()
    weight = {"balance": float((~mask).sum() / mask.sum()), "factor": factor, "count": 1.0}[
        weighting
    ]
    assert made.image_weight == pytest.approx(weight)
    seen: list[torch.Tensor] = []
    hook = vlm.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].reshape(-1, 128))
    )
    states = first_inputs(vlm, made)
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
    from luq.config import ModelConfig
    from luq.models.vlm import load_vlm

    cuda = load_vlm(ModelConfig(name="pocket_llava", path="pocket:pocket_llava", device="cuda"))
    allocation = Allocation(("billm", *["gptq4"] * (len(vlm.layers) - 1)))
    folders = walk(cuda, calibration, tmp_path).quantize(allocation)
    ids = torch.arange(5, 45).unsqueeze(0)
    answers = []
    for model in (vlm, cuda):
        install(model, allocation, folders)
        try:
            with torch.no_grad():
                answers.append(model.model(input_ids=ids.to(model.device)).logits.float().cpu())
        finally:
            model.restore()
    assert torch.allclose(*answers, atol=0.1, rtol=0.05)
