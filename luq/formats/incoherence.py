"""Random rotations that make weights look Gaussian: signs, then Hadamard transforms.

They are computed from a seed, not stored. A dimension that is a power of two is transformed as a
whole. In any other one two transforms overlap: with p the largest power of two up to the size,

    rotation = H_last D_2 H_first D_1

of signs D_1 and D_2, the transform H_first of the first p numbers and H_last of the last p. Without
D_2 what the one spread over the numbers that both have the other would gather again. Weights made
before have one transform, in equal blocks of the largest power of two that divides the size.

| symbol | in the code | meaning |
|---|---|---|
| p | `length` | numbers that are transformed at once |
| D_1 | `signs(size, seed)` | signs before the transform |
| D_2 | `signs(size, seed + BETWEEN)` | signs between two that overlap |
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Float32
from torch import Tensor

STRIP = 1024  # rows at a time
# How a dimension is transformed: meta `rotation` of trellis codes.
BLOCKS = 1  # in equal blocks
OVERLAPPING = 2  # as a whole, or by two transforms that overlap
BETWEEN = 2  # from the seed of the first signs to that of the second


@lru_cache(maxsize=64)
def signs(size: int, seed: int, device: torch.device | str = "cpu") -> Float32[Tensor, " size"]:
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
    return torch.tensor(values, device=device)


def overlaps(size: int) -> bool:
    """Whether a dimension has two transforms in an OVERLAPPING rotation."""
    return size & -size < size  # it is no power of two


def length_of(size: int, rotation: int) -> int:
    """Numbers of a dimension that are transformed at once.

    Those of a block; or, where they do not divide the dimension, of each of two transforms.
    """
    if rotation == OVERLAPPING and overlaps(size):
        return 1 << size.bit_length() - 1  # the largest power of two up to the size
    return size & -size  # the largest power of two that divides it


def hadamard(x: Float[Tensor, "*batch size"], length: int) -> Float[Tensor, "*batch size"]:
    """The orthonormal Hadamard transform of the last dimension, in blocks of `length`.

    Its own inverse, to rounding.
    """
    # H_1 = [1] and H_2n = [[H_n, H_n], [H_n, -H_n]]: sums and differences, log2(length) times over
    work = x.reshape(-1, length).clone()
    half = 1
    while half < length:
        pairs = work.view(-1, length // (2 * half), 2, half)
        first, second = pairs.unbind(2)
        work = torch.stack((first + second, first - second), 2).view(-1, length)
        half *= 2
    scaled: Tensor = work * length**-0.5
    return scaled.view(x.shape)


def _with_signs(x: Float[Tensor, "*batch size"], seed: int) -> Float[Tensor, "*batch size"]:
    return x * signs(x.shape[-1], seed, x.device).to(x.dtype)


def rotate(
    x: Float[Tensor, "*batch size"], seed: int, rotation: int = BLOCKS
) -> Float[Tensor, "*batch size"]:
    """Signs and transform on the last dimension.

    Args:
        x: Numbers.
        seed: Of the signs.
        rotation: BLOCKS or OVERLAPPING.
    """
    size = x.shape[-1]
    length = length_of(size, rotation)
    x = _with_signs(x, seed)
    if size % length == 0:
        return hadamard(x, length)
    first = hadamard(x[..., :length], length)
    x = _with_signs(torch.cat([first, x[..., length:]], -1), seed + BETWEEN)
    last = hadamard(x[..., size - length :], length)
    return torch.cat([x[..., : size - length], last], -1)


def rotate_(x: Float[Tensor, "rows size"], seed: int, rotation: int = BLOCKS) -> None:
    """`rotate` in place.

    Strip by strip: a Hessian may take gigabytes.
    """
    for start in range(0, len(x), STRIP):
        strip = slice(start, start + STRIP)
        x[strip] = rotate(x[strip], seed, rotation)


def unrotate(
    x: Float[Tensor, "*batch size"], seed: int, rotation: int = BLOCKS
) -> Float[Tensor, "*batch size"]:
    """What undoes `rotate`."""
    size = x.shape[-1]
    length = length_of(size, rotation)
    if size % length == 0:
        return _with_signs(hadamard(x, length), seed)
    # (H_last D_2 H_first D_1)^-1 = D_1 H_first D_2 H_last: each undoes itself
    last = hadamard(x[..., size - length :], length)
    x = _with_signs(torch.cat([x[..., : size - length], last], -1), seed + BETWEEN)
    first = hadamard(x[..., :length], length)
    return _with_signs(torch.cat([first, x[..., length:]], -1), seed)
