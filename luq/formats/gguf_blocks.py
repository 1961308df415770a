"""llama.cpp's blocks of weights, byte for byte: where each number lies, and what it means.

A row is a chain of blocks of 32 or 256 weights. A block has codes, one or two fp16 numbers, and in
the large ones (super-blocks) small numbers for each sub-block of 16 or 32 weights.

| symbol | in the code | meaning |
|---|---|---|
| q | `codes` | code of a weight, from 0 |
| z | `zero` | the code that means zero |
| d, d' | `scale`, `shift` | fp16 numbers of a block |
| a, b | `sub_scales`, `sub_shifts` | whole numbers of a sub-block; 1 where a type has none |

A weight is (d a) (q - z), plus d' or minus d' b where a type has shifts; where a type has a table,
it is d times the table's number. (GGUF's specification and the `gguf` package, MIT.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float16, Float32, Integer, UInt8
from torch import Tensor

Blocks = UInt8[Tensor, "blocks bytes"]
TRITS = 5  # digits of base 3 in a byte of TQ1_0
POWERS = 3**TRITS  # what they are below


class Plane(NamedTuple):
    """Some bits of some numbers of a block.

    `length` bytes from `start` on, in `segments` of equal length; of each segment the bits at the
    first shift of all bytes, then those at the second, and so on. They are `bits` wide and stand in
    the numbers `first` and after it, from bit `low` on.
    """

    start: int
    length: int
    shifts: tuple[int, ...]
    bits: int
    segments: int = 1
    low: int = 0
    first: int = 0

    @property
    def numbers(self) -> int:
        """How many numbers have bits in it."""
        return self.length * len(self.shifts)

    def read(self, blocks: Blocks) -> UInt8[Tensor, "blocks numbers"]:
        """The bits, at their place in the numbers."""
        area = blocks[:, self.start : self.start + self.length]
        area = area.reshape(len(blocks), self.segments, 1, -1)
        shifts = self._shifts(blocks)
        pieces = (area >> shifts) & ((1 << self.bits) - 1)
        return pieces.reshape(len(blocks), -1) << self.low

    def write(self, numbers: UInt8[Tensor, "blocks numbers"], blocks: Blocks) -> None:
        """Put the bits of some numbers, those from `first` on, among the bytes of blocks."""
        pieces = (numbers >> self.low) & ((1 << self.bits) - 1)
        pieces = pieces.reshape(len(blocks), self.segments, len(self.shifts), -1)
        area = (pieces << self._shifts(blocks)).sum(2, dtype=torch.uint8)
        blocks[:, self.start : self.start + self.length] |= area.reshape(len(blocks), -1)

    def _shifts(self, blocks: Blocks) -> UInt8[Tensor, "shifts 1"]:
        return torch.tensor(self.shifts, dtype=torch.uint8, device=blocks.device)[:, None]


class Numbers(NamedTuple):
    """What blocks hold. `scale` and `shift` are [blocks], the others [blocks, numbers]."""

    codes: UInt8[Tensor, "blocks weights"]
    scale: Float16[Tensor, " blocks"]
    shift: Float16[Tensor, " blocks"] | None = None
    sub_scales: Float32[Tensor, "blocks subs"] | None = None
    sub_shifts: Float32[Tensor, "blocks subs"] | None = None


@dataclass(frozen=True)
class BlockType:
    """A type of GGUF tensors.

    Args:
        name: as llama.cpp calls it, in small letters.
        weights: of a block.
        bytes: of a block.
        levels: codes of a weight.
        scale_at: byte of d.
        planes: of the codes.
        zero: z; None: a weight is d q, without one.
        shift_at: byte of d'; None: there is none.
        sub_weights: weights of a sub-block; of a type without them all of a block.
        sub_scales: planes of a.
        sub_shifts: planes of b; with them shifts are taken away, without them added.
        sub_zero: what is taken from stored sub-scales.
        sub_levels: how many sub-scales, and sub-shifts, there are.
        signed_codes: whether codes are stored as signed bytes.
        signed_sub_scales: whether sub-scales are.
        table: numbers that codes stand for.
    """

    name: str
    weights: int
    bytes: int
    levels: int
    scale_at: int
    planes: tuple[Plane, ...]
    zero: int = 0
    shift_at: int | None = None
    sub_weights: int = 0
    sub_scales: tuple[Plane, ...] = ()
    sub_shifts: tuple[Plane, ...] = ()
    sub_zero: int = 0
    sub_levels: int = 1
    signed_codes: bool = False
    signed_sub_scales: bool = False
    table: tuple[int, ...] | None = None

    @property
    def subs(self) -> int:
        """Sub-blocks of a block."""
        return self.weights // self.group

    @property
    def group(self) -> int:
        """Weights that share what is multiplied and added."""
        return self.sub_weights or self.weights

    @property
    def stored_bits(self) -> float:
        """Bits per weight of whole blocks."""
        return 8 * self.bytes / self.weights

    @property
    def nominal_bits(self) -> float:
        """Bits per weight of the codes alone."""
        return math.log2(self.levels)

    def means(self, codes: Integer[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
        """What codes are before they are scaled: q - z, or the table's numbers."""
        if self.table is None:
            return codes.float() - self.zero
        table = torch.tensor(self.table, dtype=torch.float32, device=codes.device)
        return table[codes.long()]

    def read(self, blocks: Blocks) -> Numbers:
        """The numbers of blocks."""
        shift = None if self.shift_at is None else _fp16_at(blocks, self.shift_at)
        sub_scales = None
        sub_shifts = None
        if self.sub_scales:
            stored = _read(blocks, self.sub_scales, self.subs)
            sub_scales = _counted(stored, self.signed_sub_scales).float() - self.sub_zero
        if self.sub_shifts:
            sub_shifts = _read(blocks, self.sub_shifts, self.subs).float()
        codes = self.read_codes(blocks)
        return Numbers(codes, _fp16_at(blocks, self.scale_at), shift, sub_scales, sub_shifts)

    def write(self, numbers: Numbers) -> Blocks:
        """Blocks that hold some numbers; all must be ones that the type can hold."""
        codes = numbers.codes
        blocks = torch.zeros(len(codes), self.bytes, dtype=torch.uint8, device=codes.device)
        self.write_codes(codes, blocks)
        _put_fp16(numbers.scale, blocks, self.scale_at)
        if self.shift_at is not None and numbers.shift is not None:
            _put_fp16(numbers.shift, blocks, self.shift_at)
        if numbers.sub_scales is not None:
            stored = (numbers.sub_scales + self.sub_zero).to(torch.uint8)
            _write(_counted(stored, self.signed_sub_scales), blocks, self.sub_scales)
        if numbers.sub_shifts is not None:
            _write(numbers.sub_shifts.to(torch.uint8), blocks, self.sub_shifts)
        return blocks

    def read_codes(self, blocks: Blocks) -> UInt8[Tensor, "blocks weights"]:
        """q."""
        return _counted(_read(blocks, self.planes, self.weights), self.signed_codes)

    def write_codes(self, codes: UInt8[Tensor, "blocks weights"], blocks: Blocks) -> None:
        """Put codes among the bytes of blocks."""
        _write(_counted(codes, self.signed_codes), blocks, self.planes)

    def values(self, numbers: Numbers) -> Float32[Tensor, "blocks weights"]:
        """What the numbers mean, computed as llama.cpp does, bit for bit."""
        # (d a) (q - z)
        scale = numbers.scale.float()[:, None]
        if numbers.sub_scales is not None:
            scale = scale * numbers.sub_scales
        means = self.means(numbers.codes).view(-1, self.subs, self.group)
        values = means * scale.view(-1, scale.shape[1], 1)
        # + d', or - d' b
        if numbers.shift is not None:
            shift = numbers.shift.float()[:, None]
            if numbers.sub_shifts is not None:
                shift = -(shift * numbers.sub_shifts)
            values = values + shift.view(-1, shift.shape[1], 1)
        return values.view(-1, self.weights)

    def decode(self, blocks: Blocks) -> Float32[Tensor, "blocks weights"]:
        """What blocks mean, bit for bit as llama.cpp has it."""
        return self.values(self.read(blocks))


class TernaryBlocks(BlockType):
    """TQ1_0: five digits of base 3 in a byte, as the first digits of its 256th.

    A byte is x / 256 rounded up, for x = the digits as a fraction of 1: the next digit is the whole
    part of three times it. 32 bytes have digits of 160 weights, 16 bytes of 80, 4 bytes of the last
    16, which have four each.
    """

    def read_codes(self, blocks: Blocks) -> UInt8[Tensor, "blocks weights"]:
        parts: list[Tensor] = []
        for start, length, digits in TRIT_AREAS:
            area = blocks[:, start : start + length].int()
            for place in range(digits):
                # 3^i x without its whole part, in 256ths: the digits before i are gone
                fraction = area * 3**place & 0xFF
                parts.append(fraction * 3 >> 8)
        return torch.cat(parts, 1).to(torch.uint8)

    def write_codes(self, codes: UInt8[Tensor, "blocks weights"], blocks: Blocks) -> None:
        begin = 0
        for start, length, digits in TRIT_AREAS:
            area = torch.zeros(len(codes), length, dtype=torch.int32, device=codes.device)
            for place in range(digits):
                trits = codes[:, begin : begin + length].int()
                area += trits * 3 ** (TRITS - 1 - place)
                begin += length
            blocks[:, start : start + length] = ((area * 256 + POWERS - 1) // POWERS).to(
                torch.uint8
            )


TRIT_AREAS = ((0, 32, 5), (32, 16, 5), (48, 4, 4))  # bytes from, how many, digits of each


def _counted(stored: Tensor, is_signed: bool) -> Tensor:
    """Whole bytes in two's complement <-> the same counted from the least one on."""
    return stored ^ 0x80 if is_signed else stored


def _read(blocks: Blocks, planes: Sequence[Plane], count: int) -> UInt8[Tensor, "blocks numbers"]:
    numbers = torch.zeros(len(blocks), count, dtype=torch.uint8, device=blocks.device)
    for plane in planes:
        numbers[:, plane.first : plane.first + plane.numbers] |= plane.read(blocks)
    return numbers


def _write(numbers: Tensor, blocks: Blocks, planes: Sequence[Plane]) -> None:
    for plane in planes:
        part = numbers[:, plane.first : plane.first + plane.numbers]
        plane.write(part.contiguous(), blocks)


def _fp16_at(blocks: Blocks, start: int) -> Float16[Tensor, " blocks"]:
    return blocks[:, start : start + 2].contiguous().view(torch.float16)[:, 0]


def _put_fp16(values: Float[Tensor, " blocks"], blocks: Blocks, start: int) -> None:
    blocks[:, start : start + 2] = values.half()[:, None].contiguous().view(torch.uint8)


NIBBLES = (0, 4)
CRUMBS = (0, 2, 4, 6)
BITS = tuple(range(8))
# 8 six-bit numbers in 12 bytes, twice: the first four whole, of the others four bits and two.
SIX_BIT_SCALES = (
    Plane(4, 4, (0,), 6),
    Plane(12, 4, (0,), 4, first=4),
    Plane(4, 4, (6,), 2, low=4, first=4),
)
SIX_BIT_SHIFTS = (
    Plane(8, 4, (0,), 6),
    Plane(12, 4, (4,), 4, first=4),
    Plane(8, 4, (6,), 2, low=4, first=4),
)
NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

_ALL = (
    BlockType(
        name="q8_0",
        weights=32,
        bytes=34,
        levels=256,
        scale_at=0,
        planes=(Plane(2, 32, (0,), 8),),
        zero=128,
        signed_codes=True,
    ),
    BlockType(
        name="q4_0",
        weights=32,
        bytes=18,
        levels=16,
        scale_at=0,
        planes=(Plane(2, 16, NIBBLES, 4),),
        zero=8,
    ),
    BlockType(
        name="q4_1",
        weights=32,
        bytes=20,
        levels=16,
        scale_at=0,
        planes=(Plane(4, 16, NIBBLES, 4),),
        shift_at=2,
    ),
    BlockType(
        name="q5_0",
        weights=32,
        bytes=22,
        levels=32,
        scale_at=0,
        planes=(Plane(6, 16, NIBBLES, 4), Plane(2, 4, BITS, 1, segments=4, low=4)),
        zero=16,
    ),
    BlockType(
        name="q5_1",
        weights=32,
        bytes=24,
        levels=32,
        scale_at=0,
        planes=(Plane(8, 16, NIBBLES, 4), Plane(4, 4, BITS, 1, segments=4, low=4)),
        shift_at=2,
    ),
    BlockType(
        name="iq4_nl",
        weights=32,
        bytes=18,
        levels=16,
        scale_at=0,
        planes=(Plane(2, 16, NIBBLES, 4),),
        table=NONLINEAR,
    ),
    BlockType(
        name="iq4_xs",
        weights=256,
        bytes=136,
        levels=16,
        scale_at=0,
        planes=(Plane(8, 128, NIBBLES, 4, segments=8),),
        sub_weights=32,
        sub_scales=(
            Plane(4, 4, NIBBLES, 4, segments=4),
            Plane(2, 2, CRUMBS, 2, segments=2, low=4),
        ),
        sub_zero=32,
        sub_levels=64,
        table=NONLINEAR,
    ),
    BlockType(
        name="q2_k",
        weights=256,
        bytes=84,
        levels=4,
        scale_at=80,
        planes=(Plane(16, 64, CRUMBS, 2, segments=2),),
        shift_at=82,
        sub_weights=16,
        sub_scales=(Plane(0, 16, (0,), 4),),
        sub_shifts=(Plane(0, 16, (4,), 4),),
        sub_levels=16,
    ),
    BlockType(
        name="q3_k",
        weights=256,
        bytes=110,
        levels=8,
        scale_at=108,
        planes=(Plane(32, 64, CRUMBS, 2, segments=2), Plane(0, 32, BITS, 1, low=2)),
        zero=4,
        sub_weights=16,
        sub_scales=(Plane(96, 8, NIBBLES, 4), Plane(104, 4, CRUMBS, 2, low=4)),
        sub_zero=32,
        sub_levels=64,
    ),
    BlockType(
        name="q4_k",
        weights=256,
        bytes=144,
        levels=16,
        scale_at=0,
        planes=(Plane(16, 128, NIBBLES, 4, segments=4),),
        shift_at=2,
        sub_weights=32,
        sub_scales=SIX_BIT_SCALES,
        sub_shifts=SIX_BIT_SHIFTS,
        sub_levels=64,
    ),
    BlockType(
        name="q5_k",
        weights=256,
        bytes=176,
        levels=32,
        scale_at=0,
        planes=(Plane(48, 128, NIBBLES, 4, segments=4), Plane(16, 32, BITS, 1, low=4)),
        shift_at=2,
        sub_weights=32,
        sub_scales=SIX_BIT_SCALES,
        sub_shifts=SIX_BIT_SHIFTS,
        sub_levels=64,
    ),
    BlockType(
        name="q6_k",
        weights=256,
        bytes=210,
        levels=64,
        scale_at=208,
        planes=(
            Plane(0, 128, NIBBLES, 4, segments=2),
            Plane(128, 64, CRUMBS, 2, segments=2, low=4),
        ),
        zero=32,
        sub_weights=16,
        sub_scales=(Plane(192, 16, (0,), 8),),
        sub_zero=128,
        sub_levels=256,
        signed_sub_scales=True,
    ),
    TernaryBlocks(
        name="tq1_0",
        weights=256,
        bytes=54,
        levels=3,
        scale_at=52,
        planes=(),
        zero=1,
    ),
    BlockType(
        name="tq2_0",
        weights=256,
        bytes=66,
        levels=3,
        scale_at=64,
        planes=(Plane(0, 64, CRUMBS, 2, segments=2),),
        zero=1,
    ),
)
BLOCK_TYPES: dict[str, BlockType] = {kind.name: kind for kind in _ALL}
