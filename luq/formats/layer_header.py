"""What is known of a packed layer's file without its tensors: where it is, and how large what is.

Weights that a file holds by reference (`luq.formats.references`) count as if they were in it: sizes
are those of what is loaded and shipped, whatever the store's disk is spared.

Needs no torch, and reads a file's header alone.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from luq.config.building import build
from luq.errors import ConfigError, StoreError
from luq.formats.sizes import LayerSize
from luq.models.families import full_name, short_name
from luq.store.digests import SHA256
from luq.store.sealed import parse_table
from luq.store.store import write_json

FILE = "layer.safetensors"
SIZE = "size.json"
METADATA = "luq"  # under which safetensors keeps our JSON
REFERENCES = "luq.references"  # likewise, for what is held by reference
# Bytes of a number, by what safetensors calls its type, in the order of its types: a file has the
# tensors of the last one first.
WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
}
ROUNDED = ("F16", "BF16")  # what the numbers of a checkpoint may be rounded to
ALIGNMENT = 8  # bytes: a header is filled up to a multiple of it
LENGTH_BYTES = 8  # before a header, how long it is


class Reference(NamedTuple):
    """A tensor of a checkpoint: what its header says of it, and the sha256 of its bytes."""

    tensor: str  # its name
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    sha256: str
    rounded_to: str  # the layer's type of it: the same, or one that its numbers are rounded to


@dataclass(frozen=True)
class References:
    """What a packed layer's file does not hold, since the checkpoint does.

    Args:
        checkpoint: digest of the checkpoint.
        tensors: by what the layer's file would call them.
    """

    checkpoint: str = ""
    tensors: dict[str, Reference] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """What a file says of them: nothing, if there are none."""
        if not self.tensors:
            return {}
        return {REFERENCES: json.dumps(asdict(self), separators=(",", ":"))}


class _Slice(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * WIDTHS[self.dtype]


class _Header(NamedTuple):
    """What a packed layer's file says, with what it refers to as if that were in it."""

    metadata: str | None  # of the linears, unparsed
    tensors: dict[str, _Slice]
    references: References


def tensor_name(linear: str, buffer: str) -> str:
    """What a file calls a buffer of a linear."""
    return f"{short_name(linear)}.{buffer}"


def damaged(path: Path, reason: str) -> StoreError:
    """The error for a file of a packed layer that is not what was written."""
    return StoreError(f"{path}: {reason}. Delete {path.parent} and run again")


def entries_of(path: Path, metadata: str | None) -> dict[str, Any]:
    """What the metadata says of each linear, by short name; entries are not checked yet."""
    if metadata is None:
        raise damaged(path, "it has no luq metadata")
    try:
        entries = json.loads(metadata)
    except ValueError as error:
        raise damaged(path, f"its luq metadata is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise damaged(path, "its luq metadata is not an object of linears")
    return entries


def references_of(path: Path, metadata: dict[str, str]) -> References:
    """What a packed layer's file refers to; its metadata may say anything.

    Args:
        path: of the file.
        metadata: what safetensors keeps in it beside the tensors.

    Raises:
        StoreError: it is not what `References.metadata` writes.
    """
    text = metadata.get(REFERENCES)
    if text is None:
        return References()
    try:
        table = parse_table(text)
        digest = table["checkpoint"]
        tensors = {name: _reference(*entry) for name, entry in table["tensors"].items()}
        if not isinstance(digest, str):
            raise ValueError("it names no checkpoint")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, f"what it refers to cannot be read ({error})") from error
    return References(digest, tensors)


def _reference(
    tensor: Any, dtype: Any, shape: Any, sha256: Any, rounded_to: Any = None
) -> Reference:
    """An entry of a file's references; a ValueError or TypeError if it is none.

    Older files do not say what a tensor is rounded to, and have it as it is.
    """
    are_sizes = all(type(size) is int and size > 0 for size in shape)
    rounded_to = dtype if rounded_to is None else rounded_to
    are_types = dtype in WIDTHS and (rounded_to == dtype or rounded_to in ROUNDED)
    if not (isinstance(tensor, str) and are_types and are_sizes):
        raise ValueError("no name, type and shape of a tensor")
    if not SHA256.fullmatch(sha256):
        raise ValueError(f"no sha256 of {tensor}")
    return Reference(tensor, dtype, tuple(shape), sha256, rounded_to)


def _header(path: Path) -> _Header:
    """The header of a packed layer's file.

    Raises:
        StoreError: it cannot be read, or is not what LUQ writes.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, _Slice] = {}
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  # safe_open is no mapping
                part = file.get_slice(name)
                tensors[name] = _Slice(part.get_dtype(), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise damaged(path, f"it cannot be read ({error})") from error
    for tensor in tensors.values():
        if tensor.dtype not in WIDTHS:
            raise damaged(
                path,
                f"it holds numbers of the type {tensor.dtype}, which LUQ never writes",
            )
    references = references_of(path, metadata)
    for name, reference in references.tensors.items():
        tensors[name] = _Slice(reference.rounded_to, reference.shape)
    return _Header(metadata.get(METADATA), tensors, references)


def held_by_reference(folder: Path) -> References:
    """What a packed layer's file does not hold itself."""
    return _header(folder / FILE).references


def linear_bytes(folder: Path) -> dict[str, int]:
    """Bytes that a packed layer has of each linear, by full name; its file's header is none's."""
    path = folder / FILE
    header = _header(path)
    sizes: dict[str, int] = {}
    for short in entries_of(path, header.metadata):
        sizes[full_name(short)] = 0
    for name, tensor in header.tensors.items():
        linear = full_name(name.rpartition(".")[0])
        if linear in sizes:
            sizes[linear] += tensor.bytes
    return sizes


def whole_bytes(folder: Path) -> int:
    """Bytes of a packed layer's file with all its weights in it.

    That is the file's size, but for one that holds weights by reference: of that it is what the
    file would have been with them.
    """
    path = folder / FILE
    header = _header(path)
    if not header.references.tensors:
        return path.stat().st_size
    tensor_bytes = sum(tensor.bytes for tensor in header.tensors.values())
    return _header_bytes(header) + tensor_bytes


def _header_bytes(header: _Header) -> int:
    """Bytes before the tensors of a file that holds all of them, as safetensors writes it."""
    content: dict[str, Any] = {"__metadata__": {METADATA: header.metadata}}
    widest_first = list(reversed(WIDTHS))
    tensors = sorted(
        header.tensors.items(), key=lambda item: (widest_first.index(item[1].dtype), item[0])
    )
    begin = 0
    for name, tensor in tensors:
        end = begin + tensor.bytes
        content[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    length = len(text.encode("utf-8"))
    return LENGTH_BYTES + ALIGNMENT * math.ceil(length / ALIGNMENT)


def write_size(folder: Path, size: LayerSize) -> None:
    """Keep what a packed layer's file holds beside it: to count it again takes its tensors."""
    write_json(folder / SIZE, asdict(size))


def read_size(folder: Path) -> LayerSize | None:
    """What a packed layer's file holds; None if nothing beside it says so, as in older stores.

    Raises:
        StoreError: What is said is not of this file.
    """
    path = folder / SIZE
    if not path.exists():
        return None
    try:
        size = build(LayerSize, parse_table(path.read_bytes()))
    except (OSError, ValueError, ConfigError) as error:
        raise damaged(path, f"it cannot be read ({error})") from error
    expected = (folder / FILE).stat().st_size
    if size.bytes != expected:
        expected = whole_bytes(folder)
    if not size.bytes == sum(size.ledger.values()) == expected:
        raise damaged(path, f"it is not of the {expected} bytes of {FILE}")
    return size
