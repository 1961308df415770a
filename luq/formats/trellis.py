"""Trellis codes: a stream of bits per strip of rows, whose last `window` bits look up each weight in a table."""

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from luq.formats.base import PackedWeight
from luq.formats.incoherence import unrotate

TILE = 16  # rows of a strip, and columns that are searched together


@lru_cache(maxsize=4)
def table(window: int) -> Tensor:
    """2^window quantiles of the normal distribution, fp16 values in fp32, mixed so that successors of a state are far apart."""
    count = 1 << window
    at = torch.arange(count, dtype=torch.int64)
    for factor in (
        0x9E3779B1,
        0x85EBCA77,
        0xC2B2AE3D,
    ):  # odd multiplications and shifted sums are one to one
        at = at * factor % count
        at = at ^ at >> (window + 1) // 2
    quantiles = (at.double() + 0.5) / count
    return torch.special.ndtri(quantiles).half().float()


class TrellisWeight(PackedWeight):
    """Codes as a stream of bits per strip, highest bit of a byte first, and one fp16 scale per strip.

    Bits of a strip: `bits` for each weight, highest first, tile after tile, in a tile row after row. Weight t stands for
    table[s_t] * scale, with s_t = (s_(t-1) << bits | code_t) mod 2^window and s_(-1) = 0; then both rotations are undone. Rows
    and columns are filled up to multiples of 16 with weights that are cut off again.
    """

    format = "trellis"
    classes: ClassVar = {"codes": "codes", "scales": "scales"}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, columns = self.shape
        bits, window = int(self.meta["bits"]), int(self.meta["window"])
        codes = unpack_stream(self.buffers["codes"], bits)
        states = states_of(codes, torch.zeros_like(codes[:, 0]), bits, window)
        values = table(window).to(codes.device)[states]
        rotated = from_tiles(values * self.buffers["scales"].float()[:, None])[:rows, :columns]
        seed = int(self.meta["seed"])
        return unrotate(unrotate(rotated, seed).T.contiguous(), seed + 1).T.contiguous().to(dtype)

    @property
    def table(self) -> Tensor:
        """The numbers that the codes stand for."""
        return table(int(self.meta["window"]))

    @property
    def nominal_bits(self) -> float:
        return float(self.meta["bits"])


def states_of(codes: Tensor, before: Tensor, bits: int, window: int) -> Tensor:
    """The state after each code [strips, weights], from the states [strips] before the first."""
    steps = -(-window // bits)
    past = [before >> bits * back & ((1 << bits) - 1) for back in range(steps - 1, -1, -1)]
    stream = torch.cat([torch.stack(past, 1), codes.int()], 1)
    found = torch.zeros_like(codes, dtype=torch.int32)
    for back in range(steps):
        found |= stream[:, steps - back : stream.shape[1] - back] << (bits * back)
    return found & ((1 << window) - 1)


def unpack_stream(stream: Tensor, bits: int) -> Tensor:
    """uint8 [strips, bytes] -> int32 codes [strips, weights]."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=stream.device)
    flat = ((stream.unsqueeze(-1) >> shifts) & 1).view(len(stream), -1, bits).int()
    return (flat << torch.arange(bits - 1, -1, -1, dtype=torch.int32, device=stream.device)).sum(
        -1, dtype=torch.int32
    )


def pack_stream(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes [strips, weights] -> uint8 [strips, bytes]; 256 weights a tile make whole bytes."""
    planes = codes.unsqueeze(-1) >> torch.arange(bits - 1, -1, -1, dtype=torch.uint8) & 1
    return torch.from_numpy(np.packbits(planes.view(len(codes), -1).numpy(), axis=1))


def to_tiles(weight: Tensor) -> Tensor:
    """[16 strips, 16 tiles] -> [strips, tiles * 256], in the order of the stream."""
    strips, tiles = weight.shape[0] // TILE, weight.shape[1] // TILE
    return weight.view(strips, TILE, tiles, TILE).transpose(1, 2).reshape(strips, -1)


def from_tiles(values: Tensor) -> Tensor:
    strips, tiles = len(values), values.shape[1] // TILE**2
    return (
        values.view(strips, tiles, TILE, TILE).transpose(1, 2).reshape(strips * TILE, tiles * TILE)
    )
