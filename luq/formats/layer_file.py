"""One artefact per layer and tier: a safetensors file with the packed weights of a layer's linears.

Tensor names are `<linear>.<buffer>` with the linear's short name if it has one (`q_proj.codes`,
`conv.in_proj.codes`); formats, shapes and the few numbers of each packed weight stand in the file's
metadata. The ledger of a file sums to its size. Tensors that are the checkpoint's own are held by
reference (`luq.formats.references`).
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from luq.errors import StoreError
from luq.formats import tensor_files
from luq.formats.base import PackedWeight
from luq.formats.known import restore
from luq.formats.layer_header import (
    FILE,
    METADATA,
    Reference,
    References,
    damaged,
    entries_of,
    references_of,
    tensor_name,
    whole_bytes,
)
from luq.formats.references import referenced
from luq.formats.sizes import LayerSize
from luq.models.families import full_name, short_name

PackedLayer = dict[str, PackedWeight]
Buffers = dict[str, dict[str, Tensor]]  # short linear name -> buffer name -> tensor


def write_layer(folder: Path, packed: PackedLayer, references: References | None = None) -> None:
    """Write one layer's packed weights.

    Args:
        folder: into which.
        packed: the weights by the linears' full names.
        references: what of them is not written, since it is the checkpoint's; None: all is written.
    """
    tensors, metadata = _contents(packed, references or References())
    tensor_files.save(tensors, folder / FILE, metadata)


def layer_content(packed: PackedLayer) -> bytes:
    """The bytes of the file that `write_layer` writes without references."""
    tensors, metadata = _contents(packed, References())
    return safetensors.torch.save(tensors, metadata)


def _contents(
    packed: PackedLayer, references: References
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A layer's tensors by name, and its file's metadata."""
    tensors: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    for name, weight in packed.items():
        short = short_name(name)
        entries[short] = {"format": weight.format, "shape": list(weight.shape), **weight.meta}
        for buffer, tensor in weight.buffers.items():
            name_in_file = tensor_name(name, buffer)
            if name_in_file not in references.tensors:
                tensors[name_in_file] = tensor.contiguous().cpu()
    metadata = {METADATA: json.dumps(entries, separators=(",", ":"))}
    return tensors, metadata | references.metadata()


def read_layer(folder: Path, checkpoint: Path | None = None) -> PackedLayer:
    """The packed weights of one layer, by full linear name.

    Args:
        folder: of the layer.
        checkpoint: the folder of the checkpoint that it was packed from, for what it holds by
            reference; None: it holds all itself.

    Raises:
        StoreError: The file cannot be read, or is not what `write_layer` writes; or the checkpoint
            is not the one that it refers to.
    """
    path = folder / FILE
    metadata, buffers = _read(path, checkpoint)
    entries = entries_of(path, metadata)
    packed: PackedLayer = {}
    for short, entry in entries.items():
        try:
            packed[full_name(short)] = _restored(entry, buffers.pop(short, {}))
        except StoreError as error:
            raise damaged(path, f"linear {short}: {error}") from error
    if buffers:
        unknown = ", ".join(sorted(buffers))
        raise damaged(path, f"it holds the unknown linears {unknown}")
    return packed


def _read(path: Path, checkpoint: Path | None) -> tuple[str | None, Buffers]:
    """The file's metadata, unparsed, and its tensors with those that it refers to."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  # safe_open is no mapping
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise damaged(path, f"it cannot be read ({error})") from error
    references = references_of(path, metadata)
    for name, reference in references.tensors.items():
        if name in tensors:
            raise damaged(path, f"it holds {name}, and refers to it")
        tensors[name] = _referenced(path, references.checkpoint, reference, checkpoint)
    buffers: Buffers = {}
    for name, tensor in tensors.items():
        short, _, buffer = name.rpartition(".")
        buffers.setdefault(short, {})[buffer] = tensor
    return metadata.get(METADATA), buffers


def _referenced(path: Path, digest: str, reference: Reference, checkpoint: Path | None) -> Tensor:
    """A tensor of the checkpoint; the error of another one says who wants it."""
    if checkpoint is None:
        raise StoreError(
            f"{path} refers to {reference.tensor} of the checkpoint {digest}: give the folder of "
            "that checkpoint"
        )
    try:
        return referenced(checkpoint, reference)
    except StoreError as error:
        raise StoreError(
            f"{path} refers to the checkpoint {digest}, but {error}: give that checkpoint back "
            "(model.path), or run again with the one that is there"
        ) from error


def _restored(entry: Any, buffers: dict[str, Tensor]) -> PackedWeight:
    """A linear from its metadata and tensors, of which nothing is trusted."""
    if not isinstance(entry, dict):
        raise StoreError("the metadata does not describe it")
    numbers = dict(entry)
    name = numbers.pop("format", None)
    shape = numbers.pop("shape", None)
    if not isinstance(name, str):
        raise StoreError(f"its format is {name!r}, not a name")
    is_shape = isinstance(shape, list) and [type(size) for size in shape] == [int, int]
    if not is_shape:
        raise StoreError(f"its shape is {shape!r}, not two whole numbers")
    for reserved in ("name", "buffers", "self"):
        if reserved in numbers:
            raise StoreError(f"meta {reserved!r} is unknown")
    weight = restore(name, buffers, (shape[0], shape[1]), **numbers)
    weight.check_content()
    return weight


def layer_size(folder: Path, packed: PackedLayer) -> LayerSize:
    """Measure the file of a packed layer, with all its weights in it."""
    ledger: dict[str, int] = {}
    for weight in packed.values():
        for name, size in weight.ledger().items():
            ledger[name] = ledger.get(name, 0) + size
    file_bytes = whole_bytes(folder)
    ledger["header"] = file_bytes - sum(ledger.values())
    weights = sum(weight.shape[0] * weight.shape[1] for weight in packed.values())
    code_bits = sum(
        weight.nominal_bits * weight.shape[0] * weight.shape[1] for weight in packed.values()
    )
    return LayerSize(weights, file_bytes, code_bits / weights, ledger)
