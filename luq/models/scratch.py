"""Tensors on disk while they wait: what a walk keeps of every batch must not fill the memory.

The file has no name, so that it is gone with the process, however that ends.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Slot(NamedTuple):
    """Where a tensor lies in the file."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Scratch:
    """A nameless file in `folder` (the system's folder for temporary files, which may be memory,
    if that is None).
    """

    def __init__(self, folder: Path | None = None):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as this object
        self._end = 0

    def put(self, tensor: Tensor, slot: Slot | None = None) -> Slot:
        """Write a tensor, into a slot of the same size if one is given, else at the end."""
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        if slot is None:
            slot = Slot(self._end, tuple(tensor.shape), tensor.dtype)
            self._end += flat.numel()
        self._file.seek(slot.start)
        self._file.write(flat.numpy().data)
        return slot

    def get(self, slot: Slot) -> Tensor:
        """The tensor of a slot, on the CPU."""
        tensor = torch.empty(slot.shape, dtype=slot.dtype)
        self._file.seek(slot.start)
        self._file.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return tensor


class Parked:
    """A tensor that waits: in memory, or in a file if there is one.

    Args:
        tensor: what waits; another one of its size may take its place.
        scratch: the file; None: it waits in memory.
    """

    def __init__(self, tensor: Tensor, scratch: Scratch | None = None) -> None:
        self.scratch = scratch
        self._device = tensor.device
        self._slot: Slot | None = None
        self._tensor: Tensor | None = None
        self.put(tensor)

    def put(self, tensor: Tensor) -> None:
        """Have another tensor wait in place of the one before."""
        if self.scratch is None:
            self._tensor = tensor
        else:
            self._slot = self.scratch.put(tensor, self._slot)

    def get(self) -> Tensor:
        """The tensor, on its device."""
        if self.scratch is not None and self._slot is not None:
            return self.scratch.get(self._slot).to(self._device)
        assert self._tensor is not None
        return self._tensor
