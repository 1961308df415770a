"""Folders whose embeddings, head, tower and projector are packed: written, loaded, saved again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel

import luq
from luq.allocation.allocations import Allocation
from luq.config import LayerTiers, ModelConfig, RtnTier
from luq.errors import ModelError
from luq.export import checksums
from luq.export.compressed_tensors import COMPRESSED_TENSORS
from luq.export.dequantized import dequantized
from luq.export.folder import PackedModel, StoredPart, export
from luq.formats.embedding import PackedEmbedding, TiedLinear
from luq.formats.layer_file import write_layer
from luq.formats.stored_module import StoredModule
from luq.models.loading import model_class
from luq.models.vlm import VLM, load_vlm
from luq.quantization.layer import quantize_layer
from luq.quantization.methods import make_quantizer
from luq.quantization.rest import install_parts, quantize_part
from luq.quantization.walk import install
from tests.luq.models import tiny_families
from tests.luq.test_api import rows

RTN4 = RtnTier(bits=4, group_size=24)  # its last group is shorter
FAMILIES = ("llava", "qwen2_5_vl", "gemma3", "idefics3", "internvl", "gemma2")
TOKENS = torch.arange(10, 40)[None]


def packed(folder: Path, vlm: VLM, source: Path) -> PackedModel:
    """All layers and all parts in 4 bits, standing in the model."""
    layers: list[Path] = []
    for index in range(len(vlm.layers)):
        layers.append(folder / f"layer{index}")
        layers[-1].mkdir()
        write_layer(layers[-1], quantize_layer(vlm, index, LayerTiers.of(RTN4, {}), None))
    parts: dict[str, Path] = {}
    for part in [part for part, modules in vlm.parts.items() if modules]:
        parts[part] = folder / part
        parts[part].mkdir()
        write_layer(parts[part], quantize_part(vlm, part, LayerTiers(RTN4), None))
    install(vlm, layers)
    install_parts(vlm, parts)
    stored = {part: StoredPart(path, "rtn4") for part, path in parts.items()}
    return PackedModel(source, layers, Allocation(("rtn4",) * len(layers)), None, stored)


def reloaded(folder: Path, vlm: VLM) -> Any:
    auto = model_class(vlm.model.config)
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[VLM, PackedModel]:
    name: str = request.param
    source = tiny_families.write(tmp_path / name, name)
    vlm = load_vlm(ModelConfig(name, str(source), device="cpu"))
    return vlm, packed(tmp_path, vlm, source)


@torch.no_grad()
def test_every_family_is_loaded_and_saved_as_it_was_packed(
    tiny: tuple[VLM, PackedModel], tmp_path: Path
) -> None:
    vlm, model = tiny
    expected = vlm.model(TOKENS).logits
    about = checksums.verify(export(model, tmp_path / "exported"))
    size = sum(file.stat().st_size for file in (tmp_path / "exported").glob("*.safetensors"))
    assert size == about.file_bytes == sum(about.ledger.values())
    assert {"embeddings codes", "embeddings scales"} <= set(about.ledger)
    loaded = reloaded(tmp_path / "exported", vlm)
    assert torch.equal(loaded(TOKENS).logits, expected)
    count = len([module for module in vlm.model.modules() if isinstance(module, StoredModule)])
    stored = [module for module in loaded.modules() if isinstance(module, StoredModule)]
    assert len(stored) == count
    loaded.tie_weights()  # as accelerate does
    loaded.save_pretrained(tmp_path / "saved")
    saved = checksums.verify(tmp_path / "saved")
    packed_classes = {name: size for name, size in about.ledger.items() if " " in name}
    assert packed_classes.items() <= saved.ledger.items()
    again = reloaded(tmp_path / "saved", vlm)
    assert torch.equal(again(TOKENS).logits, expected)
    plain = again.dequantize()
    assert not [module for module in plain.modules() if isinstance(module, StoredModule)]
    assert torch.equal(plain(TOKENS).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma2"])
def test_the_model_without_its_head_is_loaded_too(name: str, tmp_path: Path) -> None:
    source = tiny_families.write(tmp_path / name, name)
    vlm = load_vlm(ModelConfig(name, str(source), device="cpu"))
    folder = export(packed(tmp_path, vlm, source), tmp_path / "exported")
    body = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    assert isinstance(body.get_input_embeddings(), PackedEmbedding)
    expected = vlm.model.model(TOKENS).last_hidden_state
    assert torch.equal(body(TOKENS).last_hidden_state, expected)


@torch.no_grad()
def test_a_tied_table_is_in_the_folder_once(tmp_path: Path) -> None:
    source = tiny_families.write(tmp_path / "gemma2", "gemma2")
    vlm = load_vlm(ModelConfig("gemma2", str(source), device="cpu"))
    model = packed(tmp_path, vlm, source)
    about = checksums.verify(export(model, tmp_path / "exported"))
    rows_of_table, width = vlm.model.get_input_embeddings().packed.shape
    assert about.ledger["embeddings codes"] == rows_of_table * width // 2
    assert not [name for name in about.ledger if name.startswith("head ")]
    assert "head" not in about.ledger
    loaded = reloaded(tmp_path / "exported", vlm)
    head = loaded.get_output_embeddings()
    assert isinstance(head, TiedLinear)
    assert head.packed is loaded.get_input_embeddings().packed
    plain = loaded.dequantize()
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    plain.save_pretrained(tmp_path / "plain")  # transformers refuses tensors that share by chance


@torch.no_grad()
def test_other_layouts_take_parts_as_numbers_or_refuse_them(tmp_path: Path) -> None:
    source = tiny_families.write(tmp_path / "llava", "llava")
    vlm = load_vlm(ModelConfig("llava", str(source), device="cpu"))
    model = packed(tmp_path, vlm, source)
    with pytest.raises(ModelError, match=r"packs embeddings, head.*without quantizer.embeddings"):
        export(model, tmp_path / "exported", layout=COMPRESSED_TENSORS)
    export(model, tmp_path / "plain", layout=dequantized(torch.float32))
    plain = reloaded(tmp_path / "plain", vlm)
    assert torch.equal(plain(TOKENS).logits, vlm.model(TOKENS).logits)


def test_a_decoder_alone_is_written_as_before(tmp_path: Path) -> None:
    source = tiny_families.write(tmp_path / "llama", "llama")
    vlm = load_vlm(ModelConfig("llama", str(source), device="cpu"))
    model = packed(tmp_path, vlm, source)
    alone = PackedModel(source, model.folders, model.allocation)
    about = checksums.verify(export(alone, tmp_path / "exported"))
    assert "head" in about.ledger
    assert type(reloaded(tmp_path / "exported", vlm).lm_head) is torch.nn.Linear


def test_a_part_of_another_model_is_not_written(tmp_path: Path) -> None:
    source = tiny_families.write(tmp_path / "llama", "llama")
    vlm = load_vlm(ModelConfig("llama", str(source), device="cpu"))
    model = packed(tmp_path, vlm, source)
    wrong = {"lm_head": make_quantizer(RTN4).quantize(torch.zeros(8, 24), None)}
    write_layer(model.parts["head"].folder, wrong)
    with pytest.raises(ModelError, match=r"lm_head.weight as .* packed as \[8, 24\]"):
        export(model, tmp_path / "exported")
    write_layer(model.parts["head"].folder, {"lm_tail": wrong["lm_head"]})
    with pytest.raises(ModelError, match=r"has no weight for lm_tail"):
        export(model, tmp_path / "exported")


@pytest.mark.parametrize("name", ["pocket_llava", "pocket_qwen"])
def test_a_pocket_model_answers_from_its_folder_as_it_was_scored(name: str, tmp_path: Path) -> None:
    """By way of `luq.quantize`: trellis and GPTQ for tower and head, from samples with images."""
    model = luq.load(f"pocket:{name}", device="cpu", store=tmp_path / "store")
    whole = luq.quantize(
        model, "rtn4", rows(4), embeddings="gptq3", head="gptq4", vision="rtn4",
        projector="trellis2",
    )  # fmt: skip
    memory = whole.memory()
    assert sum(memory.ledger.values()) == memory.checkpoint_bytes
    assert memory.ledger["projector codes"] < 60_000
    folder = whole.save_pretrained(tmp_path / "exported")
    about = checksums.verify(folder)
    assert about.file_bytes == sum(about.ledger.values())
    tensors = memory.checkpoint_bytes - sum(
        size for part, size in memory.ledger.items() if part.endswith("header")
    )
    assert about.file_bytes - about.ledger["header"] == tensors
    question = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}
    ]
    text = model.processor.apply_chat_template(question, add_generation_prompt=True)
    image = Image.new("RGB", (72, 72), "red")
    inputs = model.processor(text=[text], images=[image], return_tensors="pt")
    loaded = reloaded(folder, model.vlm)
    assert isinstance(loaded.get_input_embeddings(), PackedEmbedding)
    with torch.no_grad():
        expected = whole.model(**inputs).logits
        assert torch.equal(loaded(**inputs).logits, expected)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(
        loaded.generate(**inputs, **options), whole.model.generate(**inputs, **options)
    )
