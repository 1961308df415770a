"""Random rotations that make weights look Gaussian: signs, then a Hadamard transform in blocks. Computed, not stored.

A dimension that is not a power of two is cut into equal blocks of the largest power of two that divides it.
"""

from functools import lru_cache

import torch
from torch import Tensor

STRIP = 1024  # rows at a time


@lru_cache(maxsize=64)
def signs(size: int, seed: int) -> Tensor:
    """`size` signs +1.0 and -1.0, the same on every platform: the top bit of a mixed counter (splitmix64)."""
    mask = (1 << 64) - 1
    found = []
    for i in range(size):
        z = (seed * size + i + 1) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        found.append(1.0 - 2.0 * ((z ^ z >> 31) >> 63))
    return torch.tensor(found)


def block_of(size: int) -> int:
    """Length of the blocks in which a dimension is transformed."""
    return size & -size


def hadamard(x: Tensor) -> Tensor:
    """The orthonormal Hadamard transform of the last dimension, in blocks; its own inverse (to rounding)."""
    size = x.shape[-1]
    block = block_of(size)
    work = x.reshape(-1, block).clone()
    half = 1
    while half < block:
        pairs = work.view(-1, block // (2 * half), 2, half)
        low, high = pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]
        work = torch.stack((low, high), 2).view(-1, block)
        half *= 2
    return (work * block**-0.5).view(x.shape)


def rotate_(x: Tensor, seed: int) -> None:
    """Signs and transform on the last dimension of x [rows, size], in place and strip by strip: a Hessian may take gigabytes."""
    turn = signs(x.shape[-1], seed).to(x)
    for start in range(0, len(x), STRIP):
        x[start : start + STRIP] = hadamard(x[start : start + STRIP] * turn)


def unrotate(x: Tensor, seed: int) -> Tensor:
    """What undoes `rotate_`."""
    return hadamard(x) * signs(x.shape[-1], seed).to(x)
