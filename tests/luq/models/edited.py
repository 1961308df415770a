"""Copies of the pocket checkpoints with something changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from luq.models.weight_files import INDEX, SINGLE
from luq.pocket.shipped import WEIGHTS as POCKET

Tensors = dict[str, Tensor]


def copy(folder: Path, name: str = "pocket_llava") -> Path:
    """A copy of a pocket checkpoint."""
    return shutil.copytree(POCKET / name, folder / "m")


def change_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """Write a folder's weights again, changed in place."""
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def change_json(file: Path, **changes: Any) -> None:
    """Set entries of a JSON file; None deletes one, a dict is merged into what is there."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name, value in changes.items():
        if value is None:
            content.pop(name, None)
        elif isinstance(value, dict) and isinstance(content.get(name), dict):
            content[name] |= value
        else:
            content[name] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def split(folder: Path) -> dict[str, str]:
    """Write a folder's weights as two shards with an index; returns its weight map."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:50], names[50:]), start=1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
