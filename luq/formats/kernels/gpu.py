"""Triton kernels of packed linears on CUDA: y = x W^T for a few tokens, straight from the stored bits.

A program answers BLOCK rows (a strip, of trellis codes) for one token. It reads each bit once, makes of it the number that
`dequantize` makes, in fp32, and adds up in fp32. What the kernels do not know is None, and then torch unpacks the weight.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from luq.formats.base import PackedWeight
from luq.formats.binary import BinaryWeight
from luq.formats.incoherence import hadamard, signs
from luq.formats.integer import IntegerWeight
from luq.formats.packing import unpack_bits
from luq.formats.ternary import TernaryWeight
from luq.formats.trellis import TILE, TrellisWeight, table

BLOCK = 16  # rows of a program
WORDS = 8  # of 32 columns at a time
TILES = 4  # of trellis codes at a time
SPLIT = 64  # tiles of a strip that one program reads: a weight of few strips would leave most of a GPU idle
VECTORS = 4  # tokens at a time up to which the stored bits are read once for each
_SALIENT = WeakIdKeyDictionary()  # goes with the buffers


@triton.jit
def _bit(stream, at, mask):
    """The bit at position `at` of a stream of bytes, as int32."""
    return (
        tl.load(stream + (at >> 3), mask=mask, other=0).to(tl.int32) >> (at & 7).to(tl.int32)
    ) & 1


@triton.jit
def _integer(
    x, codes, scales, zeros, y, rows, columns, groups, plane, zero_plane,
    BITS: tl.constexpr, ASYMMETRIC: tl.constexpr, BLOCK: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """codes: int32 words, `plane` of them per bit; zeros: bytes, `zero_plane` of them per bit."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.program_id(1)
    word = tl.arange(0, WORDS)
    lane = tl.arange(0, 32)
    size = columns // groups
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns // 32, WORDS):
        at = start + word
        inside = (row[:, None] < rows) & (at[None, :] < columns // 32)
        code = tl.zeros((BLOCK, WORDS, 32), tl.int32)
        for b in tl.static_range(BITS):
            bits = tl.load(
                codes + b * plane + row[:, None] * (columns // 32) + at[None, :],
                mask=inside,
                other=0,
            )
            code += ((bits[:, :, None] >> lane[None, None, :]) & 1) << b
        group = row[:, None] * groups + ((at * 32) // size)[None, :]
        scale = tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
        if ASYMMETRIC:
            zero = tl.zeros((BLOCK, WORDS), tl.int32)
            for b in tl.static_range(BITS):
                zero += _bit(zeros + b * zero_plane, group, inside) << b
        else:
            zero = tl.full((BLOCK, WORDS), 1 << (BITS - 1), tl.int32)
        weight = (code - zero[:, :, None]).to(tl.float32) * scale[:, :, None]
        column = at[:, None] * 32 + lane[None, :]
        seen = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(
            tl.float32
        )
        total += tl.sum(tl.sum(weight * seen[None, :, :], 2), 1)
    tl.store(y + token * rows + row, total, mask=row < rows)


@triton.jit
def _binary(
    x, signs, flags, residual, salient, rank, scales, y, rows, columns, count, block, blocks,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """salient [columns] of bytes; rank [columns]: how many columns of its own kind stand before a column."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        twice = tl.load(salient + column, mask=column < columns, other=0)[None, :] != 0
        before = tl.load(rank + column, mask=column < columns, other=0)[None, :]
        sign = _bit(signs, row[:, None] * columns + column[None, :], inside).to(tl.float32) * 2 - 1
        flag = _bit(flags, row[:, None] * (columns - count) + before, inside & ~twice)
        other = _bit(residual, row[:, None] * count + before, inside & twice).to(tl.float32) * 2 - 1
        at = (row[:, None] * blocks + (column // block)[None, :]) * 8
        part = tl.where(twice, 4, 2 * flag)
        once = tl.load(scales + at + part, mask=inside, other=0.0).to(tl.float32)
        once += tl.load(scales + at + part + 1, mask=inside, other=0.0).to(tl.float32) * sign
        more = tl.load(scales + at + 6, mask=inside & twice, other=0.0).to(tl.float32)
        more += tl.load(scales + at + 7, mask=inside & twice, other=0.0).to(tl.float32) * other
        seen = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(
            tl.float32
        )
        total += tl.sum((once + tl.where(twice, more, 0.0)) * seen[None, :], 1)
    tl.store(y + token * rows + row, total, mask=row < rows)


@triton.jit
def _ternary(x, codes, scales, y, rows, columns, groups, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """codes: five digits of base 3 a byte, lowest first, row after row without a gap."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        at = row[:, None] * columns + column[None, :]
        digit = tl.load(codes + at // 5, mask=inside, other=0).to(tl.int32)
        place = (at % 5).to(tl.int32)
        digit = tl.where(place >= 1, digit // 3, digit)
        digit = tl.where(place >= 2, digit // 3, digit)
        digit = tl.where(place >= 3, digit // 3, digit)
        digit = tl.where(place >= 4, digit // 3, digit)
        group = row[:, None] * groups + (column // (columns // groups))[None, :]
        scale = tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
        seen = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(
            tl.float32
        )
        total += tl.sum((digit % 3 - 1).to(tl.float32) * scale * seen[None, :], 1)
    tl.store(y + token * rows + row, total, mask=row < rows)


@triton.jit
def _trellis(
    x, codes, scales, table, y, strips, tiles,
    BITS: tl.constexpr, WINDOW: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """x [tokens, tiles * TILE], rotated; y [parts, tokens, strips * TILE], each part from SPLIT tiles, still to be rotated."""
    strip, token, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    stream = codes + strip.to(tl.int64) * tiles * (TILE * TILE * BITS // 8)
    lane = tl.arange(0, TILE)
    total = tl.zeros((TILE,), tl.float32)
    for start in range(part * SPLIT, tl.minimum((part + 1) * SPLIT, tiles), TILES):
        tile = start + tl.arange(0, TILES)
        inside = tile[:, None, None] < tiles
        weight = (
            tile[:, None, None] * (TILE * TILE) + lane[None, :, None] * TILE + lane[None, None, :]
        )
        last = (
            weight + 1
        ) * BITS - 1  # the weight's last bit; the window's bits end there, in at most three bytes
        at = last >> 3
        bits = tl.load(stream + at, mask=inside, other=0).to(tl.int32)
        bits |= tl.load(stream + at - 1, mask=inside & (at >= 1), other=0).to(tl.int32) << 8
        bits |= tl.load(stream + at - 2, mask=inside & (at >= 2), other=0).to(tl.int32) << 16
        state = (bits >> (7 - (last & 7))) & ((1 << WINDOW) - 1)
        column = tile[:, None] * TILE + lane[None, :]
        seen = tl.load(x + token * tiles * TILE + column, mask=tile[:, None] < tiles, other=0.0)
        total += tl.sum(tl.sum(tl.load(table + state) * seen[:, None, :], 2), 0)
    total *= tl.load(scales + strip).to(tl.float32)
    tl.store(y + ((part * tl.num_programs(1) + token) * strips + strip) * TILE + lane, total)


@triton.jit
def _viterbi(
    values, table, states, codes, last, choices, length,
    BITS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """A program searches one sequence; choices [sequences, length, stems]: of each stem's predecessors the best."""
    FAN: tl.constexpr = 1 << BITS
    STEMS: tl.constexpr = 1 << (WINDOW - BITS)
    first = tl.program_id(0).to(tl.int64) * length
    state = tl.arange(0, FAN * STEMS)
    numbers = tl.load(table + state)
    cost = tl.where(state == tl.load(states + tl.program_id(0)), 0.0, 1e30)
    for t in range(length):
        least, best = tl.min(tl.reshape(cost, (FAN, STEMS)), axis=0, return_indices=True)
        tl.store(choices + (first + t) * STEMS + tl.arange(0, STEMS), best.to(tl.uint8))
        away = tl.load(values + first + t) - numbers
        cost = (
            tl.reshape(tl.broadcast_to(least[:, None], (STEMS, FAN)), (FAN * STEMS,)) + away * away
        )
    at = tl.argmin(cost, axis=0)
    tl.store(last + tl.program_id(0), at)
    tl.debug_barrier()  # what other threads stored is read below
    for i in range(length):
        t = length - 1 - i
        tl.store(codes + first + t, (at & (FAN - 1)).to(tl.uint8))
        stem = at >> BITS
        at = stem | (tl.load(choices + (first + t) * STEMS + stem).to(tl.int32) << (WINDOW - BITS))


def search(
    values: Tensor, table: Tensor, states: Tensor, bits: int, window: int
) -> tuple[Tensor, Tensor]:
    """Viterbi's search of values [sequences, length] from states int32 [sequences]: codes uint8, and the last states."""
    values = values.contiguous()
    codes, last = (
        torch.empty(values.shape, dtype=torch.uint8, device=values.device),
        torch.empty_like(states),
    )
    choices = torch.empty(
        *values.shape, 1 << (window - bits), dtype=torch.uint8, device=values.device
    )
    given = (values, table, states.contiguous(), codes, last, choices, values.shape[1])
    _viterbi[(len(values),)](*given, BITS=bits, WINDOW=window, num_warps=8)
    return codes, last


def _salient(packed: Tensor, columns: int) -> tuple[Tensor, Tensor, int]:
    """Of each column whether it is salient and its rank among its kind, and how many are; made once per buffer."""
    if packed not in _SALIENT:
        salient = unpack_bits(packed, (columns,))
        rank = torch.where(salient, salient.cumsum(0), (~salient).cumsum(0)) - 1
        _SALIENT[packed] = salient.to(torch.uint8), rank.int(), int(salient.sum())
    found: tuple[Tensor, Tensor, int] = _SALIENT[packed]
    return found


@lru_cache(maxsize=64)
def _fixed(
    rows: int, columns: int, seed: int, window: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a trellis-coded weight: the signs of its columns and of its rows, and its table."""
    return (
        signs(columns, seed).to(device),
        signs(rows, seed + 1).to(device),
        table(window).to(device),
    )


def _coded(inputs: Tensor, weight: TrellisWeight) -> Tensor:
    """inputs [tokens, in] times a trellis-coded weight, [tokens, out]: both rotations are applied to the vectors."""
    (rows, columns), meta, codes = weight.shape, weight.meta, weight.buffers["codes"]
    window, bits = int(meta["window"]), int(meta["bits"])
    by_column, by_row, numbers = _fixed(rows, columns, int(meta["seed"]), window, inputs.device)
    turned = torch.nn.functional.pad(hadamard(inputs.float() * by_column), (0, -columns % TILE))
    strips, tiles = len(codes), turned.shape[1] // TILE
    found = torch.empty(triton.cdiv(tiles, SPLIT), len(inputs), strips * TILE, device=inputs.device)
    _trellis[(strips, len(inputs), len(found))](
        turned, codes, weight.buffers["scales"], numbers, found, strips, tiles,
        BITS=bits, WINDOW=window, TILE=TILE, TILES=TILES, SPLIT=SPLIT,
    )  # fmt: skip
    return hadamard(found.sum(0)[:, :rows]) * by_row


def linear(x: Tensor, weight: PackedWeight) -> Tensor | None:
    """x W^T for up to VECTORS inputs [..., in], summed in fp32."""
    rows, columns = weight.shape
    if x.numel() > VECTORS * columns:
        return None
    inputs = x.reshape(-1, columns).contiguous()
    if isinstance(weight, TrellisWeight):
        return _coded(inputs, weight).view(*x.shape[:-1], rows).to(x.dtype)
    found = torch.empty(len(inputs), rows, device=x.device)
    grid = (triton.cdiv(rows, BLOCK), len(inputs))
    if isinstance(weight, IntegerWeight):
        codes, scales, zeros = (
            weight.buffers["codes"],
            weight.buffers["scales"],
            weight.buffers.get("zeros"),
        )
        groups = scales.shape[1]
        if (columns // groups) % 32 or codes.shape[1] % 4:
            return None
        words = codes.view(torch.int32)
        _integer[grid](
            inputs, words, scales, words if zeros is None else zeros, found, rows, columns, groups, words.shape[1],
            0 if zeros is None else zeros.shape[1], BITS=len(codes), ASYMMETRIC=zeros is not None, BLOCK=BLOCK, WORDS=WORDS,
        )  # fmt: skip
    elif isinstance(weight, BinaryWeight):
        salient, rank, count = _salient(weight.buffers["salient"], columns)
        numbers = weight.numbers()
        _binary[grid](
            inputs, weight.buffers["signs"], weight.buffers["flags"], weight.buffers["residual_signs"], salient, rank,
            numbers, found, rows, columns, count, int(weight.meta["block"]), numbers.shape[1], BLOCK=BLOCK, WIDTH=64,
        )  # fmt: skip
    elif isinstance(weight, TernaryWeight):
        codes, scales = weight.buffers["codes"], weight.buffers["scales"]
        _ternary[grid](
            inputs, codes, scales, found, rows, columns, scales.shape[1], BLOCK=BLOCK, WIDTH=64
        )
    else:
        return None
    return found.view(*x.shape[:-1], rows).to(x.dtype)
