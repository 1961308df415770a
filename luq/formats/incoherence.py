"""Random rotations that make weights look Gaussian: signs, then a Hadamard transform in blocks.

They are computed from a seed, not stored. A dimension that is not a power of two is cut into equal
blocks of the largest power of two that divides it.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Float32
from torch import Tensor

STRIP = 1024  # rows at a time


@lru_cache(maxsize=64)
def signs(size: int, seed: int) -> Float32[Tensor, " size"]:
    """`size` signs +1.0 and -1.0, the same on every platform.

    The top bit of a counter mixed by splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    mask = (1 << 64) - 1
    values = []
    for index in range(size):
        z = (seed * size + index + 1) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        top_bit = (z ^ z >> 31) >> 63
        values.append(1.0 - 2.0 * top_bit)
    return torch.tensor(values)


def block_of(size: int) -> int:
    """Length of the blocks in which a dimension is transformed: its largest power of two."""
    return size & -size


def hadamard(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """The orthonormal Hadamard transform of the last dimension, in blocks.

    Its own inverse, to rounding.
    """
    block = block_of(x.shape[-1])
    work = x.reshape(-1, block).clone()
    half = 1
    while half < block:
        pairs = work.view(-1, block // (2 * half), 2, half)
        first, second = pairs.unbind(2)
        work = torch.stack((first + second, first - second), 2).view(-1, block)
        half *= 2
    scaled: Tensor = work * block**-0.5
    return scaled.view(x.shape)


def rotate_(x: Float[Tensor, "rows size"], seed: int) -> None:
    """Signs and transform on the last dimension of x, in place.

    Strip by strip: a Hessian may take gigabytes.
    """
    sign = signs(x.shape[-1], seed).to(x)
    for start in range(0, len(x), STRIP):
        strip = slice(start, start + STRIP)
        x[strip] = hadamard(x[strip] * sign)


def unrotate(x: Float[Tensor, "rows size"], seed: int) -> Float[Tensor, "rows size"]:
    """What undoes `rotate_`."""
    return hadamard(x) * signs(x.shape[-1], seed).to(x)
