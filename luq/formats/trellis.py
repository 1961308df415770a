"""Trellis codes: a stream of bits per strip of rows, in which each weight is a window of bits.

The state of a weight is the last `window` bits of the stream, up to its own; each state stands for
a number.

| symbol | in the code | meaning |
|---|---|---|
| s | `states` | state of a weight, below 2^window |
| x | `mixed` | (FACTOR s + OFFSET) mod 2^32 |
| n | `numbers` | what a state stands for: (sum of the bytes of x - 510) / 128 |

The sum of four bytes of a multiplied counter is nearly Gaussian and needs no table (Tseng et al.,
QTIP, NeurIPS 2024, section 3.1). Files of format version 1 look their numbers up in a table.
"""

import math
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Integer, UInt8
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.incoherence import BLOCKS, OVERLAPPING, rotate, unrotate
from luq.formats.kernels import cpu, cpu_weights
from luq.formats.packing import code_ends, code_widths
from luq.formats.rounding import rounded_inputs

TILE = 16  # rows of a strip, and columns that are searched together
MOST_BITS = 4
STEPS = 4  # of a bit: cpu.c counts in quarters
MOST_WINDOW = 16  # a window lies in three bytes: 16 bits and up to 7 before
MOST_SEED = 2**31 - 1
# What the numbers of states are: meta `code`. Files of format version 1 do not say it.
TABLE = 1  # looked up
COMPUTED = 2  # computed
# Of the computed code. The best of 2500 random pairs by squared error on Gaussian numbers:
# `python benchmarks/trellis_codes.py --search`. Files depend on them, and so do the kernels in
# kernels/cpu.c and kernels/triton_kernels.py.
FACTOR = 0x3A43AB75
OFFSET = 0x3A897E77
CENTRE = 510  # mean of the sum of four bytes
UNIT = 1 / 128  # a power of two: numbers, and their products with a scale, are exact in fp32
# Of the table. Odd multiplications and shifted sums are one to one. The factors are those of common
# hash functions (golden ratio, MurmurHash3's finalizer); files depend on them.
MIXING_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)


def computed_numbers(
    states: Integer[Tensor, "*shape"], factor: int = FACTOR, offset: int = OFFSET
) -> Float32[Tensor, "*shape"]:
    """The numbers that states of the computed code stand for: mean 0, variance 4/3, nearly."""
    mixed = (states.long() * factor + offset) & 0xFFFFFFFF
    byte_sum = torch.zeros_like(mixed)
    for place in (0, 8, 16, 24):
        byte_sum += mixed >> place & 0xFF
    return (byte_sum - CENTRE).float() * UNIT


@lru_cache(maxsize=4)
def all_numbers(window: int) -> Float32[Tensor, " states"]:
    """The numbers of the computed code for every state, as searches need them."""
    return computed_numbers(torch.arange(1 << window))


@lru_cache(maxsize=4)
def table(window: int) -> Float32[Tensor, " states"]:
    """The numbers of format version 1: 2^window quantiles of the normal distribution.

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

    Bits of a strip: tile after tile, in a tile row after row, the code of each weight with its
    highest bit first. Weight t ends with bit e_t = floor((t + 1) * bits). Its state s_t are the
    last `window` bits before e_t, and zeros before the first; it stands for n(s_t) * scale. Then
    both rotations are undone. Rows and columns are filled up to multiples of 16 with weights that
    are cut off again.

    Buffers: codes [strips, 2 * padded columns * bits] bytes, scales fp16 [strips]. Meta: bits, a
    multiple of 1/4; window; the seed of the columns' rotation, the rows' has the next one; code, 2
    for computed numbers: without one, or 1, they are those of a table, and bits whole; and
    rotation, 2 where two transforms overlap: without one, or 1, there is one, in blocks
    (`luq.formats.incoherence`).
    """

    format = "trellis"
    classes: ClassVar = {"codes": "codes", "scales": "scales"}
    numbers_of_meta: ClassVar = ("bits", "window", "seed", "code", "rotation")

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        strips = -(-rows // TILE)
        padded_columns = -(-columns // TILE) * TILE
        # checked with the others: nothing below depends on them
        _ = (self.window, self.seed, self.code, self.rotation)
        stream_bytes = int(TILE * padded_columns * self.bits) // 8
        return {
            "codes": BufferSpec(torch.uint8, (strips, stream_bytes)),
            "scales": BufferSpec(torch.float16, (strips,)),
        }

    @property
    def bits(self) -> float:
        """Bits of a code, on average."""
        bits = self.meta.get("bits")
        # whole numbers are stored as integers, as in format version 1
        if self.code == COMPUTED and isinstance(bits, float) and not bits.is_integer():
            if 1 < bits < MOST_BITS and (STEPS * bits).is_integer():
                return bits
            raise self.refused("meta 'bits'", f"a multiple of 1/{STEPS} in [1, {MOST_BITS}]", bits)
        return float(self.meta_number("bits", 1, MOST_BITS))

    @property
    def window(self) -> int:
        """Bits of a state."""
        return self.meta_number("window", math.ceil(self.bits), MOST_WINDOW)

    @property
    def seed(self) -> int:
        """Of the rotation of columns."""
        return self.meta_number("seed", 0, MOST_SEED)

    @property
    def code(self) -> int:
        """What the numbers of states are: TABLE or COMPUTED."""
        if "code" not in self.meta:
            return TABLE
        return self.meta_number("code", TABLE, COMPUTED)

    @property
    def rotation(self) -> int:
        """How rows and columns were transformed: BLOCKS or OVERLAPPING."""
        if "rotation" not in self.meta:
            return BLOCKS
        return self.meta_number("rotation", BLOCKS, OVERLAPPING)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        rows, columns = self.shape
        states = states_of(self.buffers["codes"], self.bits, self.window)
        if self.code == COMPUTED:
            values = computed_numbers(states)
        else:
            values = table(self.window).to(states.device)[states]
        scaled = values * self.buffers["scales"].float()[:, None]
        rotated = from_tiles(scaled)[:rows, :columns]
        transposed = unrotate(rotated, self.seed, self.rotation).T.contiguous()
        weight = unrotate(transposed, self.seed + 1, self.rotation)
        return weight.T.contiguous().to(dtype)

    @property
    def nominal_bits(self) -> float:
        return self.bits

    @property
    def kernel_kind(self) -> tuple[object, ...]:
        return (self.code, self.bits, self.rotation)

    def cpu_kernel(self) -> cpu_weights.TrellisKernel | None:
        codes = self.buffers["codes"]
        scales = self.buffers["scales"]
        library = cpu.library_for(codes, scales)
        if library is None:
            return None
        numbers = table(self.window) if self.code == TABLE else None
        return cpu_weights.TrellisKernel(
            library,
            self.shape,
            self.bits,
            self.window,
            self.seed,
            self.rotation,
            codes,
            scales,
            numbers,
        )

    def eight_bit_inputs(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens in"] | None:
        if self.code == TABLE:
            return None
        turned = rotate(inputs.float(), self.seed, self.rotation)
        return unrotate(rounded_inputs(turned, inputs.shape[1]), self.seed, self.rotation)

    def gpu_linear(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        from luq.formats.kernels import gpu  # imports triton, which is optional

        if self.code == TABLE:
            return None
        return gpu.trellis_linear(
            inputs,
            codes=self.buffers["codes"],
            scales=self.buffers["scales"],
            shape=self.shape,
            bits=self.bits,
            window=self.window,
            seed=self.seed,
            rotation=self.rotation,
        )


def states_of(
    stream: UInt8[Tensor, "strips bytes"], bits: float, window: int
) -> Int32[Tensor, "strips weights"]:
    """The state of each weight: the last `window` bits of the stream, up to its own."""
    weights = round(8 * stream.shape[1] / bits)
    last_bits = code_ends(weights, bits).to(stream.device) - 1
    # A window lies in the last three bytes. Before the stream's first bit are zeros.
    padded = torch.nn.functional.pad(stream, (2, 0)).int()
    last_bytes = (last_bits >> 3) + 2
    words = padded[:, last_bytes]
    words |= padded[:, last_bytes - 1] << 8
    words |= padded[:, last_bytes - 2] << 16
    bits_behind = (7 - last_bits % 8).int()
    return words >> bits_behind & ((1 << window) - 1)


def stream_of(
    states: Integer[Tensor, "strips weights"], bits: float
) -> UInt8[Tensor, "strips bytes"]:
    """The stream whose weights have these states, highest bits first: a tile makes whole bytes."""
    # of each state, the bits that its weight shifts in; few enough for a byte
    codes = (states & ((1 << MOST_BITS) - 1)).to(torch.uint8).cpu()
    places = torch.arange(math.ceil(bits) - 1, -1, -1, dtype=torch.uint8)
    planes = codes[:, :, None] >> places & 1
    is_new = places < code_widths(states.shape[1], bits)[:, None]
    return torch.from_numpy(np.packbits(planes[:, is_new].numpy(), axis=1))


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
