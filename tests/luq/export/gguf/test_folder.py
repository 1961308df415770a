"""Written files are read again with the package `gguf`: every tensor means what was packed."""

import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from luq.allocation.allocations import Allocation
from luq.config import Float16Tier, GgufTier, RtnTier, TierConfig
from luq.errors import ConfigError, ModelError, StoreError
from luq.export import checksums
from luq.export.folder import PackedModel, StoredPart
from luq.export.gguf import package
from luq.export.gguf.folder import MMPROJ, MODEL, export
from luq.formats.base import PackedWeight
from luq.formats.gguf import KINDS
from luq.formats.layer_file import PackedLayer, read_layer, write_layer
from luq.models.families import decoder_weight, part_of
from luq.models.weight_files import plain_name, stored_tensors
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.gguf_grids import nearest
from luq.quantization.methods import make_quantizer
from luq.store.writers import sole_writer
from tests.luq.export.facts import CARD, RUN
from tests.luq.models import tiny_families

TIERS: dict[str, TierConfig] = {
    "q8_0": GgufTier("q8_0"),
    "float16": Float16Tier(),
    "q4_k": GgufTier("q4_k", fallback=True),
    "rtn3": RtnTier(bits=3, group_size=64),
    "rtn4": RtnTier(bits=4, group_size=32, symmetric=True),
    "q4_0": GgufTier("q4_0"),
    "iq4_nl": GgufTier("iq4_nl"),
}
TYPES = {  # of the file, where rows are not whole blocks of 256
    "float16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0", "iq4_nl": "IQ4_NL", "q4_k": "Q5_0", "rtn4": "Q4_0", "rtn3": "Q4_0",
}  # fmt: skip
PARTS = {"embeddings": "q8_0", "head": "q4_0", "vision": "q8_0", "projector": "rtn4"}
FAMILIES = ("pocket_llava", "pocket_qwen", "llama", "llava", "qwen2_5_vl")
# What llama.cpp calls them -> what transformers does.
IN_LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
OUTSIDE = {"token_embd": "embed_tokens", "output": "lm_head", "output_norm": "norm"}
IN_CLIP = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2", "ln1": "layer_norm1",
    "ln2": "layer_norm2",
}  # fmt: skip
CLIP = {
    "v.class_embd": "vision_tower.embeddings.class_embedding",
    "v.patch_embd.weight": "vision_tower.embeddings.patch_embedding.weight",
    "v.position_embd.weight": "vision_tower.embeddings.position_embedding.weight",
    "v.pre_ln.weight": "vision_tower.pre_layrnorm.weight",
    "v.pre_ln.bias": "vision_tower.pre_layrnorm.bias",
    "mm.0.weight": "multi_modal_projector.linear_1.weight",
    "mm.0.bias": "multi_modal_projector.linear_1.bias",
    "mm.2.weight": "multi_modal_projector.linear_2.weight",
    "mm.2.bias": "multi_modal_projector.linear_2.bias",
}
IN_QWEN = {
    "attn_out": "attn.proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate": "mlp.gate_proj",
    "ln1": "norm1", "ln2": "norm2",
}  # fmt: skip


class Case(NamedTuple):
    """A packed model and the folder that was written of it."""

    config: Any
    model: PackedModel
    folder: Path
    values: dict[str, torch.Tensor]  # plain name in the checkpoint -> what it means


def source_of(family: str, place: Path) -> Path:
    if family.startswith("pocket"):
        return POCKET / family
    return tiny_families.write(place / family, family)


def weights_of(source: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by their plain names."""
    values: dict[str, torch.Tensor] = {}
    for name, tensor in stored_tensors(source).items():
        with safe_open(tensor.file, framework="pt") as file:
            values[plain_name(name)] = file.get_tensor(name)
    return values


def packed_weight(weight: torch.Tensor, tier: str) -> PackedWeight:
    """A weight in one of the tiers, by rounding."""
    config = TIERS[tier]
    if not isinstance(config, GgufTier):
        return make_quantizer(config).quantize(weight, None)
    name = config.type_of_rows(weight.shape[1])
    assert name is not None
    return nearest(KINDS[name], weight.float(), 0)


def pack(source: Path, place: Path, tiers: tuple[str, ...]) -> PackedModel:
    """Layers in these tiers, one after the other, and every part in its own."""
    layers: dict[int, PackedLayer] = {}
    parts: dict[str, PackedLayer] = {}
    for name, weight in weights_of(source).items():
        layer = decoder_weight(name)
        if weight.ndim != 2 or "position_embedding" in name:
            continue
        if layer is not None:
            index, linear = layer
            tier = tiers[index % len(tiers)]
            layers.setdefault(index, {})[linear] = packed_weight(weight, tier)
        else:
            part = part_of(name)
            packed = packed_weight(weight, PARTS[part])
            parts.setdefault(part, {})[name.removesuffix(".weight")] = packed
    for name, packed_layer in {**{f"layer{n}": layers[n] for n in layers}, **parts}.items():
        (place / name).mkdir()
        write_layer(place / name, packed_layer)
    names = tuple(tiers[index % len(tiers)] for index in range(len(layers)))
    folders = [place / f"layer{index}" for index in range(len(layers))]
    stored = {part: StoredPart(place / part, PARTS[part]) for part in parts}
    return PackedModel(source, folders, Allocation(names), None, stored)


def meant(model: PackedModel) -> dict[str, torch.Tensor]:
    """What each tensor of the checkpoint is after packing, by its plain name."""
    values = {name: tensor.float() for name, tensor in weights_of(model.source).items()}
    for index, folder in enumerate(model.folders):
        for name, weight in read_layer(folder).items():
            values[f"layers.{index}.{name}.weight"] = weight.dequantize()
    for stored in model.parts.values():
        for name, weight in read_layer(stored.folder).items():
            values[f"{name}.weight"] = weight.dequantize()
    return values


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family: str = request.param
    place = tmp_path_factory.mktemp(family)
    source = source_of(family, place)
    model = pack(source, place, tuple(TIERS))
    folder = export(model, place / "exported", RUN, CARD)
    return Case(AutoConfig.from_pretrained(source), model, folder, meant(model))


def tensors_of(file: Path) -> dict[str, tuple[str, torch.Tensor]]:
    """Type and numbers of every tensor of a GGUF file."""
    tensors: dict[str, tuple[str, torch.Tensor]] = {}
    for tensor in gguf.GGUFReader(file).tensors:
        numbers = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        shape = [int(length) for length in reversed(tensor.shape)]
        tensors[tensor.name] = tensor.tensor_type.name, numbers.view(shape)
    return tensors


def keys_of(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def language_name(name: str) -> str:
    """What transformers calls a tensor of the language model's file."""
    module, _, suffix = name.rpartition(".")
    in_layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", module)
    if in_layer:
        return f"layers.{in_layer[1]}.{IN_LAYER[in_layer[2]]}.{suffix}"
    return f"{OUTSIDE[module]}.{suffix}"


def in_neighbours(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a head with each of the first half before its partner in the second."""
    size = len(values) // heads
    rows: list[torch.Tensor] = []
    for head in range(heads):
        for place in range(size // 2):
            rows.append(values[head * size + place])
            rows.append(values[head * size + size // 2 + place])
    return torch.stack(rows)


def test_every_tensor_of_the_language_model_is_what_was_scored(case: Case) -> None:
    text = case.config.get_text_config()
    is_llama = text.model_type == "llama"
    heads = {"q_proj": text.num_attention_heads, "k_proj": text.num_key_value_heads}
    written = tensors_of(case.folder / MODEL)
    names = set()
    for name, (kind, numbers) in written.items():
        source = language_name(name)
        names.add(source)
        expected = case.values[source]
        linear = source.split(".")[-2]
        if is_llama and linear in heads:
            expected = in_neighbours(expected, heads[linear])
        assert torch.equal(numbers, expected), name
        if expected.ndim == 1:
            assert kind == "F32"
        elif name.startswith("blk."):
            tier = case.model.allocation.tiers[int(name.split(".")[1])]
            assert kind == TYPES[tier]
    assert written["token_embd.weight"][0] == "Q8_0"
    assert written["output.weight"][0] == "Q4_0"
    beside = {name for name in case.values if not re.match("vision|visual|multi_modal", name)}
    assert names == beside


def tower_value(case: Case, name: str) -> tuple[str, torch.Tensor]:
    """What a tensor of mmproj means, and the checkpoint's name for it."""
    module, _, suffix = name.rpartition(".")
    block = re.fullmatch(r"v\.blk\.(\d+)\.(\w+)", module)
    if name in CLIP and case.config.model_type == "llava":
        return CLIP[name], case.values[CLIP[name]]
    if case.config.model_type == "llava":
        assert block
        source = f"vision_tower.encoder.layers.{block[1]}.{IN_CLIP[block[2]]}.{suffix}"
        return source, case.values[source]
    if name.startswith("v.patch_embd.weight"):
        source = "visual.patch_embed.proj.weight"
        return source, case.values[source][:, :, int(name.endswith(".1"))]
    if name == "v.post_ln.weight":
        return "visual.merger.ln_q.weight", case.values["visual.merger.ln_q.weight"]
    if name.startswith("mm."):
        source = f"visual.merger.mlp.{name.removeprefix('mm.')}"
        return source, case.values[source]
    assert block
    if block[2] in IN_QWEN:
        source = f"visual.blocks.{block[1]}.{IN_QWEN[block[2]]}.{suffix}"
        return source, case.values[source]
    source = f"visual.blocks.{block[1]}.attn.qkv.{suffix}"
    place = ("attn_q", "attn_k", "attn_v").index(block[2])
    return source, case.values[source].chunk(3)[place]


def test_every_tensor_of_the_tower_is_what_was_scored(case: Case) -> None:
    if not (case.folder / MMPROJ).exists():
        assert case.model.source.name == "llama"
        return
    names = set()
    for name, (kind, numbers) in tensors_of(case.folder / MMPROJ).items():
        source, expected = tower_value(case, name)
        names.add(source)
        assert torch.equal(numbers, expected), name
        is_linear = re.match(r"v\.blk\.\d+\.(attn|ffn)_\w+\.weight", name)
        if is_linear:
            assert kind == "Q8_0"
        elif name.startswith("mm.") and name.endswith("weight"):
            assert kind == "Q4_0"
        else:
            assert kind == "F32"
    tower = {name for name in case.values if re.match("vision|visual|multi_modal", name)}
    unread = {name for name in tower if "post_layernorm" in name}
    assert names == tower - unread


def test_keys_say_the_model(case: Case) -> None:
    keys = keys_of(case.folder / MODEL)
    text = case.config.get_text_config()
    is_llama = text.model_type == "llama"
    architecture = "llama" if is_llama else "qwen2vl"
    assert keys["general.architecture"] == architecture
    expected = {
        "block_count": text.num_hidden_layers,
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "rope.freq_base": text.rope_parameters["rope_theta"],
        "attention.layer_norm_rms_epsilon": pytest.approx(text.rms_norm_eps),
    }
    for name, value in expected.items():
        assert keys[f"{architecture}.{name}"] == value, name
    sections = keys.get(f"{architecture}.rope.dimension_sections")
    assert sections == (None if is_llama else [*text.rope_parameters["mrope_section"], 0])
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"])
    assert len(keys["tokenizer.ggml.tokens"]) == text.vocab_size
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    assert keys["tokenizer.chat_template"]
    assert keys["general.name"] == CARD.title
    assert keys["general.base_model.0.name"] == CARD.base


def test_keys_say_the_run(case: Case) -> None:
    files = [file for file in (MODEL, MMPROJ) if (case.folder / file).exists()]
    for file in files:
        keys = keys_of(case.folder / file)
        assert keys["luq.run_key"] == RUN.key
        assert keys["luq.command"] == RUN.command
        assert keys["luq.is_what_was_scored"] is True
        assert json.loads(keys["luq.scores"]) == RUN.scores
        assert keys["luq.tiers"] == list(case.model.allocation.tiers)
        assert f"embeddings {PARTS['embeddings']}" in keys["luq.parts"]
        assert "luq.recoded" not in keys
    reader = gguf.GGUFReader(case.folder / MODEL)
    linears = [tensor for tensor in reader.tensors if re.match(r"blk\..*(q|k|v|output|gate|up|down)\.weight", tensor.name)]  # fmt: skip
    bits = 8 * sum(t.n_bytes for t in linears) / sum(t.n_elements for t in linears)
    assert keys_of(case.folder / MODEL)["luq.stored_bits"] == pytest.approx(bits)


def test_keys_say_the_tower(case: Case) -> None:
    if not (case.folder / MMPROJ).exists():
        return
    keys = keys_of(case.folder / MMPROJ)
    tower = case.config.vision_config
    assert keys["general.architecture"] == "clip"
    assert keys["clip.vision.embedding_length"] == tower.hidden_size
    assert keys["clip.vision.patch_size"] == tower.patch_size
    assert keys["clip.vision.projection_dim"] == case.config.get_text_config().hidden_size
    assert len(keys["clip.vision.image_mean"]) == 3
    if case.config.model_type == "llava":
        assert keys["clip.projector_type"] == "mlp"
        assert keys["clip.use_gelu"] is (tower.hidden_act == "gelu")
        layer = case.config.vision_feature_layer
        assert keys["clip.vision.feature_layer"] == [tower.num_hidden_layers + 1 + layer]
    else:
        assert keys["clip.projector_type"] == "qwen2.5vl_merger"
        assert keys["clip.vision.n_wa_pattern"] == tower.fullatt_block_indexes[0] + 1
        assert keys["clip.use_silu"] is True


def test_the_folder_counts_and_checks_its_bytes(case: Case) -> None:
    about = checksums.verify(case.folder)
    assert about.layout == "gguf"
    assert about.run == RUN
    size = sum(file.stat().st_size for file in case.folder.glob("*.gguf"))
    assert size == about.file_bytes == sum(about.ledger.values())
    assert size == checksums.weight_bytes(case.folder)
    assert {"blocks", "weights", "embeddings blocks", "header"} <= set(about.ledger)
    card = (case.folder / "README.md").read_text(encoding="utf-8")
    assert "llama-" in card
    assert "library_name: gguf" in card
    bits = keys_of(case.folder / MODEL)["luq.stored_bits"]
    assert f"take {bits:.3f} bits per weight. They mean what was scored" in card


def test_a_flipped_bit_is_found(case: Case, tmp_path: Path) -> None:
    copied = shutil.copytree(case.folder, tmp_path / "copied")
    content = bytearray((copied / MODEL).read_bytes())
    content[-1] ^= 1
    (copied / MODEL).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf: its bytes"):
        checksums.verify(copied)


def test_transformers_reads_the_language_model_alike(case: Case) -> None:
    """It has a reader of its own, which puts rows back where its models have them."""
    if case.config.get_text_config().model_type != "llama":
        return  # it reads no Qwen2-VL
    model = AutoModelForCausalLM.from_pretrained(case.folder, gguf_file=MODEL, dtype=torch.float32)
    state = model.state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, case.values[plain_name(name)]), name
    assert len(state) == len(gguf.GGUFReader(case.folder / MODEL).tensors)
    text = case.config.get_text_config()
    for name in ("rope_parameters", "num_key_value_heads", "max_position_embeddings", "vocab_size"):
        assert getattr(model.config, name) == getattr(text, name)
    tokenizer = AutoTokenizer.from_pretrained(case.folder, gguf_file=MODEL)
    shipped = AutoTokenizer.from_pretrained(case.model.source)
    words = "Is the circle left of a square?\n"
    assert tokenizer(words).input_ids == shipped(words).input_ids


# Refusals and failures, with the smallest model.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny Llama."""
    return source_of("llama", tmp_path_factory.mktemp("small"))


@pytest.fixture
def plain(small: Path, tmp_path: Path) -> PackedModel:
    return pack(small, tmp_path, ("q4_0",))


@pytest.fixture
def mixed(plain: PackedModel) -> PackedModel:
    """One of its layers is of a tier that no GGUF type holds."""
    quantizer = make_quantizer(RtnTier(bits=8, group_size=64))
    layer = read_layer(plain.folders[1])
    packed = {name: quantizer.quantize(weight.dequantize(), None) for name, weight in layer.items()}
    write_layer(plain.folders[1], packed)
    tiers = ("q4_0", "rtn8", *plain.allocation.tiers[2:])
    return PackedModel(plain.source, plain.folders, Allocation(tiers), None, plain.parts)


def left(folder: Path) -> Iterator[str]:
    """What an export left in a folder."""
    return (file.name for file in folder.iterdir() if "exported" in file.name)


def test_a_tier_without_a_form_is_refused_and_named(mixed: PackedModel, tmp_path: Path) -> None:
    words = r"no GGUF type holds weights of rtn8 \(8\.\d+ bits .* q8_0 \(8.5\).*--recode TYPE"
    with pytest.raises(ConfigError, match=words):
        export(mixed, tmp_path / "exported")
    assert list(left(tmp_path)) == []


def test_what_is_coded_again_is_said_everywhere(
    mixed: PackedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = export(mixed, tmp_path / "exported", RUN, CARD, recode="q4_k")
    assert "rtn8 is coded again in q5_0: the run's scores are not" in caplog.text
    assert "**Coded again for these files: `rtn8 in q5_0`.**" in (folder / "README.md").read_text()
    assert checksums.verify(folder).recoded == {"rtn8": "q5_0"}
    keys = keys_of(folder / MODEL)
    assert keys["luq.recoded"] == ["rtn8 q5_0"]
    assert keys["luq.is_what_was_scored"] is False
    written = tensors_of(folder / MODEL)
    assert written["blk.1.ffn_up.weight"][0] == "Q5_0"
    assert written["blk.0.ffn_up.weight"][0] == "Q4_0"
    weight = read_layer(mixed.folders[1])["mlp.up_proj"].dequantize()
    error = (written["blk.1.ffn_up.weight"][1] - weight).norm() / weight.norm()
    assert 0 < error < 0.03


def test_an_unknown_type_is_refused(plain: PackedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown --recode 'q4_m': did you mean .*q4_k"):
        export(plain, tmp_path / "exported", recode="q4_m")


def test_a_tier_that_grows_is_said(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        export(pack(small, tmp_path, ("rtn3",)), tmp_path / "exported")
    assert "rtn3 is held exactly, but takes 4.50 bits per weight in q4_0, and 3." in caplog.text


def test_gguf_tiers_do_not_grow(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        export(pack(small, tmp_path, ("q4_k", "q8_0")), tmp_path / "exported")
    assert "bits per weight" not in caplog.text
    assert "how this tokenizer cuts words in capitals: with gpt-2" in caplog.text


def test_the_package_is_imported_only_where_it_is_needed() -> None:
    for file in Path(package.__file__).parent.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^(import|from) gguf\b", text, re.MULTILINE), file


def test_a_missing_package_is_said(
    plain: PackedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'gguf>=0.19'"):
        export(plain, tmp_path / "exported")


def test_other_families_are_refused(plain: PackedModel, tmp_path: Path) -> None:
    source = source_of("gemma2", tmp_path)
    other = PackedModel(source, plain.folders, plain.allocation)
    with pytest.raises(ConfigError, match=r"llama, llava, qwen2_5_vl, and this is gemma2"):
        export(other, tmp_path / "exported")


def test_weights_of_another_model_are_refused(plain: PackedModel, tmp_path: Path) -> None:
    fewer = PackedModel(plain.source, plain.folders[:-1], Allocation(("q4_0",) * 3))
    with pytest.raises(ModelError, match="none of the linears that were packed"):
        export(fewer, tmp_path / "exported")
    layer = read_layer(plain.folders[0])
    write_layer(plain.folders[0], layer | {"mlp.other": packed_weight(torch.ones(2, 32), "q4_0")})
    with pytest.raises(ModelError, match=r"no weight for layers\.0\.mlp\.other"):
        export(plain, tmp_path / "exported")
    write_layer(plain.folders[0], layer | {"mlp.up_proj": packed_weight(torch.ones(2, 32), "q4_0")})
    with pytest.raises(ModelError, match="but it was packed as"):
        export(plain, tmp_path / "exported")
    assert list(left(tmp_path)) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("100 requested and 50 written")])
def test_a_failure_in_the_middle_leaves_nothing(
    error: BaseException, plain: PackedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = gguf.GGUFWriter.write_tensor_data

    def fail(self: Any, tensor: Any) -> None:
        if len(written) == 3:
            raise error
        written.append("")
        write(self, tensor)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
    expected = StoreError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export(plain, tmp_path / "exported")
    assert len(written) == 3
    assert list(left(tmp_path)) == []


def test_a_target_that_is_there_or_being_written_is_left_alone(
    plain: PackedModel, tmp_path: Path
) -> None:
    target = tmp_path / "exported"
    target.mkdir()
    (target / "mine").touch()
    with pytest.raises(ModelError, match="exists"):
        export(plain, target)
    with sole_writer(tmp_path / "other", "export"), pytest.raises(StoreError, match="another"):
        export(plain, tmp_path / "other")


def test_a_form_that_means_something_else_is_never_written(
    plain: PackedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rules say of a type, its blocks are decoded and compared."""
    quantizer = make_quantizer(RtnTier(bits=4, group_size=32))
    layer = read_layer(plain.folders[0])
    packed = {name: quantizer.quantize(weight.dequantize(), None) for name, weight in layer.items()}
    write_layer(plain.folders[0], packed)
    monkeypatch.setattr("luq.export.gguf.forms._range", lambda grid: (-8, 7))
    with pytest.raises(ModelError, match="is another one in q4_0"):
        export(plain, tmp_path / "exported")
    assert list(left(tmp_path)) == []


def test_a_tied_head_is_written_once(tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = pack(source, tmp_path, ("q4_0",))
    parts = {"embeddings": model.parts["embeddings"]}
    tied = PackedModel(source, model.folders, model.allocation, None, parts)
    folder = export(tied, tmp_path / "exported")
    names = tensors_of(folder / MODEL)
    assert "token_embd.weight" in names
    assert "output.weight" not in names


def test_the_licence_of_the_checkpoint_is_said(plain: PackedModel, tmp_path: Path) -> None:
    source = tmp_path / "licensed"
    source.mkdir()
    for file in plain.source.iterdir():
        (source / file.name).symlink_to(file)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    model = PackedModel(source, plain.folders, plain.allocation, None, plain.parts)
    assert keys_of(export(model, tmp_path / "exported") / MODEL)["general.license"] == "apache-2.0"
