"""Weights that a packed layer holds by reference: the checkpoint's own, or these rounded.

A layer in a 16-bit tier would be a copy of what the checkpoint's files hold, or, where they hold
bf16 or fp32, of that rounded to fp16. Its file then says which tensors those are, with their
sha256 and the type that they are rounded to, and has none of them. The weights are the same
whichever way they are held, and so are the sizes that are said of them.

Where the checkpoint lies is never stored: whoever reads a layer says it, from the config that runs.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.layer_header import Reference, References, tensor_name
from luq.models.checkpoint import Checkpoint
from luq.models.weight_files import DTYPES, StoredTensor, stored_tensors
from luq.store.digests import part_digest

# What the numbers of a checkpoint are rounded to, by safetensors' names.
ROUNDED_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
TYPE_NAMES = {dtype: name for name, dtype in ROUNDED_TYPES.items()}


def references_to(
    checkpoint: Checkpoint, names: Mapping[str, str], packed: Mapping[str, PackedWeight]
) -> References:
    """Which buffers of packed weights are tensors of a checkpoint, as they are or rounded.

    Args:
        checkpoint: from whose weights they were packed.
        names: a linear's name -> what the checkpoint calls its weight.
        packed: the weights by the same names; none where they are not in its files.
    """
    references: dict[str, Reference] = {}
    tensors = stored_tensors(checkpoint.folder) if names else {}
    for name, weight in packed.items():
        floats = weight.stored_floats()
        if floats is None or name not in names:
            continue
        tensor = tensors[names[name]]
        if tensor.dtype not in DTYPES:
            continue
        for buffer, content in weight.buffers.items():
            if content is not floats:
                continue
            values = _read(tensor, names[name])
            if _are_same_bits(values.to(content.dtype), content.cpu()):
                sha256 = _sha256(tensor, names[name], values)
                reference = Reference(
                    names[name], tensor.dtype, tensor.shape, sha256, TYPE_NAMES[content.dtype]
                )
                references[tensor_name(name, buffer)] = reference
    return References(checkpoint.digest, references)


def referenced(checkpoint: Path, reference: Reference) -> Tensor:
    """The numbers that a reference means.

    Args:
        checkpoint: the folder in which it is looked for.
        reference: what is known of it.

    Raises:
        StoreError: the folder does not hold this tensor, but at most another one of its name.
        ModelError: the folder is not whole.
    """
    tensor = stored_tensors(checkpoint).get(reference.tensor)
    if tensor is None:
        raise StoreError(f"{checkpoint} holds no {reference.tensor}")
    if (tensor.dtype, tensor.shape) != (reference.dtype, reference.shape):
        raise StoreError(
            f"{tensor.file} holds {reference.tensor} as {tensor.dtype} {list(tensor.shape)}, and "
            f"not as {reference.dtype} {list(reference.shape)}"
        )
    values = _read(tensor, reference.tensor)
    if _sha256(tensor, reference.tensor, values) != reference.sha256:
        raise StoreError(f"{tensor.file} holds other numbers in {reference.tensor}")
    if reference.rounded_to == reference.dtype:
        return values
    return values.to(ROUNDED_TYPES[reference.rounded_to])


def _read(tensor: StoredTensor, name: str) -> Tensor:
    try:
        with safe_open(tensor.file, framework="pt") as file:
            values: Tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{tensor.file} cannot be read ({error})") from error
    return values


def _sha256(tensor: StoredTensor, name: str, values: Tensor) -> str:
    """The sha256 of a tensor's bytes, computed once while its file does not change."""
    return part_digest(
        tensor.file, name, lambda: hashlib.sha256(_bytes_of(values).numpy().data).hexdigest()
    )


def _bytes_of(values: Tensor) -> Tensor:
    return values.contiguous().reshape(-1).view(torch.uint8)


def _are_same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same file content: zeros of both signs differ."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_bytes_of(one), _bytes_of(other))
