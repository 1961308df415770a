"""What transformers' save_pretrained leaves out of a packed folder: the guard, and luq.json.

The folder is then like an exported one: without LUQ it stops with a sentence, and its files are
compared with their checksums before they are loaded.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from luq.export.about import (
    ABOUT,
    GUARD,
    GUARD_ENTRY,
    NATIVE_LAYOUT,
    ExportedFolder,
    ExportedRun,
    about_json,
)
from luq.export.checksums import checksums
from luq.export.packed_model import (
    Place,
    classes_beside,
    packed_linears,
    place_of,
)
from luq.models.families import part_of
from luq.models.settings_files import CONFIG, read_settings
from luq.models.weight_files import plain_name, shards_of, stored_tensors
from luq.store.store import write_json


class LoadedFolder(NamedTuple):
    """Where a packed model came from, and what luq.json said there of the run that packed it."""

    folder: Path
    run: ExportedRun | None


def complete(folder: Path, model: nn.Module, loaded: LoadedFolder | None) -> None:
    """Add the guard and luq.json to a folder that transformers wrote of a packed model.

    Args:
        folder: Holds config and weights. What else is in it by now, as the processor, gets a
            checksum, too.
        model: What was saved.
        loaded: Where it came from. The run is said of the new folder only if that one is still
            there and holds the same tensors: its scores are theirs.
    """
    config = read_settings(folder / CONFIG)
    config[GUARD_ENTRY] = GUARD
    write_json(folder / CONFIG, config)
    run: ExportedRun | None = None
    if loaded is not None and _hold_the_same(folder, loaded.folder):
        run = loaded.run
    ledger = _ledger(folder, model)
    about = ExportedFolder(NATIVE_LAYOUT, ledger, sum(ledger.values()), run, checksums(folder))
    write_json(folder / ABOUT, about_json(about))


def _hold_the_same(folder: Path, other_folder: Path) -> bool:
    """Whether two folders hold equal tensors, whatever the files and modules are called."""
    if not other_folder.is_dir() or other_folder.samefile(folder):
        return False
    files: dict[str, tuple[Path, str]] = {}
    for name, tensor in stored_tensors(other_folder).items():
        files[plain_name(name)] = (tensor.file, name)
    stored = stored_tensors(folder)
    if {plain_name(name) for name in stored} != files.keys():
        return False
    for name, tensor in stored.items():
        other_file, other_name = files[plain_name(name)]
        with safe_open(tensor.file, "pt") as weights, safe_open(other_file, "pt") as other_weights:
            values = weights.get_tensor(name)
            other_values = other_weights.get_tensor(other_name)
        if values.dtype != other_values.dtype or not torch.equal(values, other_values):
            return False
    return True


def _ledger(folder: Path, model: nn.Module) -> dict[str, int]:
    """Bytes per class of what the weight files hold, their headers too: sums to the files."""
    classes: dict[Place | None, str] = {}
    for (index, name), linear in packed_linears(model).items():
        for buffer in linear.packed.buffers:
            classes[Place(index, name, buffer)] = linear.packed.classes[buffer]
    part_classes = classes_beside(model)
    ledger: dict[str, int] = {}
    file_bytes = 0
    for shard in shards_of(folder):
        file_bytes += (folder / shard).stat().st_size
        with safe_open(folder / shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                ledger_class = (
                    classes.get(place_of(name))
                    or part_classes.get(plain_name(name))
                    or part_of(name)
                )
                size = file.get_tensor(name).nbytes
                ledger[ledger_class] = ledger.get(ledger_class, 0) + size
    return ledger | {"header": file_bytes - sum(ledger.values())}
