"""Triton kernels of packed linears, and of the search of trellis codes.

They are not Python functions: Triton compiles their source. `no_type_check` tells so to the type
checkers, and to the tests' import hook, which would wrap them and hide that source.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def bit_at(stream, position, mask):
    """The bit at `position` of a stream of bytes, as int32."""
    return (
        tl.load(stream + (position >> 3), mask=mask, other=0).to(tl.int32)
        >> (position & 7).to(tl.int32)
    ) & 1


@triton.jit
@no_type_check
def integer(
    x, codes, scales, zeros, y, rows, columns, size, groups, plane, zero_plane,
    BITS: tl.constexpr, ASYMMETRIC: tl.constexpr, BLOCK: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """codes: int32 words, `plane` of them per bit; zeros: bytes, `zero_plane` of them per bit.

    size: columns of a group; the last of `groups` groups may have fewer.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.program_id(1)
    word = tl.arange(0, WORDS)
    lane = tl.arange(0, 32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns // 32, WORDS):
        words = start + word
        inside = (row[:, None] < rows) & (words[None, :] < columns // 32)
        # a word holds one bit of 32 neighbours of a row: code = sum over planes b of 2^b bit_b
        code = tl.zeros((BLOCK, WORDS, 32), tl.int32)
        for b in tl.static_range(BITS):
            bits = tl.load(
                codes + b * plane + row[:, None] * (columns // 32) + words[None, :],
                mask=inside,
                other=0,
            )
            code += ((bits[:, :, None] >> lane[None, None, :]) & 1) << b
        group = row[:, None] * groups + ((words * 32) // size)[None, :]
        scale = tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
        if ASYMMETRIC:
            zero = tl.zeros((BLOCK, WORDS), tl.int32)
            for b in tl.static_range(BITS):
                zero += bit_at(zeros + b * zero_plane, group, inside) << b
        else:
            zero = tl.full((BLOCK, WORDS), 1 << (BITS - 1), tl.int32)  # none is stored
        weight = (code - zero[:, :, None]).to(tl.float32) * scale[:, :, None]
        column = words[:, None] * 32 + lane[None, :]
        value = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(
            tl.float32
        )
        total += tl.sum(tl.sum(weight * value[None, :, :], 2), 1)
    tl.store(y + token * rows + row, total, mask=row < rows)


@triton.jit
@no_type_check
def binary(
    x, signs, flags, residual, salient, rank, scales, y, rows, columns, count, block, blocks,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """salient [columns] of bytes; rank [columns]: columns of the same kind before a column."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        is_salient = tl.load(salient + column, mask=column < columns, other=0)[None, :] != 0
        before = tl.load(rank + column, mask=column < columns, other=0)[None, :]
        sign = (
            bit_at(signs, row[:, None] * columns + column[None, :], inside).to(tl.float32) * 2 - 1
        )
        flag = bit_at(flags, row[:, None] * (columns - count) + before, inside & ~is_salient)
        residual_sign = (
            bit_at(residual, row[:, None] * count + before, inside & is_salient).to(tl.float32) * 2
            - 1
        )
        # A block of a row has (mean, scale) of four parts: those of flag 0, of flag 1, the salient
        # ones, and their residual. W = mean + scale sign, and that of the residual added to it.
        first_number = (row[:, None] * blocks + (column // block)[None, :]) * 8
        part = tl.where(is_salient, 4, 2 * flag)
        first_order = tl.load(scales + first_number + part, mask=inside, other=0.0).to(tl.float32)
        first_order += (
            tl.load(scales + first_number + part + 1, mask=inside, other=0.0).to(tl.float32) * sign
        )
        second_order = tl.load(scales + first_number + 6, mask=inside & is_salient, other=0.0).to(
            tl.float32
        )
        second_order += (
            tl.load(scales + first_number + 7, mask=inside & is_salient, other=0.0).to(tl.float32)
            * residual_sign
        )
        value = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(
            tl.float32
        )
        weight = first_order + tl.where(is_salient, second_order, 0.0)
        total += tl.sum(weight * value[None, :], 1)
    tl.store(y + token * rows + row, total, mask=row < rows)


@triton.jit
@no_type_check
def ternary(
    x, codes, scales, y, rows, columns, size, groups, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):
    """codes: five digits of base 3 a byte, lowest first, row after row without a gap.

    size: columns of a group; the last of `groups` groups may have fewer.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        position = row[:, None] * columns + column[None, :]
        digit = tl.load(codes + position // 5, mask=inside, other=0).to(tl.int32)
        # W = (floor(byte / 3^place) mod 3 - 1) scale
        place = (position % 5).to(tl.int32)
        digit = tl.where(place >= 1, digit // 3, digit)
        digit = tl.where(place >= 2, digit // 3, digit)
        digit = tl.where(place >= 3, digit // 3, digit)
        digit = tl.where(place >= 4, digit // 3, digit)
        group = row[:, None] * groups + (column // size)[None, :]
        scale = tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(
            tl.float32
        )
        weight = (digit % 3 - 1).to(tl.float32) * scale
        total += tl.sum(weight * value[None, :], 1)
    tl.store(y + token * rows + row, total, mask=row < rows)


# Of the computed trellis code, as in `luq.formats.trellis`.
FACTOR = tl.constexpr(0x3A43AB75)
OFFSET = tl.constexpr(0x3A897E77)


@triton.jit
@no_type_check
def trellis(
    x, codes, scales, y, strips, tiles,
    QUARTERS: tl.constexpr, WINDOW: tl.constexpr,
    TILE: tl.constexpr, TILES: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """x [tokens, tiles * TILE], rotated; y [parts, tokens, strips * TILE], not rotated yet.

    Each part is from SPLIT tiles. Codes have QUARTERS / 4 bits.
    """
    strip, token, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    stream = codes + strip.to(tl.int64) * tiles * (TILE * TILE * QUARTERS // 32)
    lane = tl.arange(0, TILE)
    total = tl.zeros((TILE,), tl.float32)
    for start in range(part * SPLIT, tl.minimum((part + 1) * SPLIT, tiles), TILES):
        tile = start + tl.arange(0, TILES)
        inside = tile[:, None, None] < tiles
        weight = (
            tile[:, None, None] * (TILE * TILE) + lane[None, :, None] * TILE + lane[None, None, :]
        )
        # the window ends with the weight's last bit, and lies in at most three bytes
        last_bit = (weight + 1) * QUARTERS // 4 - 1
        last_byte = last_bit >> 3
        bits = tl.load(stream + last_byte, mask=inside, other=0).to(tl.int32)
        bits |= (
            tl.load(stream + last_byte - 1, mask=inside & (last_byte >= 1), other=0).to(tl.int32)
            << 8
        )
        bits |= (
            tl.load(stream + last_byte - 2, mask=inside & (last_byte >= 2), other=0).to(tl.int32)
            << 16
        )
        state = (bits >> (7 - (last_bit & 7))) & ((1 << WINDOW) - 1)
        # number = (sum of the four bytes of FACTOR state + OFFSET, less its mean 510) / 128; the
        # bytes are added in pairs, as two numbers of 16 bits in one word
        mixed = state.to(tl.uint32) * FACTOR + OFFSET
        pairs = (mixed & 0x00FF00FF) + ((mixed >> 8) & 0x00FF00FF)
        byte_sum = ((pairs + (pairs >> 16)) & 0xFFFF).to(tl.int32)
        number = (byte_sum - 510).to(tl.float32) * (1.0 / 128)
        column = tile[:, None] * TILE + lane[None, :]
        value = tl.load(x + token * tiles * TILE + column, mask=tile[:, None] < tiles, other=0.0)
        total += tl.sum(tl.sum(number * value[:, None, :], 2), 0)
    total *= tl.load(scales + strip).to(tl.float32)
    tl.store(y + ((part * tl.num_programs(1) + token) * strips + strip) * TILE + lane, total)


@triton.jit
@no_type_check
def viterbi_step(cost, error, choice, BITS: tl.constexpr, WINDOW: tl.constexpr):
    """The costs [states] after a code of BITS; choice [stems]: their best predecessors."""
    # A state is the last WINDOW bits of the stream, and a code comes in from below: the states that
    # lead to a stem (the upper bits of what follows) differ in their top BITS alone.
    FAN: tl.constexpr = 1 << BITS
    STEMS: tl.constexpr = 1 << (WINDOW - BITS)
    least, best = tl.min(tl.reshape(cost, (FAN, STEMS)), axis=0, return_indices=True)
    tl.store(choice + tl.arange(0, STEMS), best.to(tl.uint8))
    spread = tl.broadcast_to(least[:, None], (STEMS, FAN))
    return tl.reshape(spread, (FAN * STEMS,)) + error


@triton.jit
@no_type_check
def viterbi(
    values, numbers, states, path, choices, length,
    QUARTERS: tl.constexpr, PERIOD: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """One sequence a program; choices [sequences, length, stems]: each stem's best predecessor.

    Codes have QUARTERS / 4 bits, and PERIOD of them repeat their widths; length: whole periods.
    """
    STATES: tl.constexpr = 1 << WINDOW
    MOST: tl.constexpr = STATES >> (QUARTERS // 4)  # stems of the narrowest codes
    first = tl.program_id(0).to(tl.int64) * length
    state = tl.arange(0, STATES)
    number = tl.load(numbers + state)
    # all states but the one that is begun in are out of reach
    cost = tl.where(state == tl.load(states + tl.program_id(0)), 0.0, 1e30)
    for start in range(0, length, PERIOD):
        for phase in tl.static_range(PERIOD):
            t = start + phase
            error = tl.load(values + first + t) - number
            cost = viterbi_step(
                cost,
                error * error,
                choices + (first + t) * MOST,
                BITS=(phase + 1) * QUARTERS // 4 - phase * QUARTERS // 4,
                WINDOW=WINDOW,
            )
    path_state = tl.argmin(cost, axis=0)
    tl.debug_barrier()  # what all threads stored is read below
    for i in range(length):
        t = length - 1 - i
        tl.store(path + first + t, path_state)
        bits = (t + 1) * QUARTERS // 4 - t * QUARTERS // 4
        # the one before: its top bits were chosen, the stem is all the others
        stem = path_state >> bits
        path_state = stem | (
            tl.load(choices + (first + t) * MOST + stem).to(tl.int32) << (WINDOW - bits)
        )
