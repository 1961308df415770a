"""Packed weights as the C kernels read them.

A kernel knows shapes and addresses, not formats: each format's file says which one answers for it.
"""

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float16, Float32, Int32, Shaped, UInt8
from torch import Tensor

from luq.formats.cpu_kernel import LANES, CpuKernel
from luq.formats.incoherence import BETWEEN, length_of, signs
from luq.formats.kernels.cpu import address, has_memory, longs, quarters
from luq.formats.packing import TRITS_PER_BYTE, unpack_trits

NO_CODE = 2  # what a C function returns that was not compiled for this processor
Pointers = list[ctypes.c_void_p | None]


def _with_room(inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens in_and_room"]:
    """The inputs with zeros behind each token: the C files read sixteen columns at a time."""
    return torch.nn.functional.pad(inputs, (0, LANES))


@dataclass(frozen=True)
class IntegerKernel(CpuKernel):
    """Codes in bit planes on a grid per row and group of columns; see `luq.formats.integer`."""

    group_size: int
    codes: UInt8[Tensor, "bits code_bytes"]
    scales: Float16[Tensor, "out groups"]
    zeros: UInt8[Tensor, "bits zero_bytes"] | None

    few_tokens = 6

    @property
    def _pointers(self) -> Pointers:
        return [address(self.codes), address(self.scales), address(self.zeros)]

    @property
    def _sizes(self) -> list[ctypes.c_int64]:
        return longs(*self.shape, self.group_size, len(self.codes))

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        for x, y in zip(_with_room(inputs), outputs, strict=True):
            buffers = (address(x), address(y))
            has_memory(self.library.luq_integer_matvec(*self._pointers, *buffers, *self._sizes))
        return outputs

    def eight_bits(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        tokens = (address(inputs), address(outputs), *longs(len(inputs)))
        has_memory(self.library.luq_integer_eight(*self._pointers, *tokens, *self._sizes))
        return outputs

    def decode(self, first: int, tile: Float32[Tensor, "rows in"]) -> None:
        rows = longs(first, first + len(tile))
        unpack = self.library.luq_integer_unpack
        has_memory(unpack(*self._pointers, address(tile), *rows, *self._sizes))


@dataclass(frozen=True)
class BinaryKernel(CpuKernel):
    """Signs in three groups per row and block of columns; see `luq.formats.binary`."""

    block: int
    salient_columns: int
    signs: UInt8[Tensor, " sign_bytes"]
    salient: UInt8[Tensor, " salient_bytes"]
    flags: UInt8[Tensor, " flag_bytes"]
    residual_signs: UInt8[Tensor, " residual_bytes"]
    scales: Shaped[Tensor, "out blocks numbers"]
    tops: Float16[Tensor, "shares blocks numbers"] | None

    few_tokens = 2

    @property
    def _pointers(self) -> Pointers:
        masks = (self.signs, self.salient, self.flags, self.residual_signs)
        return [address(buffer) for buffer in (*masks, self.scales, self.tops)]

    @property
    def _sizes(self) -> list[ctypes.c_int64]:
        return longs(*self.shape, self.block, self.salient_columns)

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        block_sums = torch.empty(2 * -(-self.shape[1] // self.block))
        for x, y in zip(_with_room(inputs), outputs, strict=True):
            buffers = (address(x), address(block_sums), address(y))
            self.library.luq_binary_matvec(*self._pointers, *buffers, *self._sizes)
        return outputs

    def decode(self, first: int, tile: Float32[Tensor, "rows in"]) -> None:
        rows = longs(first, first + len(tile))
        self.library.luq_binary_unpack(*self._pointers, address(tile), *rows, *self._sizes)


@lru_cache(maxsize=1)
def _digits_of_bytes() -> UInt8[Tensor, "256 8"]:
    """The digits 0, 1, 2 of each byte of ternary codes; the last three of eight are not used."""
    digits = unpack_trits(torch.arange(256, dtype=torch.uint8), (256, TRITS_PER_BYTE))
    return torch.nn.functional.pad(digits, (0, 8 - TRITS_PER_BYTE)).contiguous()


@dataclass(frozen=True)
class TernaryKernel(CpuKernel):
    """Digits of base 3, five to a byte, on a grid of scales; see `luq.formats.ternary`."""

    group_size: int
    codes: UInt8[Tensor, " bytes"]
    scales: Float16[Tensor, "out groups"]

    few_tokens = 3

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        for x, y in zip(_with_room(inputs), outputs, strict=True):
            self._run(x, y, 0, self.shape[0])
        return outputs

    def eight_bits(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        stored = [address(self.codes), address(self.scales), address(_digits_of_bytes())]
        tokens = (address(inputs), address(outputs), *longs(len(inputs)))
        sizes = longs(*self.shape, self.group_size)
        has_memory(self.library.luq_ternary_eight(*stored, *tokens, *sizes))
        return outputs

    def decode(self, first: int, tile: Float32[Tensor, "rows in"]) -> None:
        self._run(None, tile, first, first + len(tile))

    def _run(self, x: Tensor | None, output: Tensor, first: int, last: int) -> None:
        """Rows of W x into output [rows]; without x those of the weight into output [rows, in]."""
        pointers = [address(self.codes), address(self.scales), address(_digits_of_bytes())]
        sizes = longs(first, last, self.shape[1], self.group_size)
        has_memory(self.library.luq_ternary(*pointers, address(x), address(output), *sizes))


@dataclass(frozen=True)
class RowColumnKernel(CpuKernel):
    """Signs with row and column scales, in salient columns twice; see `luq.formats.row_column`."""

    block: int
    signs: UInt8[Tensor, " sign_bytes"]
    residual_signs: UInt8[Tensor, " residual_bytes"]
    row_scales: Float16[Tensor, "out blocks 2"]
    column_scales: Float32[Tensor, " in"]
    residual_scales: Float32[Tensor, " salient"]
    salient_places: Int32[Tensor, " salient"]

    few_tokens = 7

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        for x, y in zip(inputs, outputs, strict=True):
            self._run(x, y, 0, self.shape[0])
        return outputs

    def decode(self, first: int, tile: Float32[Tensor, "rows in"]) -> None:
        self._run(None, tile, first, first + len(tile))

    def _run(self, x: Tensor | None, output: Tensor, first: int, last: int) -> None:
        """Rows of W x into output [rows]; without x those of the weight into output [rows, in]."""
        rows, columns = self.shape
        salient = len(self.salient_places)
        blocks = -(-columns // self.block)
        # scaled inputs, those of salient columns, sums of both per block, and a register's room
        work = torch.empty(columns + salient + 2 * blocks + LANES)
        scales = (self.row_scales, self.column_scales, self.residual_scales)
        stored = (self.signs, self.residual_signs, *scales, self.salient_places)
        pointers = [address(buffer) for buffer in (*stored, x, work, output)]
        sizes = longs(first, last, rows, columns, self.block, salient)
        self.library.luq_row_column(*pointers, *sizes)


class Rotations(NamedTuple):
    """Those of a trellis-coded weight: of columns, then of rows.

    `signs` are the first ones of columns and of rows, then, likewise, those between two transforms.
    """

    signs: Float32[Tensor, " signs"]
    factors: Float32[Tensor, "2"]
    lengths: tuple[int, int]


@lru_cache(maxsize=64)
def _rotations(rows: int, columns: int, seed: int, rotation: int) -> Rotations:
    """Of columns with `seed`, of rows with the next one."""
    lengths = (length_of(columns, rotation), length_of(rows, rotation))
    first_signs = [signs(columns, seed), signs(rows, seed + 1)]
    between = []
    for size, length, first_seed in zip((columns, rows), lengths, (seed, seed + 1), strict=True):
        # a dimension with one transform has none: these are not read
        between.append(signs(size, first_seed + BETWEEN) if size % length else torch.ones(size))
    factors = torch.tensor([length**-0.5 for length in lengths])
    return Rotations(torch.cat(first_signs + between), factors, lengths)


@dataclass(frozen=True)
class TrellisKernel(CpuKernel):
    """Streams of bits with a window for each weight; see `luq.formats.trellis`.

    `table` has the numbers of format version 1; without it they are computed. Tiles are not turned
    back: inputs and outputs are.
    """

    bits: float
    window: int
    seed: int
    rotation: int
    codes: UInt8[Tensor, "strips bytes"]
    scales: Float16[Tensor, " strips"]
    table: Float32[Tensor, " states"] | None

    few_tokens = 3

    @property
    def _rotations(self) -> Rotations:
        return _rotations(*self.shape, self.seed, self.rotation)

    @property
    def _stored(self) -> Pointers:
        return [address(buffer) for buffer in (self.codes, self.scales, self.table)]

    @property
    def width(self) -> int:
        """Columns, filled up to whole tiles."""
        return -(-self.shape[1] // LANES) * LANES

    @property
    def _turns(self) -> list[ctypes.c_void_p | ctypes.c_int64 | None]:
        """Rotations, as the C functions are told them."""
        of_both = self._rotations
        pointers = [address(of_both.signs), address(of_both.factors)]
        return [*pointers, *longs(*self.shape, self.width, *of_both.lengths)]

    @property
    def _stream(self) -> list[ctypes.c_int64]:
        return longs(self.width, quarters(self.bits), self.window)

    def turned(self, inputs: Float[Tensor, "tokens in"]) -> Float[Tensor, "tokens width"]:
        x = torch.empty(len(inputs), self.width)
        plain = inputs.float().contiguous()
        self.library.luq_trellis_turn(address(plain), address(x), *self._turns, *longs(len(x)))
        return x

    def turned_back(self, outputs: Float[Tensor, "tokens out"]) -> Float[Tensor, "tokens out"]:
        y = outputs.float().contiguous()
        self.library.luq_trellis_turn_back(address(y), *self._turns, *longs(len(y)))
        return y

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        for x, y in zip(self.turned(inputs), outputs, strict=True):
            buffers = (address(x), address(y))
            rows = longs(self.shape[0])
            self.library.luq_trellis_matvec(*self._stored, *buffers, *rows, *self._stream)
        return self.turned_back(outputs)

    def eight_bits(
        self, inputs: Float32[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        if self.table is not None:
            return None
        x = self.turned(inputs)
        outputs = torch.empty(len(inputs), self.shape[0])
        tokens = (address(x), address(outputs), *longs(len(inputs), self.shape[0]))
        state = self.library.luq_trellis_eight(*self._stored[:2], *tokens, *self._stream)
        if state == NO_CODE:
            return None
        has_memory(state)
        return self.turned_back(outputs)

    def decode(self, first: int, tile: Float32[Tensor, "rows width"]) -> None:
        """Rows of the rotated weight, filled up to whole tiles; `first` is a multiple of 16."""
        rows = longs(first, first + len(tile))
        self.library.luq_trellis_unpack(*self._stored, address(tile), *rows, *self._stream)

    def unpack(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The weight, both rotations undone."""
        rows, columns = self.shape
        weight = torch.empty(rows, self.width)
        self.decode(0, weight)
        weight = weight[:, :columns].contiguous()
        self.library.luq_trellis_straighten(address(weight), *self._turns)
        return weight.to(dtype)
