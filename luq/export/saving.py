"""What transformers' save_pretrained leaves out of a packed folder: the guard, and luq.json.

The folder is then like an exported one: without LUQ it stops with a sentence, and its files are
compared with their checksums before they are loaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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
from luq.export.packed_model import Place, packed_linears, place_of
from luq.models.families import part_of
from luq.models.settings_files import CONFIG, read_settings
from luq.models.weight_files import plain_name, shards_of, stored_tensors
from luq.store.store import write_json


class LoadedFolder(NamedTuple):
    """What of the folder that a model came from is kept for the one that it is saved to."""

    run: ExportedRun | None  # whose scores hold for the same numbers in the same types
    types: Mapping[str, str]  # plain name of a tensor -> its type


NOTHING = LoadedFolder(None, {})


def tensor_types(folder: Path) -> dict[str, str]:
    """The types of what a folder's weight files hold, by plain name."""
    tensors = stored_tensors(folder)
    return {plain_name(name): tensor.dtype for name, tensor in tensors.items()}


def complete(folder: Path, model: nn.Module, loaded: LoadedFolder) -> None:
    """Add the guard and luq.json to a folder that transformers wrote of a packed model.

    Args:
        folder: Holds config and weights. What else is in it by now, as the processor, gets a
            checksum, too.
        model: What was saved.
        loaded: What is known of where the model came from. The run is said of the new folder only
            if all tensors have the types that they had there.
    """
    config = read_settings(folder / CONFIG)
    config[GUARD_ENTRY] = GUARD
    write_json(folder / CONFIG, config)
    run = loaded.run if tensor_types(folder) == loaded.types else None
    ledger = _ledger(folder, model)
    about = ExportedFolder(NATIVE_LAYOUT, ledger, sum(ledger.values()), run, checksums(folder))
    write_json(folder / ABOUT, about_json(about))


def _ledger(folder: Path, model: nn.Module) -> dict[str, int]:
    """Bytes per class of what the weight files hold, their headers too: sums to the files."""
    classes: dict[Place | None, str] = {}
    for (index, name), linear in packed_linears(model).items():
        for buffer in linear.packed.buffers:
            classes[Place(index, name, buffer)] = linear.packed.classes[buffer]
    ledger: dict[str, int] = {}
    file_bytes = 0
    for shard in shards_of(folder):
        file_bytes += (folder / shard).stat().st_size
        with safe_open(folder / shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                ledger_class = classes.get(place_of(name)) or part_of(name)
                size = file.get_tensor(name).nbytes
                ledger[ledger_class] = ledger.get(ledger_class, 0) + size
    return ledger | {"header": file_bytes - sum(ledger.values())}
