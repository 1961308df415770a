"""Random packed weights of every format, small enough for slow decoders."""

import torch
from torch import Tensor

from luq.formats.base import PackedWeight
from luq.formats.binary import BinaryWeight
from luq.formats.float16 import FloatWeight
from luq.formats.gguf import KINDS, GgufWeight
from luq.formats.gguf_blocks import BlockType
from luq.formats.gguf_codebooks import CodebookType
from luq.formats.integer import IntegerWeight
from luq.formats.layer_file import PackedLayer
from luq.formats.packing import pack_bits, pack_codes, pack_trits
from luq.formats.row_column import RowColumnWeight
from luq.formats.ternary import TernaryWeight
from luq.formats.trellis import COMPUTED, TrellisWeight
from luq.models.families import LINEARS

GENERATOR = torch.Generator().manual_seed(0)


def random_bits(*shape: int) -> Tensor:
    return pack_bits(torch.rand(shape, generator=GENERATOR) < 0.5)


def floats(rows: int, columns: int, dtype: torch.dtype = torch.float16) -> FloatWeight:
    weight = torch.randn(rows, columns, generator=GENERATOR).to(dtype)
    return FloatWeight({"weight": weight}, (rows, columns))


def integers(
    rows: int, columns: int, bits: int, groups: int, symmetric: bool, size: int | None = None
) -> IntegerWeight:
    """Random codes, with scales from subnormal to large.

    `size`: columns of each group but the last, where the groups do not divide the columns.
    """
    codes = torch.randint(0, 2**bits, (rows, columns), generator=GENERATOR)
    scales = torch.randn(rows, groups, generator=GENERATOR).mul(3).exp().mul(1e-3).half()
    scales[0, 0] = 3e-7
    buffers = {"codes": pack_codes(codes, bits), "scales": scales}
    if not symmetric:
        zeros = torch.randint(0, 2**bits, (rows, groups), generator=GENERATOR)
        buffers["zeros"] = pack_codes(zeros, bits)
    meta = {} if size is None else {"group_size": size}
    return IntegerWeight(buffers, (rows, columns), **meta)


def ternaries(rows: int, columns: int, groups: int, size: int | None = None) -> TernaryWeight:
    """`size` as for `integers`."""
    codes = torch.randint(0, 3, (rows, columns), generator=GENERATOR)
    scales = torch.randn(rows, groups, generator=GENERATOR).half()
    meta = {} if size is None else {"group_size": size}
    return TernaryWeight({"codes": pack_trits(codes), "scales": scales}, (rows, columns), **meta)


def blocks_of_gguf(count: int, kind: BlockType | CodebookType) -> Tensor:
    """Random bytes, with fp16 numbers that are finite."""
    blocks = torch.randint(0, 256, (count, kind.bytes), generator=GENERATOR, dtype=torch.uint8)
    if isinstance(kind, CodebookType):
        numbers = kind.read(blocks)
        scale = torch.randn(count, generator=GENERATOR).half()
        return kind.write(numbers._replace(scale=scale))
    if kind.name == "tq2_0":  # two bits never say 3
        codes = torch.randint(0, 3, (count, kind.weights), generator=GENERATOR, dtype=torch.uint8)
        blocks[:] = 0
        kind.write_codes(codes, blocks)
    for start in (kind.scale_at, kind.shift_at):
        if start is not None:
            numbers = torch.randn(count, 1, generator=GENERATOR).half()
            blocks[:, start : start + 2] = numbers.view(torch.uint8)
    return blocks


def gguf_weight(rows: int, columns: int, name: str) -> GgufWeight:
    """`name`: of the type of blocks."""
    kind = KINDS[name]
    blocks = blocks_of_gguf(rows * columns // kind.weights, kind).view(rows, -1)
    return GgufWeight({"blocks": blocks}, (rows, columns), type=name)


def binaries(
    rows: int, columns: int, block: int, share: float, twice: bool = False
) -> BinaryWeight:
    """`share` of columns are salient; `twice`: their numbers are quantized too."""
    salient = torch.rand(columns, generator=GENERATOR) < share
    count = int(salient.sum())
    blocks = -(-columns // block)
    buffers = {
        "signs": random_bits(rows, columns),
        "salient": pack_bits(salient),
        "flags": random_bits(rows, columns - count),
        "residual_signs": random_bits(rows, count),
        "scales": torch.randn(rows, blocks, 8, generator=GENERATOR).half(),
    }
    if twice:
        numbers = torch.randn(rows, blocks, 8, generator=GENERATOR)
        buffers |= BinaryWeight.quantize_numbers(numbers)
    return BinaryWeight(buffers, (rows, columns), block=block)


def row_columns(rows: int, columns: int, block: int, share: float) -> RowColumnWeight:
    salient = torch.rand(columns, generator=GENERATOR) < share
    count = int(salient.sum())
    buffers = {
        "signs": random_bits(rows, columns),
        "salient": pack_bits(salient),
        "residual_signs": random_bits(rows, count),
        "row_scales": torch.rand(rows, -(-columns // block), 2, generator=GENERATOR).half(),
        "column_scales": torch.rand(columns, generator=GENERATOR).half(),
        "residual_scales": torch.rand(count, generator=GENERATOR).half(),
    }
    return RowColumnWeight(buffers, (rows, columns), block=block)


def coded(
    rows: int,
    columns: int,
    bits: int | float,
    window: int = 12,
    code: int | None = COMPUTED,
    rotation: int | None = None,
) -> TrellisWeight:
    """`code` None: as files of format version 1 say it, not at all; `rotation` likewise."""
    strips = -(-rows // 16)
    padded_columns = -(-columns // 16) * 16
    stream = torch.randint(0, 256, (strips, int(2 * padded_columns * bits)), generator=GENERATOR)
    scales = torch.randn(strips, generator=GENERATOR).half()
    buffers = {"codes": stream.to(torch.uint8), "scales": scales}
    meta = {} if code is None else {"code": code}
    if rotation is not None:
        meta["rotation"] = rotation
    return TrellisWeight(buffers, (rows, columns), bits=bits, window=window, seed=1, **meta)


def bit(buffer: Tensor, position: int) -> int:
    """One bit of a plane, lowest of a byte first."""
    return int(buffer.reshape(-1)[position // 8]) >> position % 8 & 1


def sign(buffer: Tensor, position: int) -> int:
    return 2 * bit(buffer, position) - 1


def copies(weight: PackedWeight) -> PackedLayer:
    """A layer all of whose linears are this weight."""
    layer: PackedLayer = {}
    for name in LINEARS:
        buffers = {buffer: tensor.clone() for buffer, tensor in weight.buffers.items()}
        layer[name] = type(weight)(buffers, weight.shape, **weight.meta)
    return layer


def damaged(weight: PackedWeight, buffer: str, tensor: Tensor | None) -> PackedWeight:
    """The weight with another buffer, or without it (None)."""
    buffers = {name: stored for name, stored in weight.buffers.items() if name != buffer}
    if tensor is not None:
        buffers[buffer] = tensor
    return type(weight)(buffers, weight.shape, **weight.meta)
