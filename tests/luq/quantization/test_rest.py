"""Embeddings, head, tower and projector in tiers, on the pocket model and on tiny ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import (
    CalibrationConfig,
    GptqTier,
    LayerTiers,
    ModelConfig,
    RtnTier,
    TierConfig,
    TrellisTier,
)
from luq.config.quantizer import PARTS
from luq.errors import DataError, ModelError
from luq.formats.embedding import PackedEmbedding, TiedLinear
from luq.formats.integer import IntegerWeight
from luq.formats.layer_file import PackedLayer, layer_size, write_layer
from luq.formats.linear import PackedLinear
from luq.formats.memory import rest_ledger as float_ledger
from luq.formats.sizes import rest_ledger
from luq.models.vlm import VLM, load_vlm
from luq.quantization import rest
from luq.quantization.rest import assert_parts_installed, install_parts
from tests.conftest import loss, pocket_samples
from tests.luq.models import tiny_families

RTN4 = RtnTier(bits=4)
GPTQ3 = GptqTier(bits=3, group_size=64)


@pytest.fixture(scope="module")
def samples(vlm: VLM) -> CalibrationSet:
    config = CalibrationConfig("mixed", alpha=0.5, tokens=1024, sample_tokens=128)
    return pocket_samples(vlm, config)


@pytest.fixture(autouse=True)
def restored(vlm: VLM) -> Iterator[None]:
    yield
    vlm.restore()


def quantize_part(
    vlm: VLM, part: str, tier: TierConfig, samples: CalibrationSet | None
) -> PackedLayer:
    """All of a part in one tier."""
    return rest.quantize_part(vlm, part, LayerTiers(tier), samples)


def written(folder: Path, packed: PackedLayer) -> Path:
    folder.mkdir()
    write_layer(folder, packed)
    return folder


@torch.no_grad()
def logits(vlm: VLM, samples: CalibrationSet) -> torch.Tensor:
    batch = next(batch for batch in samples.batches() if batch[0].multimodal)
    answer: torch.Tensor = vlm.model(**inputs_of(batch, vlm.device), use_cache=False).logits
    return answer


def test_all_parts_of_the_pocket_model_are_packed_and_undone(
    vlm: VLM, samples: CalibrationSet, tmp_path: Path
) -> None:
    own = logits(vlm, samples)
    folders: dict[str, Path] = {}
    for part in PARTS:
        folders[part] = written(tmp_path / part, quantize_part(vlm, part, RTN4, None))
    assert install_parts(vlm, folders) == len(PARTS)
    assert install_parts(vlm, folders) == 0, "what stands is not read again"
    assert_parts_installed(vlm, folders)
    tower = vlm.model.model.vision_tower
    plain = [m for m in tower.modules() if type(m) in (torch.nn.Linear, torch.nn.Embedding)]
    assert plain == [tower.embeddings.position_embedding]
    assert isinstance(vlm.model.get_input_embeddings(), PackedEmbedding)
    assert isinstance(vlm.model.lm_head, PackedLinear)
    error = (logits(vlm, samples) - own).norm() / own.norm()
    assert 0 < float(error) < 0.3
    only_head = {"head": folders["head"]}
    assert install_parts(vlm, only_head) == len(PARTS) - 1, "others are 16-bit again"
    with pytest.raises(ModelError, match="embed_tokens in memory is not what"):
        assert_parts_installed(vlm, folders)
    vlm.restore()
    assert torch.equal(logits(vlm, samples), own)


@pytest.mark.parametrize("tier", [RTN4, GPTQ3, TrellisTier(bits=2)], ids=lambda tier: tier.method)
def test_the_ledger_of_packed_parts_is_the_rest_and_its_files(
    vlm: VLM, samples: CalibrationSet, tmp_path: Path, tier: TierConfig
) -> None:
    own = float_ledger(vlm)
    sizes = {}
    for part in ("projector",) if tier.method == "trellis" else PARTS:
        packed = quantize_part(vlm, part, tier, samples)
        folder = written(tmp_path / part, packed)
        sizes[part] = layer_size(folder, packed)
        assert sizes[part].bytes == (folder / "layer.safetensors").stat().st_size
    ledger = rest_ledger(own, sizes)
    weights = sum(size.weights for size in sizes.values())
    files = sum(size.bytes for size in sizes.values())
    assert sum(ledger.values()) == sum(own.values()) - 2 * weights + files
    assert ledger["vision"] > 0, "convolution, position embeddings, norms and biases"
    assert ledger["projector codes"] < own["projector"] / 3
    assert ("head" in ledger) == ("head" not in sizes), "nothing of a packed one is 16-bit"


def test_tower_and_projector_are_packed_for_their_inputs(vlm: VLM, samples: CalibrationSet) -> None:
    """GPTQ's error under the Hessian of real inputs is less than that of rounding."""
    runs = rest.ImageRuns(vlm, samples)
    for part in ("vision", "projector"):
        seeing = quantize_part(vlm, part, GPTQ3, samples)
        blind = quantize_part(vlm, part, RtnTier(bits=3, group_size=64), None)
        path = list(vlm.parts[part])[-1]
        hessian = runs.hessians(((path,),))[path]
        weight = vlm.model.get_submodule(path).weight.float()
        name = next(name for name in seeing if path.endswith(name))
        errors = [loss(weight, packed[name].dequantize(), hessian) for packed in (seeing, blind)]
        assert errors[0] < 0.8 * errors[1]


def test_blocks_one_by_one_get_the_hessians_of_whole_runs(
    vlm: VLM, samples: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tower whose blocks cannot be run one by one gets the same codes, only later."""
    one_by_one = quantize_part(vlm, "vision", GPTQ3, samples)
    monkeypatch.setattr(rest, "_is_chain", lambda *_: False)
    runs = quantize_part(vlm, "vision", GPTQ3, samples)
    assert list(one_by_one) == list(runs)
    for name, weight in one_by_one.items():
        other = runs[name].dequantize()
        difference = (weight.dequantize() - other).norm() / other.norm()
        assert float(difference) < 0.02, name  # sums in another order flip single codes


def test_the_projector_sees_the_packed_tower(
    vlm: VLM, samples: CalibrationSet, tmp_path: Path
) -> None:
    alone = quantize_part(vlm, "projector", GPTQ3, samples)
    tower = quantize_part(vlm, "vision", RtnTier(bits=2), None)
    install_parts(vlm, {"vision": written(tmp_path / "vision", tower)})
    after = quantize_part(vlm, "projector", GPTQ3, samples)
    assert vlm.standing_parts == {"vision": "vision"}, "the tower still stands"
    assert any(
        not torch.equal(alone[name].buffers["codes"], after[name].buffers["codes"])
        for name in alone
    )


def test_embeddings_without_a_head_need_no_data(vlm: VLM, samples: CalibrationSet) -> None:
    """A lookup weighs all columns alike: samples change nothing, a clip search does."""
    blind = quantize_part(vlm, "embeddings", GPTQ3, None)
    seeing = quantize_part(vlm, "embeddings", GPTQ3, samples)
    (name,) = blind
    assert isinstance(blind[name], IntegerWeight)
    for buffer, tensor in blind[name].buffers.items():
        assert torch.equal(seeing[name].buffers[buffer], tensor)
    clipped = GptqTier(bits=3, group_size=64, clip_steps=20, act_order=True, static_groups=True)
    weight = vlm.model.get_input_embeddings().weight
    errors = []
    for packed in (blind, quantize_part(vlm, "embeddings", clipped, None)):
        errors.append(float((packed[name].dequantize() - weight).norm()))
    assert errors[1] < 0.97 * errors[0]


def test_a_tower_cannot_be_calibrated_on_texts(vlm: VLM) -> None:
    config = CalibrationConfig("text", alpha=0.0, tokens=256, sample_tokens=64)
    texts = pocket_samples(vlm, config)
    with pytest.raises(DataError, match=r"no calibration sample has an image.*rtn4"):
        quantize_part(vlm, "vision", GPTQ3, texts)
    assert vlm.standing_parts == {}


@torch.no_grad()
def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    """Gemma's rows are scaled, too, when tokens look them up, and not in the head."""
    folder = tiny_families.write(tmp_path / "gemma2", "gemma2")
    vlm = load_vlm(ModelConfig("gemma2", str(folder), device="cpu"))
    tokens = torch.arange(10, 30)[None]
    own = vlm.model(tokens).logits
    table = vlm.model.get_input_embeddings().weight
    packed = quantize_part(vlm, "embeddings", GptqTier(bits=8, group_size=32), None)
    assert list(packed) == ["embed_tokens"]
    with pytest.raises(ModelError, match="no head to pack"):
        quantize_part(vlm, "head", RTN4, None)
    folders = {"embeddings": written(tmp_path / "embeddings", packed)}
    install_parts(vlm, folders)
    assert_parts_installed(vlm, folders)
    head = vlm.model.lm_head
    assert isinstance(head, TiedLinear)
    expected = packed["embed_tokens"].dequantize()
    assert torch.equal(head.weight + 0, expected)
    scale = vlm.parts["embeddings"]["model.embed_tokens"].embed_scale
    assert torch.equal(vlm.model.get_input_embeddings()(tokens), expected[tokens] * scale)
    assert 0 < float((vlm.model(tokens).logits - own).norm() / own.norm()) < 0.02
    size = layer_size(folders["embeddings"], packed)
    vlm.restore()
    ledger = rest_ledger(float_ledger(vlm), {"embeddings": size})
    assert size.weights == table.numel()
    assert "embeddings" not in ledger
    assert vlm.model.lm_head.weight is table
    assert torch.equal(vlm.model(tokens).logits, own)


@torch.no_grad()
def test_tied_embeddings_are_packed_for_both_of_their_uses(tmp_path: Path) -> None:
    folder = tiny_families.write(tmp_path / "gemma2", "gemma2")
    vlm = load_vlm(ModelConfig("gemma2", str(folder), device="cpu"))
    config = CalibrationConfig("text", alpha=0.0, tokens=256, sample_tokens=32)
    texts = pocket_samples(vlm, config)
    # the last norm of a trained model lets some columns count more than others
    vlm.model.model.norm.weight.copy_(torch.linspace(-0.9, 2, 64))
    hidden = torch.cat(
        [vlm.model.model(**inputs_of(batch, vlm.device)).last_hidden_state.flatten(0, 1)
         for batch in texts.batches()]
    )  # fmt: skip
    hessian = 2 * hidden.T @ hidden / len(hidden)
    weight = vlm.model.lm_head.weight.float()
    tier = GptqTier(bits=2, group_size=32)
    errors = []
    for samples in (None, texts):
        packed = quantize_part(vlm, "embeddings", tier, samples)["embed_tokens"].dequantize()
        errors.append((loss(weight, packed, hessian), float((packed - weight).norm())))
    assert errors[1][0] < 0.9 * errors[0][0], "the head's products are nearer"
    assert errors[1][1] < 1.2 * errors[0][1], "and rows that are looked up hardly farther"
