"""Trellis codes: a stream of bits per strip of rows that looks up each weight in a table.

The state of a weight is the last `window` bits of the stream, up to its own; the table holds one
number per state.
"""

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Integer, UInt8
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.incoherence import signs, unrotate
from luq.formats.kernels import cpu

TILE = 16  # rows of a strip, and columns that are searched together
MOST_BITS = 4
MOST_WINDOW = 16  # the GPU's kernel reads a window from three bytes: 16 bits and up to 7 before
MOST_SEED = 2**31 - 1
# Odd multiplications and shifted sums are one to one. The factors are those of common hash
# functions (golden ratio, MurmurHash3's finalizer); files depend on them.
MIXING_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)


@lru_cache(maxsize=4)
def table(window: int) -> Float32[Tensor, " states"]:
    """The numbers that states stand for: 2^window quantiles of the normal distribution.

    fp16 values in fp32, mixed so that successors of a state are far apart.
    """
    count = 1 << window
    place = torch.arange(count, dtype=torch.int64)
    for factor in MIXING_FACTORS:
        place = place * factor % count
        place = place ^ place >> (window + 1) // 2
    quantiles = (place.double() + 0.5) / count
    numbers: Tensor = torch.special.ndtri(quantiles)
    return numbers.half().float()


class TrellisWeight(PackedWeight):
    """Codes as a stream of bits per strip, highest bit of a byte first, and a scale per strip.

    Bits of a strip: `bits` for each weight, highest first, tile after tile, in a tile row after
    row. Weight t stands for table[s_t] * scale, with s_t = (s_(t-1) << bits | code_t) mod 2^window
    and s_(-1) = 0; then both rotations are undone. Rows and columns are filled up to multiples of
    16 with weights that are cut off again.

    Buffers: codes [strips, 2 * padded columns * bits] bytes, scales fp16 [strips]. Meta: bits,
    window, and the seed of the columns' rotation; the rows' has the next one.
    """

    format = "trellis"
    classes: ClassVar = {"codes": "codes", "scales": "scales"}
    numbers_of_meta: ClassVar = ("bits", "window", "seed")

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        strips = -(-rows // TILE)
        padded_columns = -(-columns // TILE) * TILE
        # checked with the others: nothing below depends on them
        _ = (self.window, self.seed)
        stream_bytes = TILE * padded_columns * self.bits // 8
        return {
            "codes": BufferSpec(torch.uint8, (strips, stream_bytes)),
            "scales": BufferSpec(torch.float16, (strips,)),
        }

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.meta_number("bits", 1, MOST_BITS)

    @property
    def window(self) -> int:
        """Bits of a state."""
        return self.meta_number("window", self.bits, MOST_WINDOW)

    @property
    def seed(self) -> int:
        """Of the rotation of columns."""
        return self.meta_number("seed", 0, MOST_SEED)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        rows, columns = self.shape
        codes = unpack_stream(self.buffers["codes"], self.bits)
        start = torch.zeros_like(codes[:, 0])
        states = states_of(codes, start, self.bits, self.window)
        values = table(self.window).to(codes.device)[states]
        scaled = values * self.buffers["scales"].float()[:, None]
        rotated = from_tiles(scaled)[:rows, :columns]
        transposed = unrotate(rotated, self.seed).T.contiguous()
        return unrotate(transposed, self.seed + 1).T.contiguous().to(dtype)

    @property
    def table(self) -> Float32[Tensor, " states"]:
        """The numbers that the codes stand for."""
        return table(self.window)

    @property
    def nominal_bits(self) -> float:
        return float(self.bits)

    def cpu_linear(
        self, inputs: Float32[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        kernel = self._kernel()
        return None if kernel is None else kernel.linear(inputs)

    def cpu_unpack(self, dtype: torch.dtype) -> Float[Tensor, "out in"] | None:
        kernel = self._kernel()
        return None if kernel is None else kernel.unpack().to(dtype)

    def _kernel(self) -> cpu.TrellisKernel | None:
        codes = self.buffers["codes"]
        scales = self.buffers["scales"]
        library = cpu.library_for(codes, scales)
        if library is None:
            return None
        return cpu.TrellisKernel(
            library, self.shape, self.bits, self.window, self.seed, codes, scales, self.table
        )

    def gpu_linear(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        from luq.formats.kernels import gpu  # imports triton, which is optional

        constants = _constants(*self.shape, self.seed, self.window, inputs.device)
        column_signs, row_signs, numbers = constants
        return gpu.trellis_linear(
            inputs,
            codes=self.buffers["codes"],
            scales=self.buffers["scales"],
            table=numbers,
            column_signs=column_signs,
            row_signs=row_signs,
            bits=self.bits,
            window=self.window,
        )


@lru_cache(maxsize=64)
def _constants(
    rows: int, columns: int, seed: int, window: int, device: torch.device
) -> tuple[Float32[Tensor, " in"], Float32[Tensor, " out"], Float32[Tensor, " states"]]:
    """Signs of columns and of rows, and the table, on a device."""
    column_signs = signs(columns, seed).to(device)
    row_signs = signs(rows, seed + 1).to(device)
    return column_signs, row_signs, table(window).to(device)


def states_of(
    codes: Integer[Tensor, "strips weights"],
    before: Integer[Tensor, " strips"],
    bits: int,
    window: int,
) -> Int32[Tensor, "strips weights"]:
    """The state after each code, from the states before the first."""
    steps = -(-window // bits)  # codes that a state reaches back
    code_mask = (1 << bits) - 1
    past = [before >> bits * back & code_mask for back in range(steps - 1, -1, -1)]
    stream = torch.cat([torch.stack(past, 1), codes.int()], 1)
    states = torch.zeros_like(codes, dtype=torch.int32)
    for back in range(steps):
        states |= stream[:, steps - back : stream.shape[1] - back] << (bits * back)
    return states & ((1 << window) - 1)


def unpack_stream(
    stream: UInt8[Tensor, "strips bytes"], bits: int
) -> Int32[Tensor, "strips weights"]:
    """uint8 [strips, bytes] -> int32 codes [strips, weights]."""
    bit_places = torch.arange(7, -1, -1, dtype=torch.uint8, device=stream.device)
    code_places = torch.arange(bits - 1, -1, -1, dtype=torch.int32, device=stream.device)
    flat = ((stream.unsqueeze(-1) >> bit_places) & 1).view(len(stream), -1, bits).int()
    return (flat << code_places).sum(-1, dtype=torch.int32)


def pack_stream(codes: UInt8[Tensor, "strips weights"], bits: int) -> UInt8[Tensor, "strips bytes"]:
    """uint8 codes [strips, weights] -> uint8 [strips, bytes]: a tile makes whole bytes."""
    planes = codes.unsqueeze(-1) >> torch.arange(bits - 1, -1, -1, dtype=torch.uint8) & 1
    return torch.from_numpy(np.packbits(planes.view(len(codes), -1).numpy(), axis=1))


def to_tiles(weight: Float32[Tensor, "rows columns"]) -> Float32[Tensor, "strips weights"]:
    """[16 strips, 16 tiles] -> [strips, tiles * 256], in the order of the stream."""
    strips = weight.shape[0] // TILE
    tiles = weight.shape[1] // TILE
    return weight.view(strips, TILE, tiles, TILE).transpose(1, 2).reshape(strips, -1)


def from_tiles(values: Float32[Tensor, "strips weights"]) -> Float32[Tensor, "rows columns"]:
    """What undoes `to_tiles`."""
    strips = len(values)
    tiles = values.shape[1] // TILE**2
    tiled = values.view(strips, tiles, TILE, TILE)
    return tiled.transpose(1, 2).reshape(strips * TILE, tiles * TILE)
