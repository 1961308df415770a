"""16-bit weights held by reference are the checkpoint's, or nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from luq.config import Float16Tier, LayerTiers
from luq.errors import ModelError, StoreError
from luq.formats import layer_header
from luq.formats import references as references_module
from luq.formats.layer_file import PackedLayer, layer_size, read_layer, write_layer
from luq.formats.layer_header import (
    FILE,
    REFERENCES,
    WIDTHS,
    References,
    held_by_reference,
    linear_bytes,
    read_size,
    whole_bytes,
    write_size,
)
from luq.formats.references import references_to
from luq.formats.sizes import LayerSize
from luq.models.checkpoint import checkpoint, linear_tensors, module_tensors
from luq.models.vlm import VLM, hold_loaded
from luq.pocket.shipped import WEIGHTS
from luq.quantization.artefacts import PackedLayer as PackedLayerArtefact
from luq.quantization.artefacts import PackedPart
from luq.quantization.rest import assert_parts_installed, install_parts
from luq.quantization.walk import assert_installed, install
from luq.store import digests
from luq.store.store import Store
from tests.luq.formats import by_reference
from tests.luq.formats.by_reference import SHARD, float_layer, model_in, source_of
from tests.luq.formats.weights import binaries, coded, floats, integers, ternaries

INDEX = 3  # of the layer that these tests look at
NAME = "language_model.model.layers.3.mlp.up_proj.weight"
Table = dict[str, Any]
DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint's folder that a test may change, and a memory of digests of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digests._remembered.cache_clear()
    return model_in(tmp_path / "model")


def write(folder: Path, model: Path, layer: PackedLayer) -> References:
    return by_reference.write(folder, model, layer, linear_tensors(source_of(model), INDEX))


def change_weight(model: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(model / SHARD)
    tensors[NAME] = change(tensors[NAME])
    save_file(tensors, model / SHARD, metadata={"format": "pt"})


def test_a_layer_by_reference_has_the_bits_and_the_sizes_of_its_copy(
    model: Path, tmp_path: Path
) -> None:
    layer = float_layer(model, INDEX)
    copy = tmp_path / "copy"
    copy.mkdir()
    write_layer(copy, layer)
    folder = tmp_path / "reference"
    references = write(folder, model, layer)
    assert len(references.tensors) == len(layer) == 7
    assert references.checkpoint == source_of(model).digest
    assert (folder / FILE).stat().st_size < 3000 < (copy / FILE).stat().st_size / 10
    restored = read_layer(folder, model)
    assert list(restored) == list(read_layer(copy))
    for name, weight in read_layer(copy).items():
        assert restored[name].meta == weight.meta
        assert torch.equal(restored[name].buffers["weight"], weight.buffers["weight"])
    assert whole_bytes(folder) == whole_bytes(copy) == (copy / FILE).stat().st_size
    assert linear_bytes(folder) == linear_bytes(copy)
    size = layer_size(folder, restored)
    assert size == layer_size(copy, layer)
    write_size(folder, size)
    assert read_size(folder) == size
    write_size(folder, replace(size, bytes=size.bytes + 8))
    with pytest.raises(StoreError, match="it is not of the"):
        read_size(folder)


def test_sizes_are_those_of_a_copy_beside_linears_of_all_types(model: Path, tmp_path: Path) -> None:
    """The header's length rests on the order of the tensors, which safetensors decides."""
    layer = float_layer(model, INDEX)
    layer |= {
        "self_attn.q_proj": integers(9, 20, 3, 3, False, 8),
        "self_attn.k_proj": ternaries(9, 20, 3, 8),
        "self_attn.v_proj": binaries(16, 32, 8, 0.3, twice=True),
        "mlp.gate_proj": coded(16, 32, 2),
        "conv.\u00e4": floats(3, 5, torch.bfloat16),
    }
    copy = tmp_path / "copy"
    copy.mkdir()
    write_layer(copy, layer)
    references = write(tmp_path / "reference", model, layer)
    assert set(references.tensors) == {
        f"{name}.weight" for name in ("o_proj", "up_proj", "down_proj")
    }
    assert whole_bytes(tmp_path / "reference") == (copy / FILE).stat().st_size
    assert linear_bytes(tmp_path / "reference") == linear_bytes(copy)
    restored = read_layer(tmp_path / "reference", model)
    for name, weight in layer.items():
        for buffer, content in weight.buffers.items():
            assert torch.equal(restored[name].buffers[buffer], content)


def test_the_order_of_types_in_a_file_is_the_library_s(tmp_path: Path) -> None:
    tensors = {
        str(dtype): torch.zeros(1, dtype=dtype)
        for dtype in (
            torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16, torch.float16,
            torch.int16, torch.int8, torch.uint8, torch.bool,
        )
    }  # fmt: skip
    save_file(tensors, tmp_path / "all")
    with safe_open(tmp_path / "all", framework="pt") as file:
        widest_first = [file.get_slice(name).get_dtype() for name in file.offset_keys()]
    assert widest_first == list(reversed(WIDTHS))


@pytest.mark.parametrize(
    "changed",
    [
        lambda weight: weight.nextafter(torch.full_like(weight, 9)),
        lambda weight: torch.full_like(weight, -0.0),
    ],
    ids=["values", "the sign of zero"],
)
def test_what_is_not_the_checkpoint_s_bits_is_written(
    model: Path, tmp_path: Path, changed: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    layer = float_layer(model, INDEX)
    layer["mlp.up_proj"].buffers["weight"] = changed(layer["mlp.up_proj"].buffers["weight"])
    if changed(torch.zeros(1).half()).signbit():
        change_weight(model, torch.zeros_like)
    references = write(tmp_path / "layer", model, layer)
    assert len(references.tensors) == 6
    assert "up_proj.weight" not in references.tensors
    restored = read_layer(tmp_path / "layer", model)["mlp.up_proj"].buffers["weight"]
    expected = layer["mlp.up_proj"].buffers["weight"]
    assert torch.equal(restored.view(torch.int16), expected.view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("held", [torch.float16, torch.bfloat16])
def test_a_checkpoint_of_another_type_is_referred_to_and_rounded_when_it_is_read(
    model: Path, tmp_path: Path, dtype: torch.dtype, held: torch.dtype
) -> None:
    """Numbers below fp16's range, beyond it and between its numbers, and both zeros."""
    generator = torch.Generator().manual_seed(0)

    def spread(weight: torch.Tensor) -> torch.Tensor:
        exponents = torch.rand(weight.shape, generator=generator, dtype=torch.double) * 45 - 28
        values = (torch.randn(weight.shape, generator=generator) * 2**exponents).to(dtype)
        values[0, :3] = torch.tensor([0.0, -0.0, 1e-8], dtype=dtype)
        return values

    change_weight(model, spread)
    stored = load_file(model / SHARD)[NAME]
    assert stored.dtype == dtype
    layer = float_layer(model, INDEX)
    layer["mlp.up_proj"].buffers["weight"] = stored.to(held)
    references = write(tmp_path / "layer", model, layer)
    assert references.tensors["up_proj.weight"].dtype == DTYPE_NAMES[dtype]
    copy = tmp_path / "copy"
    copy.mkdir()
    write_layer(copy, layer)
    restored = read_layer(tmp_path / "layer", model)["mlp.up_proj"].buffers["weight"]
    assert restored.dtype == held
    assert torch.equal(restored.view(torch.int16), stored.to(held).view(torch.int16))
    assert whole_bytes(tmp_path / "layer") == (copy / FILE).stat().st_size
    assert linear_bytes(tmp_path / "layer") == linear_bytes(copy)


def test_references_of_older_files_say_no_type_and_are_as_they_are(
    model: Path, tmp_path: Path
) -> None:
    layer = float_layer(model, INDEX)
    references = write(tmp_path / "layer", model, layer)
    with safe_open(tmp_path / "layer" / FILE, framework="pt") as file:
        metadata = file.metadata()
    table = json.loads(metadata[REFERENCES])
    for entry in table["tensors"].values():
        assert entry.pop() == "F16"
    save_file({}, tmp_path / "layer" / FILE, metadata=metadata | {REFERENCES: json.dumps(table)})
    assert held_by_reference(tmp_path / "layer") == references
    restored = read_layer(tmp_path / "layer", model)
    for name, weight in layer.items():
        assert torch.equal(restored[name].buffers["weight"], weight.buffers["weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight.nextafter(torch.full_like(weight, 9)), "holds other numbers in"),
        (lambda weight: weight.bfloat16(), r"as BF16 .*, and not as F16"),
        (lambda weight: weight.reshape(1, -1), r"as F16 \[1, .*, and not as F16"),
    ],
    ids=["values", "type", "shape"],
)
def test_a_changed_checkpoint_is_refused(
    model: Path,
    tmp_path: Path,
    change: Callable[[torch.Tensor], torch.Tensor],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)  # digests are remembered at once
    write(tmp_path / "layer", model, float_layer(model, INDEX))
    digest = source_of(model).digest
    change_weight(model, change)
    with pytest.raises(StoreError, match=message) as refused:
        read_layer(tmp_path / "layer", model)
    said = str(refused.value)
    assert str(tmp_path / "layer" / FILE) in said
    assert NAME in said
    assert digest in said
    assert "give that checkpoint back (model.path), or run again" in said


def test_a_checkpoint_that_is_gone_is_said(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "layer", model, float_layer(model, INDEX))
    with pytest.raises(StoreError, match="give the folder of that checkpoint"):
        read_layer(tmp_path / "layer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        read_layer(tmp_path / "layer", tmp_path / "empty")
    other = shutil.copytree(WEIGHTS / "pocket_qwen", tmp_path / "other")
    with pytest.raises(StoreError, match="holds no language_model"):
        read_layer(tmp_path / "layer", other)


def test_a_checkpoint_may_move(model: Path, tmp_path: Path) -> None:
    layer = float_layer(model, INDEX)
    write(tmp_path / "layer", model, layer)
    moved = model.rename(tmp_path / "moved")
    assert str(model).encode() not in (tmp_path / "layer" / FILE).read_bytes()
    restored = read_layer(tmp_path / "layer", moved)
    assert torch.equal(restored["mlp.up_proj"].dequantize(), layer["mlp.up_proj"].dequantize())


def test_bytes_are_digested_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    write(tmp_path / "layer", model, float_layer(model, INDEX))
    digests._remembered.cache_clear()  # as in a new process
    monkeypatch.setattr(references_module, "_bytes_of", lambda values: pytest.fail("digested"))
    assert len(read_layer(tmp_path / "layer", model)) == 7


DAMAGE: dict[str, Callable[[Table], object]] = {
    "no tensors": lambda table: table.pop("tensors"),
    "no checkpoint": lambda table: table.update(checkpoint=7),
    "a list": lambda table: table.update(tensors=[]),
    "a short entry": lambda table: table["tensors"].update({"up_proj.weight": ["a"]}),
    "no type": lambda table: table["tensors"]["up_proj.weight"].__setitem__(1, "F17"),
    "a list for a type": lambda table: table["tensors"]["up_proj.weight"].__setitem__(1, ["F16"]),
    "rounded to fp32": lambda table: table["tensors"]["up_proj.weight"].__setitem__(4, "F32"),
    "rounded to a list": lambda table: table["tensors"]["up_proj.weight"].__setitem__(4, ["F16"]),
    "too long an entry": lambda table: table["tensors"]["up_proj.weight"].append("F16"),
    "no shape": lambda table: table["tensors"]["up_proj.weight"].__setitem__(2, None),
    "a negative shape": lambda table: table["tensors"]["up_proj.weight"].__setitem__(2, [-1, 2]),
    "no sha256": lambda table: table["tensors"]["up_proj.weight"].__setitem__(3, "0"),
    "a number for a name": lambda table: table["tensors"]["up_proj.weight"].__setitem__(0, 3),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_references_that_are_none_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "layer"
    write(folder, model, float_layer(model, INDEX))
    with safe_open(folder / FILE, framework="pt") as file:
        metadata = file.metadata()
    table = json.loads(metadata[REFERENCES])
    DAMAGE[name](table)
    save_file({}, folder / FILE, metadata=metadata | {REFERENCES: json.dumps(table)})
    for read in (lambda folder: read_layer(folder, model), whole_bytes, linear_bytes):
        with pytest.raises(StoreError, match="what it refers to cannot be read") as refused:
            read(folder)
        assert f"Delete {folder} and run again" in str(refused.value)


def test_a_tensor_that_is_held_and_referred_to_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "layer"
    write(folder, model, float_layer(model, INDEX))
    with safe_open(folder / FILE, framework="pt") as file:
        metadata = file.metadata()
    save_file({"up_proj.weight": torch.zeros(2, 2).half()}, folder / FILE, metadata=metadata)
    with pytest.raises(StoreError, match=r"it holds up_proj\.weight, and refers to it"):
        read_layer(folder, model)


def test_a_model_in_memory_has_no_tensors_to_refer_to(model: Path) -> None:
    source = source_of(model)
    (model / SHARD).unlink()
    assert linear_tensors(source, INDEX) == {} == module_tensors(source)
    assert references_to(source, {}, {"x": floats(3, 5)}).tensors == {}


def test_modules_of_all_parts_have_their_tensors(model: Path) -> None:
    names = module_tensors(source_of(model))
    assert names["embed_tokens"] == "language_model.model.embed_tokens.weight"
    assert names["lm_head"] == "language_model.lm_head.weight"


def test_the_artefact_refers_and_an_older_copy_is_read(
    vlm: VLM, model: Path, tmp_path: Path
) -> None:
    """Both have one key: their weights and sizes are the same."""
    store = Store(tmp_path / "store")
    source = source_of(model)
    hold_loaded(store.tools, source, vlm)
    artefact = PackedLayerArtefact(source, INDEX, LayerTiers(Float16Tier()))
    layer = store.get(artefact)
    assert sum(file.stat().st_size for file in layer.folder.iterdir()) < 6000
    expected = float_layer(model, INDEX)
    assert layer.read().keys() == expected.keys()
    for name, weight in layer.read().items():
        assert torch.equal(weight.buffers["weight"], expected[name].buffers["weight"])
    older = tmp_path / "older"
    older.mkdir()
    write_layer(older, expected)
    copy = type(layer)(older, layer.checkpoint)
    assert layer.size() == copy.size()
    assert layer.bytes == copy.bytes == layer.size().bytes
    assert layer.linear_bytes() == copy.linear_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_artefacts_of_a_checkpoint_in_another_type_refer_to_it(
    model: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """A layer and a part, whose numbers are those of the model as it is loaded."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(model / SHARD).items()}
    tensors[NAME][0, 0] = 1e-7  # bf16 and fp16 differ
    save_file(tensors, model / SHARD, metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    store = Store(tmp_path / "store")
    source = source_of(model)
    layer = store.get(PackedLayerArtefact(source, INDEX, LayerTiers(Float16Tier())))
    part = store.get(PackedPart(source, "embeddings", Float16Tier()))
    assert len(held_by_reference(layer.folder).tensors) == 7
    assert held_by_reference(part.folder).tensors.keys() == {"embed_tokens.weight"}
    for name, weight in layer.read().items():
        stored = tensors[linear_tensors(source, INDEX)[name]]
        assert torch.equal(weight.buffers["weight"], stored.half())


def test_what_is_installed_by_reference_is_the_model(vlm: VLM, tmp_path: Path) -> None:
    """Decoder layers, and a part beside them."""
    store = Store(tmp_path / "store")
    source = checkpoint(vlm.config)
    hold_loaded(store.tools, source, vlm)
    layers = [
        PackedLayerArtefact(source, index, LayerTiers(Float16Tier()))
        for index in range(source.layers)
    ]
    part = PackedPart(source, "embeddings", Float16Tier())
    folders = [store.get(layer).folder for layer in layers]
    parts = {"embeddings": store.get(part).folder}
    assert held_by_reference(parts["embeddings"]).tensors.keys() == {"embed_tokens.weight"}
    ids = torch.arange(5, 45).unsqueeze(0)
    with torch.no_grad():
        expected = vlm.model(input_ids=ids).logits
        try:
            assert install(vlm, folders) == source.layers
            assert install_parts(vlm, parts) == 1
            assert_installed(vlm, folders)
            assert_parts_installed(vlm, parts)
            given = vlm.model(input_ids=ids).logits
        finally:
            vlm.restore()
    assert torch.allclose(given, expected, atol=1e-4)


def test_an_interrupted_layer_leaves_nothing(
    vlm: VLM, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    source = source_of(model)
    hold_loaded(store.tools, source, vlm)
    artefact = PackedLayerArtefact(source, INDEX, LayerTiers(Float16Tier()))

    def interrupt(folder: Path, size: LayerSize) -> None:
        assert (folder / FILE).exists(), "the references are written before their sizes"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(layer_header, "write_size", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.get(artefact)
    assert not store.has(artefact)
    assert list(store.leftovers()) == []
    assert len(store.get(artefact).read()) == 7
