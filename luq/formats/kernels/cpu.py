"""The C kernels of packed linears: compiled once per machine, and not used without a compiler.

A kernel knows shapes and addresses, not formats: each format's file says which one answers for it.
`linear` answers straight from the stored bits. `unpack` gives the weights that `dequantize` gives,
bit for bit, only faster. Both return None for layouts that they cannot read.
"""

import ctypes
import logging
import os
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float16, Float32, Int32, Shaped, UInt8
from torch import Tensor

from luq.formats.incoherence import BETWEEN, length_of, signs
from luq.formats.kernels.cache import installed_compiler, open_library
from luq.formats.packing import TRITS_PER_BYTE, unpack_trits

log = logging.getLogger(__name__)
CHUNK = 1 << 22  # weights unpacked in fp32 at a time, where another type is asked for
LANES = 16  # floats of a register, and columns of a trellis tile, in cpu.c
INTEGER_BITS = (2, 3, 4, 8)  # for which cpu.c has a product
REASON_CHARACTERS = 300  # of a compiler's complaint, in one line of the log


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels.

    None, with a line in the log, with LUQ_KERNELS=0 or where they cannot be had.
    """
    if os.environ.get("LUQ_KERNELS") == "0":
        log.info("LUQ_KERNELS=0: packed linears are unpacked by torch, which is slower")
        return None
    compiler = installed_compiler() if os.name == "posix" else None
    if compiler is None:
        log.warning(
            "no C compiler for the kernels of packed linears (cc, gcc, clang, or CC): torch unpacks"
            " them, which is slower"
        )
        return None
    try:
        return open_library(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        log.warning(
            "the kernels for packed linears cannot be compiled: torch unpacks them, which is"
            " slower (%s)",
            textwrap.shorten(reason, REASON_CHARACTERS),
        )
        return None


def library_for(*buffers: Tensor | None) -> ctypes.CDLL | None:
    """The compiled kernels, if these buffers are where they can be read."""
    for buffer in buffers:
        if buffer is not None and (buffer.device.type != "cpu" or not buffer.is_contiguous()):
            return None
    return library()


def address(tensor: Tensor | None) -> ctypes.c_void_p | None:
    """Where a tensor's numbers lie, for C; NULL for None."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def longs(*values: int) -> list[ctypes.c_int64]:
    """Sizes, for C."""
    return [ctypes.c_int64(value) for value in values]


def quarters(bits: float) -> int:
    """Bits of a trellis code in quarters, as cpu.c counts them."""
    return round(4 * bits)


def _with_room(inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens in_and_room"]:
    """The inputs with zeros behind each token: cpu.c reads sixteen columns at a time."""
    return torch.nn.functional.pad(inputs, (0, LANES))


def _unpack_rows(
    kernel: Callable[..., None],
    pointers: list[ctypes.c_void_p | None],
    sizes: list[int],
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> Float[Tensor, "out in"]:
    """The weight in `dtype`, from a kernel that writes rows [first, last) in fp32."""
    rows, columns = shape
    weight = torch.empty(rows, columns, dtype=dtype)
    if dtype == torch.float32:
        kernel(*pointers, address(weight), *longs(0, rows, rows, columns, *sizes))
        return weight
    step = max(1, CHUNK // columns)
    part = torch.empty(min(step, rows), columns)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        kernel(*pointers, address(part), *longs(first, last, rows, columns, *sizes))
        weight[first:last] = part[: last - first]
    return weight


@dataclass(frozen=True)
class IntegerKernel:
    """Codes in bit planes on a grid per row and group of columns; see `luq.formats.integer`."""

    library: ctypes.CDLL
    shape: tuple[int, int]
    group_size: int
    codes: UInt8[Tensor, "bits code_bytes"]
    scales: Float16[Tensor, "out groups"]
    zeros: UInt8[Tensor, "bits zero_bytes"] | None

    @property
    def _pointers(self) -> list[ctypes.c_void_p | None]:
        return [address(self.codes), address(self.scales), address(self.zeros)]

    @property
    def _sizes(self) -> list[int]:
        """Columns of a group, and bits."""
        return [self.group_size, self.codes.shape[0]]

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"] | None:
        if self.codes.shape[0] not in INTEGER_BITS:
            return None
        outputs = torch.empty(len(inputs), self.shape[0])
        group_sums = torch.empty(self.scales.shape[1])
        sizes = longs(*self.shape, *self._sizes)
        for x, y in zip(_with_room(inputs), outputs, strict=True):
            buffers = (address(x), address(group_sums), address(y))
            self.library.luq_integer_matvec(*self._pointers, *buffers, *sizes)
        return outputs

    def unpack(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        kernel = self.library.luq_integer_unpack
        return _unpack_rows(kernel, self._pointers, self._sizes, self.shape, dtype)


@dataclass(frozen=True)
class BinaryKernel:
    """Signs in three groups per row and block of columns; see `luq.formats.binary`."""

    library: ctypes.CDLL
    shape: tuple[int, int]
    block: int
    salient_columns: int
    signs: UInt8[Tensor, " sign_bytes"]
    salient: UInt8[Tensor, " salient_bytes"]
    flags: UInt8[Tensor, " flag_bytes"]
    residual_signs: UInt8[Tensor, " residual_bytes"]
    scales: Shaped[Tensor, "out blocks numbers"]
    tops: Float16[Tensor, "shares blocks numbers"] | None

    @property
    def _pointers(self) -> list[ctypes.c_void_p | None]:
        masks = (self.signs, self.salient, self.flags, self.residual_signs)
        return [address(buffer) for buffer in (*masks, self.scales, self.tops)]

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        rows, columns = self.shape
        blocks = -(-columns // self.block)
        outputs = torch.empty(len(inputs), rows)
        block_sums = torch.empty(2 * blocks)
        sizes = longs(rows, columns, self.block, self.salient_columns)
        for x, y in zip(_with_room(inputs), outputs, strict=True):
            buffers = (address(x), address(block_sums), address(y))
            self.library.luq_binary_matvec(*self._pointers, *buffers, *sizes)
        return outputs

    def unpack(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        kernel = self.library.luq_binary_unpack
        sizes = [self.block, self.salient_columns]
        return _unpack_rows(kernel, self._pointers, sizes, self.shape, dtype)


@lru_cache(maxsize=1)
def _digits_of_bytes() -> Float32[Tensor, "256 8"]:
    """The digits -1, 0, 1 of each byte of ternary codes; the last three of eight are not used."""
    digits = unpack_trits(torch.arange(256, dtype=torch.uint8), (256, TRITS_PER_BYTE)).float() - 1
    return torch.nn.functional.pad(digits, (0, 8 - TRITS_PER_BYTE)).contiguous()


@dataclass(frozen=True)
class TernaryKernel:
    """Digits of base 3, five to a byte, on a grid of scales; see `luq.formats.ternary`."""

    library: ctypes.CDLL
    shape: tuple[int, int]
    group_size: int
    codes: UInt8[Tensor, " bytes"]
    scales: Float16[Tensor, "out groups"]

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        for x, y in zip(inputs, outputs, strict=True):
            self._run(x, y)
        return outputs

    def unpack(self) -> Float32[Tensor, "out in"]:
        weight = torch.empty(*self.shape)
        self._run(None, weight)
        return weight

    def _run(self, x: Tensor | None, output: Tensor) -> None:
        """W x into output [out]; without x the weight into output [out, in]."""
        pointers = [address(self.codes), address(self.scales), address(_digits_of_bytes())]
        sizes = longs(*self.shape, self.group_size)
        if self.library.luq_ternary(*pointers, address(x), address(output), *sizes):
            raise MemoryError("no memory to unpack a row of ternary weights")


@dataclass(frozen=True)
class RowColumnKernel:
    """Signs with row and column scales, in salient columns twice; see `luq.formats.row_column`."""

    library: ctypes.CDLL
    shape: tuple[int, int]
    block: int
    signs: UInt8[Tensor, " sign_bytes"]
    residual_signs: UInt8[Tensor, " residual_bytes"]
    row_scales: Float16[Tensor, "out blocks 2"]
    column_scales: Float32[Tensor, " in"]
    residual_scales: Float32[Tensor, " salient"]
    salient_places: Int32[Tensor, " salient"]

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        for x, y in zip(inputs, outputs, strict=True):
            self._run(x, y)
        return outputs

    def unpack(self) -> Float32[Tensor, "out in"]:
        weight = torch.empty(*self.shape)
        self._run(None, weight)
        return weight

    def _run(self, x: Tensor | None, output: Tensor) -> None:
        """W x into output [out]; without x the weight into output [out, in]."""
        rows, columns = self.shape
        salient = len(self.salient_places)
        blocks = -(-columns // self.block)
        # scaled inputs, those of salient columns, sums of both per block, and a register's room
        work = torch.empty(columns + salient + 2 * blocks + LANES)
        scales = (self.row_scales, self.column_scales, self.residual_scales)
        stored = (self.signs, self.residual_signs, *scales, self.salient_places)
        pointers = [address(buffer) for buffer in (*stored, x, work, output)]
        self.library.luq_row_column(*pointers, *longs(rows, columns, self.block, salient))


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
class TrellisKernel:
    """Streams of bits with a window for each weight; see `luq.formats.trellis`.

    `table` has the numbers of format version 1; without it they are computed.
    """

    library: ctypes.CDLL
    shape: tuple[int, int]
    bits: float
    window: int
    seed: int
    rotation: int
    codes: UInt8[Tensor, "strips bytes"]
    scales: Float16[Tensor, " strips"]
    table: Float32[Tensor, " states"] | None

    @property
    def _rotations(self) -> Rotations:
        return _rotations(*self.shape, self.seed, self.rotation)

    @property
    def _pointers(self) -> list[ctypes.c_void_p | None]:
        stored = (self.codes, self.scales, self.table, self._rotations.signs)
        return [address(buffer) for buffer in stored]

    @property
    def _width(self) -> int:
        """Columns, filled up to whole tiles."""
        return -(-self.shape[1] // LANES) * LANES

    @property
    def _sizes(self) -> list[ctypes.c_int64]:
        stream = (self._width, quarters(self.bits), self.window)
        return longs(*self.shape, *stream, *self._rotations.lengths)

    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        outputs = torch.empty(len(inputs), self.shape[0])
        work = torch.empty(self._width)
        factors = address(self._rotations.factors)
        for x, y in zip(inputs, outputs, strict=True):
            buffers = (address(x), address(work), address(y))
            self.library.luq_trellis_matvec(*self._pointers, *buffers, *self._sizes, factors)
        return outputs

    def unpack(self) -> Float32[Tensor, "out in"]:
        """The weight, both rotations undone."""
        weight = torch.empty(*self.shape)
        factors = address(self._rotations.factors)
        self.library.luq_trellis_unpack(*self._pointers, address(weight), *self._sizes, factors)
        return weight
