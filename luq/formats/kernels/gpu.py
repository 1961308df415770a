"""Products of packed linears on CUDA: y = x W^T for a few tokens, straight from the stored bits.

A program answers BLOCK rows (a strip, of trellis codes) for one token. It reads each bit once,
turns it into the number that `dequantize` gives, in fp32, and adds up in fp32. A layout that a
kernel does not know is None, and then torch unpacks the weight.
"""

import math

import torch
import triton
from jaxtyping import Float, Float16, Float32, Int32, UInt8
from torch import Tensor

from luq.formats.incoherence import rotate, unrotate
from luq.formats.kernels import triton_kernels
from luq.formats.kernels.cpu import quarters

BLOCK = 16  # rows of a program
WORD = 32  # columns that an integer kernel reads at a time
WORDS = 8  # of them at a time
WIDTH = 64  # columns at a time, of binary and ternary weights
TILE = 16  # rows of a strip of trellis codes, and columns of a tile
TILES = 4  # of trellis codes at a time
PERIOD = 4  # trellis codes at a fraction of a bit, a multiple of 1/4, repeat their widths
SPLIT = 64  # tiles of a strip for one program: with few strips most of a GPU would be idle


def _outputs(inputs: Tensor, rows: int) -> tuple[Float32[Tensor, "tokens out"], tuple[int, int]]:
    """Room for the products, and the grid of programs."""
    outputs = torch.empty(len(inputs), rows, device=inputs.device)
    return outputs, (triton.cdiv(rows, BLOCK), len(inputs))


def integer_linear(
    inputs: Float[Tensor, "tokens in"],
    codes: UInt8[Tensor, "bits code_bytes"],
    scales: Float16[Tensor, "out groups"],
    zeros: UInt8[Tensor, "bits zero_bytes"] | None,
    shape: tuple[int, int],
    group_size: int,
) -> Float32[Tensor, "tokens out"] | None:
    """See `luq.formats.integer`; None unless groups and rows are whole words of 32 columns."""
    rows, columns = shape
    if group_size % WORD or columns % WORD:
        return None
    words = codes.view(torch.int32)
    zero_bytes = 0 if zeros is None else zeros.shape[1]
    outputs, grid = _outputs(inputs, rows)
    triton_kernels.integer[grid](
        inputs,
        words,
        scales,
        words if zeros is None else zeros,
        outputs,
        rows,
        columns,
        group_size,
        scales.shape[1],
        words.shape[1],
        zero_bytes,
        BITS=len(codes),
        ASYMMETRIC=zeros is not None,
        BLOCK=BLOCK,
        WORDS=WORDS,
    )
    return outputs


def binary_linear(
    inputs: Float[Tensor, "tokens in"],
    signs: UInt8[Tensor, " sign_bytes"],
    flags: UInt8[Tensor, " flag_bytes"],
    residual_signs: UInt8[Tensor, " residual_bytes"],
    salient: UInt8[Tensor, " in"],
    rank: Int32[Tensor, " in"],
    salient_columns: int,
    numbers: Float32[Tensor, "out blocks 8"],
    block: int,
) -> Float32[Tensor, "tokens out"]:
    """See `luq.formats.binary`. `rank`: columns of the same kind that stand before a column."""
    rows, blocks, _ = numbers.shape
    outputs, grid = _outputs(inputs, rows)
    triton_kernels.binary[grid](
        inputs,
        signs,
        flags,
        residual_signs,
        salient,
        rank,
        numbers,
        outputs,
        rows,
        len(salient),
        salient_columns,
        block,
        blocks,
        BLOCK=BLOCK,
        WIDTH=WIDTH,
    )
    return outputs


def ternary_linear(
    inputs: Float[Tensor, "tokens in"],
    codes: UInt8[Tensor, " bytes"],
    scales: Float16[Tensor, "out groups"],
    shape: tuple[int, int],
    group_size: int,
) -> Float32[Tensor, "tokens out"]:
    """See `luq.formats.ternary`."""
    rows, columns = shape
    outputs, grid = _outputs(inputs, rows)
    sizes = (rows, columns, group_size, scales.shape[1])
    triton_kernels.ternary[grid](inputs, codes, scales, outputs, *sizes, BLOCK=BLOCK, WIDTH=WIDTH)
    return outputs


def trellis_linear(
    inputs: Float[Tensor, "tokens in"],
    codes: UInt8[Tensor, "strips bytes"],
    scales: Float16[Tensor, " strips"],
    shape: tuple[int, int],
    bits: float,
    window: int,
    seed: int,
    rotation: int,
) -> Float32[Tensor, "tokens out"]:
    """See `luq.formats.trellis`. Both rotations are applied to the vectors, not to the weight."""
    rows, columns = shape
    rotated = rotate(inputs.float(), seed, rotation)
    padded = torch.nn.functional.pad(rotated, (0, -columns % TILE))
    strips = len(codes)
    tiles = padded.shape[1] // TILE
    parts = triton.cdiv(tiles, SPLIT)
    sums = torch.empty(parts, len(inputs), strips * TILE, device=inputs.device)
    triton_kernels.trellis[(strips, len(inputs), parts)](
        padded,
        codes,
        scales,
        sums,
        strips,
        tiles,
        QUARTERS=quarters(bits),
        WINDOW=window,
        TILE=TILE,
        TILES=TILES,
        SPLIT=SPLIT,
    )
    return unrotate(sums.sum(0)[:, :rows], seed + 1, rotation)


def search(
    values: Float32[Tensor, "sequences length"],
    numbers: Float32[Tensor, " states"],
    states: Int32[Tensor, " sequences"],
    bits: float,
    window: int,
) -> Int32[Tensor, "sequences length"]:
    """Viterbi's search, as `luq.formats.kernels.searches.viterbi`; whole tile rows."""
    values = values.contiguous()
    device = values.device
    path = torch.empty(values.shape, dtype=torch.int32, device=device)
    most_stems = 1 << (window - math.floor(bits))
    choices = torch.empty(*values.shape, most_stems, dtype=torch.uint8, device=device)
    buffers = (values, numbers, states.contiguous(), path, choices)
    # eight warps hold the 2^12 costs of the usual window in registers
    triton_kernels.viterbi[(len(values),)](
        *buffers,
        values.shape[1],
        QUARTERS=quarters(bits),
        PERIOD=1 if float(bits).is_integer() else PERIOD,
        WINDOW=window,
        num_warps=8,
    )
    return path
