"""An exported folder holds all weights, also those that the store holds by reference."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from luq.allocation.allocations import Allocation
from luq.config import RtnTier
from luq.export.compressed_tensors import COMPRESSED_TENSORS
from luq.export.dequantized import dequantized
from luq.export.folder import NATIVE, Layout, PackedModel, StoredPart, export
from luq.export.gguf.folder import export as export_gguf
from luq.formats.layer_file import PackedLayer, write_layer
from luq.models.checkpoint import linear_tensors, module_tensors
from luq.models.families import decoder_weight
from luq.quantization.methods import make_quantizer
from tests.luq.formats.by_reference import (
    SHARD,
    float_layer,
    in_float16,
    model_in,
    source_of,
    write,
)

PLAN = ("rtn4", *("float16",) * 11)
Export = Callable[[PackedModel, Path], Path]


def in_layout(layout: Layout) -> Export:
    return lambda model, target: export(model, target, layout=layout)


EXPORTS: dict[str, Export] = {
    "luq": in_layout(NATIVE),
    "compressed-tensors": in_layout(COMPRESSED_TENSORS),
    "dequantized": in_layout(dequantized(torch.float16)),
    "gguf": export_gguf,
}


class Held:
    """The same packed model twice: by reference to a checkpoint, and as copies of it."""

    def __init__(self, root: Path) -> None:
        self.source = model_in(root / "model")
        source = source_of(self.source)
        modules = module_tensors(source)
        embeddings = {"embed_tokens": modules["embed_tokens"]}
        layers: dict[str, PackedLayer] = {}
        names: dict[str, dict[str, str]] = {"embeddings": embeddings}
        layers["embeddings"] = in_float16(self.source, embeddings)
        quantizer = make_quantizer(RtnTier(bits=4, group_size=32, symmetric=True))
        for index, tier in enumerate(PLAN):
            layer = float_layer(self.source, index)
            if tier == "rtn4":
                for linear, weight in layer.items():
                    layer[linear] = quantizer.quantize(weight.dequantize(), None)
            layers[f"layer{index}"] = layer
            names[f"layer{index}"] = linear_tensors(source, index)
        for name, layer in layers.items():
            (root / "copies" / name).mkdir(parents=True)
            write_layer(root / "copies" / name, layer)
            write(root / "references" / name, self.source, layer, names[name])
        self.root = root

    def model(self, how: str, with_parts: bool) -> PackedModel:
        root = self.root / how
        folders = [root / f"layer{index}" for index in range(len(PLAN))]
        parts = {"embeddings": StoredPart(root / "embeddings", "float16")} if with_parts else {}
        return PackedModel(self.source, folders, Allocation(PLAN), None, parts)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return Held(tmp_path_factory.mktemp("held"))


def weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("name", EXPORTS)
def test_a_folder_is_the_same_as_from_copies_and_needs_no_checkpoint(
    held: Held, tmp_path: Path, name: str
) -> None:
    assert weight_bytes(held.root / "references") < 0.1 * weight_bytes(held.root / "copies")
    with_parts = name != "compressed-tensors"  # which has no place for them
    exported = EXPORTS[name](held.model("references", with_parts), tmp_path / "one" / "m")
    from_copies = EXPORTS[name](held.model("copies", with_parts), tmp_path / "two" / "m")
    tensors = load_file(held.source / SHARD)
    gone = held.source.rename(tmp_path / "gone")
    try:
        assert contents(exported) == contents(from_copies)
        if name != "gguf":
            weights = load_file(exported / SHARD)
            for tensor in linear_tensors_of(tensors):
                assert torch.equal(weights[tensor], tensors[tensor])
    finally:
        gone.rename(held.source)


def linear_tensors_of(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The weights of the layers that are in 16 bit."""
    places = {name: decoder_weight(name) for name in tensors if tensors[name].ndim == 2}
    return [name for name, place in places.items() if place is not None and place[0] > 0]
