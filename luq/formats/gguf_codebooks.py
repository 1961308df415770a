"""llama.cpp's blocks whose weights are points of codebooks, byte for byte (IQ1, IQ2, IQ3).

A block has 256 weights. Each eight of them are one point of a list, or two points of four weights.
What is listed, and the order of the list, is part of the format: `gguf_codebooks.safetensors` has
the digits of each point, the first weight in the lowest bits.

| symbol | in the code | meaning |
|---|---|---|
| p | | a number of a listed point |
| q | `codes` | what a weight means in steps, a whole number: 8 p +- 1 (IQ1), p or -p (IQ2, IQ3) |
| d | `scale` | fp16 number of a block |
| n, a | `sub_scales` | stored number of a sub-block of 16 or 32 weights, and a = (2 n + 1) unit |

A weight is d a q, which is exact in fp32, in any order. IQ1 moves all p of a point, or of a
sub-block, by 1/8 up or down. IQ2 and IQ3 have a sign for each weight; where only seven of eight are
stored, an even number of the eight is negative. (GGUF's specification and the `gguf` package, MIT.)
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float16, Float32, Int, Int8, Int32, Int64, UInt8
from safetensors.torch import load_file
from torch import Tensor

FILE = Path(__file__).with_suffix(".safetensors")
WEIGHTS = 256  # of a block
UNIT = 8  # weights that share a point, or their signs
Blocks = UInt8[Tensor, "blocks bytes"]
Codes = Int8[Tensor, "blocks weights"]


class Field(NamedTuple):
    """Some bits of some numbers of a block.

    A block is a row of bits, the lowest of each byte first. `bits` of the first number begin at
    bit `start`; the others follow as `strides` say, (how many, bits apart), outermost first. They
    stand in the numbers from bit `low` on. No part crosses more than one border of bytes.
    """

    start: int
    strides: tuple[tuple[int, int], ...]
    bits: int
    low: int = 0

    @property
    def places(self) -> Int64[Tensor, " numbers"]:
        """The first bit of each number."""
        places = torch.tensor([self.start])
        for count, distance in self.strides:
            places = (places[:, None] + distance * torch.arange(count)).flatten()
        return places

    def read(self, blocks: Blocks) -> Int32[Tensor, "blocks numbers"]:
        """The bits, at their place in the numbers."""
        places = self.places.to(blocks.device)
        first = places // 8
        second = (first + 1).clamp_max(blocks.shape[1] - 1)
        pairs = blocks[:, first].int() | blocks[:, second].int() << 8
        return (pairs >> (places % 8).int() & self._mask) << self.low

    def write(self, numbers: Int[Tensor, "blocks numbers"], blocks: Blocks) -> None:
        """Put the bits of some numbers among the bytes of blocks, which have zeros there."""
        places = self.places.to(blocks.device)
        pairs = (numbers.int() >> self.low & self._mask) << (places % 8).int()
        area = torch.zeros(len(blocks), blocks.shape[1] + 1, dtype=torch.int32)
        area = area.to(blocks.device)
        area.index_add_(1, places // 8, pairs & 0xFF)
        area.index_add_(1, places // 8 + 1, pairs >> 8)
        blocks |= area[:, :-1].to(torch.uint8)

    @property
    def _mask(self) -> int:
        return (1 << self.bits) - 1


class CodebookNumbers(NamedTuple):
    """What blocks hold."""

    codes: Codes
    scale: Float16[Tensor, " blocks"]
    sub_scales: Float32[Tensor, "blocks subs"]


@lru_cache(maxsize=1)
def _lists() -> dict[str, Tensor]:
    return load_file(FILE)


@dataclass(frozen=True)
class CodebookType(ABC):
    """A type of GGUF tensors whose weights are points of a codebook.

    Args:
        name: as llama.cpp calls it, in small letters.
        bytes: of a block.
        book: name of the list.
        numbers: that the digits of a point stand for, in rising order.
        point: weights of a point.
        group: weights of a sub-block.
        scale: of d, in four nibbles.
        sub_scales: of n.
        unit: of a.
        indices: of the place of each point in the list.
    """

    name: str
    bytes: int
    book: str
    numbers: tuple[int, ...]
    point: int
    group: int
    scale: Field
    sub_scales: Field
    unit: float
    indices: tuple[Field, ...]

    @property
    def weights(self) -> int:
        """Of a block."""
        return WEIGHTS

    @property
    def subs(self) -> int:
        """Sub-blocks of a block."""
        return WEIGHTS // self.group

    @property
    def stored_bits(self) -> float:
        """Bits per weight of whole blocks."""
        return 8 * self.bytes / WEIGHTS

    @property
    @abstractmethod
    def nominal_bits(self) -> float:
        """Bits per weight of the codes alone."""

    @property
    def index_bits(self) -> float:
        """Bits per weight of the places in the list."""
        return math.log2(len(self.points)) / self.point

    @property
    def multiples(self) -> Float32[Tensor, " levels"]:
        """All a, rising."""
        return (2 * torch.arange(1 << self.sub_scales.bits) + 1) * self.unit

    @cached_property
    def points(self) -> Int32[Tensor, "points point"]:
        """The list: p."""
        return torch.tensor(self.numbers, dtype=torch.int32)[self._digits]

    def read(self, blocks: Blocks) -> CodebookNumbers:
        """The numbers of blocks."""
        nibbles = self.scale.read(blocks) << torch.tensor([0, 4, 8, 12], device=blocks.device)
        scale = nibbles.sum(1).to(torch.uint16).view(torch.float16)
        sub_scales = (2 * self.sub_scales.read(blocks) + 1) * self.unit
        return CodebookNumbers(self.read_codes(blocks), scale, sub_scales)

    def write(self, numbers: CodebookNumbers) -> Blocks:
        """Blocks that hold some numbers; all must be ones that the type can hold."""
        codes = numbers.codes
        blocks = torch.zeros(len(codes), self.bytes, dtype=torch.uint8, device=codes.device)
        bits = numbers.scale.view(torch.uint16).int()[:, None]
        shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int32, device=codes.device)
        self.scale.write(bits >> shifts, blocks)
        stored = torch.round((numbers.sub_scales / self.unit - 1) / 2)
        self.sub_scales.write(stored.int(), blocks)
        self.write_codes(codes, blocks)
        return blocks

    def values(self, numbers: CodebookNumbers) -> Float32[Tensor, "blocks weights"]:
        """What the numbers mean."""
        step = numbers.scale.float()[:, None] * numbers.sub_scales
        codes = numbers.codes.float().view(-1, self.subs, self.group)
        return (codes * step[:, :, None]).view(-1, WEIGHTS)

    def decode(self, blocks: Blocks) -> Float32[Tensor, "blocks weights"]:
        """What blocks mean, bit for bit as llama.cpp has it."""
        return self.values(self.read(blocks))

    @abstractmethod
    def read_codes(self, blocks: Blocks) -> Codes:
        """q."""

    @abstractmethod
    def write_codes(self, codes: Codes, blocks: Blocks) -> None:
        """Put codes among the bytes of blocks."""

    def _listed(self, blocks: Blocks) -> Int32[Tensor, "blocks weights"]:
        """p of all weights."""
        index = self.indices[0].read(blocks)
        for field in self.indices[1:]:
            index |= field.read(blocks)
        return self.points.to(blocks.device)[index].view(len(blocks), WEIGHTS)

    def _write_listed(self, listed: Int32[Tensor, "blocks weights"], blocks: Blocks) -> None:
        """Put the places of points among the bytes of blocks."""
        numbers = torch.tensor(self.numbers, dtype=torch.int32, device=listed.device)
        digits = torch.searchsorted(numbers, listed.contiguous())
        index = self._places.to(listed.device)[self._key(digits.view(-1, self.point))]
        for field in self.indices:
            field.write(index.view(len(blocks), -1), blocks)

    @property
    def _digits(self) -> Int64[Tensor, "points point"]:
        """Places of p among the numbers."""
        width = (len(self.numbers) - 1).bit_length()
        packed = _lists()[self.book].long()
        return packed[:, None] >> width * torch.arange(self.point) & (1 << width) - 1

    def _key(self, digits: Int64[Tensor, "n point"]) -> Int64[Tensor, " n"]:
        """A point as a number whose digits these are."""
        worths = len(self.numbers) ** torch.arange(self.point, device=digits.device)
        return (digits * worths).sum(1)

    @cached_property
    def _places(self) -> Int64[Tensor, " keys"]:
        """The place in the list of each point that is listed."""
        places = torch.zeros(len(self.numbers) ** self.point, dtype=torch.int64)
        places[self._key(self._digits)] = torch.arange(len(self.points))
        return places


@dataclass(frozen=True)
class MovedType(CodebookType):
    """IQ1: points of -1, 0 and 1, moved by 1/8.

    Args:
        moves: of the bit that says down; for each point, or for each sub-block.
    """

    moves: Field

    @property
    def moved(self) -> int:
        """Weights that are moved alike."""
        return WEIGHTS // len(self.moves.places)

    @property
    def nominal_bits(self) -> float:
        return self.index_bits + 1 / self.moved

    def read_codes(self, blocks: Blocks) -> Codes:
        move = 1 - 2 * self.moves.read(blocks)
        listed = self._listed(blocks).view(len(blocks), -1, self.moved)
        return (8 * listed + move[:, :, None]).view(len(blocks), WEIGHTS).to(torch.int8)

    def write_codes(self, codes: Codes, blocks: Blocks) -> None:
        first = codes[:, :: self.moved]
        is_down = first & 7 == 7  # 8 p - 1, not 8 p + 1
        self.moves.write(is_down.int(), blocks)
        self._write_listed(codes.int() + 4 >> 3, blocks)  # p = q / 8, rounded


@dataclass(frozen=True)
class SignedType(CodebookType):
    """IQ2 and IQ3: points of positive numbers, with signs.

    Args:
        signs: of the bits of eight weights that say minus; seven of them, or all.
    """

    signs: Field

    @property
    def is_even(self) -> bool:
        """Whether an even number of eight signs is minus."""
        return self.signs.bits < UNIT

    @property
    def nominal_bits(self) -> float:
        return self.index_bits + self.signs.bits / UNIT

    def read_codes(self, blocks: Blocks) -> Codes:
        places = torch.arange(self.signs.bits, dtype=torch.int32, device=blocks.device)
        minus = self.signs.read(blocks)[:, :, None] >> places & 1
        if self.is_even:
            # the eighth sign is not stored: it makes the number of minus signs even
            last = minus.sum(2, keepdim=True, dtype=torch.int32) & 1
            minus = torch.cat([minus, last], 2)
        listed = self._listed(blocks)
        return (listed * (1 - 2 * minus.view(len(blocks), WEIGHTS))).to(torch.int8)

    def write_codes(self, codes: Codes, blocks: Blocks) -> None:
        places = torch.arange(UNIT, dtype=torch.int32, device=codes.device)
        minus = (codes < 0).view(len(codes), -1, UNIT).int() << places
        self.signs.write(minus.sum(2), blocks)
        self._write_listed(codes.int().abs(), blocks)


TRITS = (-1, 0, 1)
IQ2 = (8, 25, 43)
IQ3 = (4, 12, 20, 28, 36, 44, 52, 62)
ODD = (1, 3, 5, 7, 9, 11, 13, 15)
D_FIRST = Field(0, ((4, 4),), 4)

_ALL: tuple[CodebookType, ...] = (
    MovedType(
        name="iq1_m",
        bytes=56,
        book="iq1",
        numbers=TRITS,
        point=8,
        group=16,
        scale=Field(396, ((4, 16),), 4),
        sub_scales=Field(384, ((4, 16), (4, 3)), 3),
        unit=1 / 8,
        indices=(Field(0, ((32, 8),), 8), Field(256, ((32, 4),), 3, low=8)),
        moves=Field(259, ((32, 4),), 1),
    ),
    MovedType(
        name="iq1_s",
        bytes=50,
        book="iq1",
        numbers=TRITS,
        point=8,
        group=32,
        scale=D_FIRST,
        sub_scales=Field(284, ((8, 16),), 3),
        unit=1 / 8,
        indices=(Field(16, ((32, 8),), 8), Field(272, ((8, 16), (4, 3)), 3, low=8)),
        moves=Field(287, ((8, 16),), 1),
    ),
    SignedType(
        name="iq2_xxs",
        bytes=66,
        book="iq2_xxs",
        numbers=IQ2,
        point=8,
        group=32,
        scale=D_FIRST,
        sub_scales=Field(76, ((8, 64),), 4),
        unit=1 / 8,
        indices=(Field(16, ((8, 64), (4, 8)), 8),),
        signs=Field(48, ((8, 64), (4, 7)), 7),
    ),
    SignedType(
        name="iq2_xs",
        bytes=74,
        book="iq2_xs",
        numbers=IQ2,
        point=8,
        group=16,
        scale=D_FIRST,
        sub_scales=Field(528, ((16, 4),), 4),
        unit=1 / 8,
        indices=(Field(16, ((32, 16),), 9),),
        signs=Field(25, ((32, 16),), 7),
    ),
    SignedType(
        name="iq2_s",
        bytes=82,
        book="iq2_s",
        numbers=IQ2,
        point=8,
        group=16,
        scale=D_FIRST,
        sub_scales=Field(592, ((16, 4),), 4),
        unit=1 / 8,
        indices=(Field(16, ((32, 8),), 8), Field(528, ((32, 2),), 2, low=8)),
        signs=Field(272, ((32, 8),), 8),
    ),
    SignedType(
        name="iq3_xxs",
        bytes=98,
        book="iq3_xxs",
        numbers=IQ3,
        point=4,
        group=32,
        scale=D_FIRST,
        sub_scales=Field(556, ((8, 32),), 4),
        unit=1 / 4,
        indices=(Field(16, ((64, 8),), 8),),
        signs=Field(528, ((8, 32), (4, 7)), 7),
    ),
    SignedType(
        name="iq3_s",
        bytes=110,
        book="iq3_s",
        numbers=ODD,
        point=4,
        group=32,
        scale=D_FIRST,
        sub_scales=Field(848, ((8, 4),), 4),
        unit=1.0,
        indices=(Field(16, ((64, 8),), 8), Field(528, ((64, 1),), 1, low=8)),
        signs=Field(592, ((32, 8),), 8),
    ),
)
CODEBOOK_TYPES: dict[str, CodebookType] = {kind.name: kind for kind in _ALL}
