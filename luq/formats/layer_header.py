"""What is known of a packed layer's file without its tensors: where it is, and how large what is.

Needs no torch, and reads a file's header alone.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luq.config.building import build
from luq.errors import ConfigError, StoreError
from luq.formats.sizes import LayerSize
from luq.models.families import full_name
from luq.store.sealed import parse_table
from luq.store.store import write_json

FILE = "layer.safetensors"
SIZE = "size.json"
METADATA = "luq"  # under which safetensors keeps our JSON
# Bytes of a number, by what safetensors calls its type.
WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}


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


def linear_bytes(folder: Path) -> dict[str, int]:
    """Bytes that a packed layer's file has of each linear, by full name; its header is none's."""
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    sizes: dict[str, int] = {}
    try:
        with safe_open(path, framework="np") as file:
            entries = entries_of(path, (file.metadata() or {}).get(METADATA))
            for short in entries:
                sizes[full_name(short)] = 0
            for name in file.keys():  # noqa: SIM118  # safe_open is no mapping
                part = file.get_slice(name)
                linear = full_name(name.rpartition(".")[0])
                if linear in sizes:
                    sizes[linear] += math.prod(part.get_shape()) * WIDTHS[part.get_dtype()]
    except (SafetensorError, OSError) as error:
        raise damaged(path, f"it cannot be read ({error})") from error
    except KeyError as error:
        raise damaged(
            path, f"it holds numbers of the type {error}, which LUQ never writes"
        ) from None
    return sizes


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
    file_bytes = (folder / FILE).stat().st_size
    if not size.bytes == sum(size.ledger.values()) == file_bytes:
        raise damaged(path, f"it is not of the {file_bytes} bytes of {FILE}")
    return size
