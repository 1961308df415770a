"""Reading ahead: the next layer of a streamed model comes from the disk while one is computed.

The system is told which bytes will be wanted, and reads them into its page cache by itself
(`posix_fadvise`): no thread, no memory of this process, and nothing that could fail. Where a system
takes no such advice, layers are read when they are used.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from luq.models.families import decoder_weight
from luq.models.weight_files import stored_tensors
from luq.store.digests import read_once

# Bytes that one piece of advice is for. Linux reads no more of it than the disk's read-ahead, which
# is at least this by default.
PIECE = 131_072
LENGTH_BYTES = 8  # of a safetensors file, before its header: how long that is
NOBODY = -1  # stands for a layer where none was looked at


class ReadAhead:
    """What of a checkpoint's decoder layers will be read next.

    Args:
        folder: of the checkpoint.
        layers: how many there are.
    """

    def __init__(self, folder: Path, layers: int) -> None:
        self.folder = folder
        self.layers = layers
        self._layer = NOBODY  # that is computed now

    def begin(self, layer: int) -> None:
        """A layer is computed: the one after it will be read next."""
        if layer == self._layer:
            return
        self._layer = layer
        if layer + 1 < self.layers:
            advise(self.folder, layer + 1)

    def listen(self, layers: nn.ModuleList) -> None:
        """Hear of every layer of a model that is called."""
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._begin_of(index))

    def _begin_of(self, index: int) -> Any:
        def begin(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self.begin(index)

        return begin


def advise(folder: Path, layer: int) -> None:
    """Have the system read the weights of a decoder layer, as soon as it can.

    Args:
        folder: of the checkpoint.
        layer: its index.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS, Windows
        return
    by_file: dict[Path, list[range]] = {}
    for name, tensor in stored_tensors(folder).items():
        place = decoder_weight(name)
        if place is not None and place[0] == layer:
            by_file.setdefault(tensor.file, []).append(_places(tensor.file)[name])
    for file, places in by_file.items():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            for tensor_bytes in places:
                for start in range(tensor_bytes.start, tensor_bytes.stop, PIECE):
                    length = min(PIECE, tensor_bytes.stop - start)
                    os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


@read_once
def _places(file: Path) -> Mapping[str, range]:
    """Where each tensor's bytes are in a weight file, whose header has been checked."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
        header = json.loads(handle.read(length))
    begin = LENGTH_BYTES + length
    places: dict[str, range] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            places[name] = range(begin + start, begin + end)
    return places
