"""Packed layers of the pocket model that refer to a copy of its checkpoint."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from luq.config import ModelConfig
from luq.formats.float16 import FloatWeight
from luq.formats.layer_file import PackedLayer, write_layer
from luq.formats.layer_header import References
from luq.formats.references import references_to
from luq.models.checkpoint import Checkpoint, checkpoint, linear_tensors
from luq.pocket.shipped import WEIGHTS

SHARD = "model.safetensors"


def model_in(folder: Path) -> Path:
    """The checkpoint, in a folder that a test may change."""
    return shutil.copytree(WEIGHTS / "pocket_llava", folder)


def source_of(model: Path) -> Checkpoint:
    return checkpoint(ModelConfig("m", str(model), device="cpu"))


def in_float16(model: Path, names: Mapping[str, str]) -> PackedLayer:
    """Tensors of a checkpoint, as the float16 tier packs them.

    Args:
        model: the checkpoint's folder.
        names: what a weight is called -> the tensor.
    """
    tensors = load_file(model / SHARD)
    layer: PackedLayer = {}
    for name, tensor in names.items():
        weight = tensors[tensor].float().half()
        layer[name] = FloatWeight({"weight": weight}, (weight.shape[0], weight.shape[1]))
    return layer


def float_layer(model: Path, index: int) -> PackedLayer:
    """A decoder layer as the float16 tier packs it."""
    return in_float16(model, linear_tensors(source_of(model), index))


def write(folder: Path, model: Path, layer: PackedLayer, names: Mapping[str, str]) -> References:
    """Write a layer by reference, as far as it can be."""
    references = references_to(source_of(model), names, layer)
    folder.mkdir(exist_ok=True, parents=True)
    write_layer(folder, layer, references)
    return references
