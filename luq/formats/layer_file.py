"""One artefact per layer and tier: a safetensors file with the packed weights of a layer's linears.

Tensor names are `<linear>.<buffer>` with the short linear name (`q_proj.codes`); formats, shapes and the
few numbers of each packed weight stand in the file's metadata. The ledger of a file sums to its size.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.known import restore
from luq.formats.sizes import LayerSize
from luq.models.families import LINEARS

FILE = "layer.safetensors"
PackedLayer = dict[str, PackedWeight]


def write_layer(folder: Path, packed: PackedLayer) -> None:
    """Write one layer's packed weights into `folder`."""
    tensors: dict[str, torch.Tensor] = {}
    meta: dict[str, Any] = {}
    for name, weight in packed.items():
        short = name.rpartition(".")[2]
        meta[short] = {"format": weight.format, "shape": list(weight.shape), **weight.meta}
        tensors |= {
            f"{short}.{buffer}": t.contiguous().cpu() for buffer, t in weight.buffers.items()
        }
    save_file(tensors, folder / FILE, metadata={"luq": json.dumps(meta, separators=(",", ":"))})


def read_layer(folder: Path, device: torch.device | str = "cpu") -> PackedLayer:
    """The packed weights of one layer, by full linear name."""
    packed: PackedLayer = {}
    with safe_open(folder / FILE, framework="pt", device=str(device)) as file:
        meta = json.loads((file.metadata() or {}).get("luq", "null"))
        if meta is None:
            raise StoreError(f"{folder / FILE} has no luq metadata: delete {folder} and run again")
        buffers: dict[str, dict[str, torch.Tensor]] = {}
        for name in file.keys():  # noqa: SIM118 (no mapping)
            linear, _, buffer = name.partition(".")
            buffers.setdefault(linear, {})[buffer] = file.get_tensor(name)
    for name in LINEARS:
        short = name.rpartition(".")[2]
        entry = dict(meta[short])
        rows, columns = entry.pop("shape")
        packed[name] = restore(entry.pop("format"), buffers[short], (rows, columns), **entry)
    return packed


def stored_bytes(folder: Path) -> int:
    """Size of a packed layer's file."""
    return (folder / FILE).stat().st_size


def layer_size(folder: Path, packed: PackedLayer) -> LayerSize:
    """Measure the file of a packed layer."""
    ledger: dict[str, int] = {}
    for weight in packed.values():
        for name, count in weight.ledger().items():
            ledger[name] = ledger.get(name, 0) + count
    size = stored_bytes(folder)
    ledger["header"] = size - sum(ledger.values())
    weights = sum(p.shape[0] * p.shape[1] for p in packed.values())
    nominal = sum(p.nominal_bits * p.shape[0] * p.shape[1] for p in packed.values()) / weights
    return LayerSize(weights, size, nominal, ledger)
