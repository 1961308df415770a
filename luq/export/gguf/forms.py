"""Which GGUF type holds a packed weight exactly, and its bytes there.

| symbol | in the code | meaning |
|---|---|---|
| q, z, s | `codes`, `zero`, `scale` | a weight on a grid is s (q - z), with s and z of its group |
| v | `steps` | q - z, a whole number |
| d, d', a, b | `scale`, `shift`, `sub_scales`, `sub_shifts` | of a block, see `gguf_blocks` |

Types without shifts hold d (a v), with d = s and a = 1: they need as many levels as v has. Types
with sub-shifts hold d (a q) - d' b: with d = d' = s, a = 1 and b = z that is s q - s z, which is
s (q - z) in fp32, too, since both products and their difference are exact. Where sub-blocks share
numbers (super-blocks), groups have to be whole super-blocks; elsewhere whole blocks.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from luq.config import GgufTier
from luq.config.named_tiers import NAMED_TIERS
from luq.errors import ConfigError, ModelError
from luq.formats.base import GridCodes, PackedWeight, of_columns
from luq.formats.gguf import KINDS, GgufWeight
from luq.formats.gguf_blocks import BLOCK_TYPES, BlockType, Numbers
from luq.formats.gguf_codebooks import CodebookType
from luq.quantization.gguf_grids import nearest

# Types of plain numbers; `F32` in the file has torch's float32, and so on.
FLOATS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
FLOAT_BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0}
# Types that integers on a grid may be held in, smallest first. TQ2_0 stands for both ternary types:
# it is larger than TQ1_0, and answers twice as fast.
EXACT_TYPES = (
    "tq2_0",
    "q2_k",
    "q3_k",
    "q4_0",
    "q4_k",
    "q5_0",
    "q5_k",
    "q6_k",
    "q8_0",
)
SEARCH_STEPS = 5  # shrink factors tried per block where a weight is recoded


class Form(NamedTuple):
    """How a tensor stands in a GGUF file."""

    type: str  # llama.cpp's name in small letters
    is_recoded: bool = False  # it then means something else than the packed weight

    @property
    def bits(self) -> float:
        """Bits per weight, scales and all."""
        bits = FLOAT_BITS.get(self.type)
        return KINDS[self.type].stored_bits if bits is None else bits


def exact_form(weight: PackedWeight) -> Form | None:
    """The smallest type that holds what a packed weight means; None if there is none."""
    if isinstance(weight, GgufWeight):
        return Form(weight.kind.name)
    floats = weight.stored_floats()
    if floats is not None:
        return Form(FLOATS[floats.dtype])
    grid = weight.grid_codes()
    if grid is None:
        return None
    columns = weight.shape[1]
    for name in EXACT_TYPES:
        if _holds(BLOCK_TYPES[name], grid, columns):
            return Form(name)
    return None


def _holds(kind: BlockType, grid: GridCodes, columns: int) -> bool:
    """Whether all codes on a grid have exact codes in blocks of some type."""
    if columns % kind.weights:
        return False
    if grid.group_size % kind.weights:
        return False
    if kind.sub_shifts:
        return grid.levels <= kind.levels  # then z, which is a code, is a sub-shift, too
    lowest, highest = _range(grid)
    return lowest >= -kind.zero and highest <= kind.levels - 1 - kind.zero


def _range(grid: GridCodes) -> tuple[int, int]:
    """The least and the largest v that a grid may have."""
    highest = grid.levels - 1
    if not grid.is_symmetric:
        return -highest, highest
    zero = grid.levels // 2  # the fixed zero; of three levels 1
    return -zero, highest - zero


def recoded_form(columns: int, name: str) -> Form:
    """The form of a weight that is coded again.

    Args:
        columns: of the weight.
        name: of the wanted type. Rows that are not whole blocks of it get llama.cpp's type for
            such rows.

    Raises:
        ConfigError: rows are whole blocks of neither.
    """
    tier = GgufTier(name, fallback=True)
    fitting = tier.type_of_rows(columns)
    if fitting is None:
        raise ConfigError(f"a weight that --recode {name} would code again {tier.refusal(columns)}")
    return Form(fitting, is_recoded=True)


def stored_rows(weight: PackedWeight, form: Form) -> Tensor:
    """The rows of a weight as a GGUF file has them: bytes of blocks, or numbers.

    Args:
        weight: what is packed.
        form: of `exact_form` or `recoded_form`.

    Raises:
        ModelError: an exact form does not mean what the weight means.
    """
    if isinstance(weight, GgufWeight) and not form.is_recoded:
        return weight.buffers["blocks"]
    floats = weight.stored_floats()
    if floats is not None and not form.is_recoded:
        return floats
    if form.is_recoded:
        recoded = nearest(KINDS[form.type], weight.dequantize(), SEARCH_STEPS)
        return recoded.buffers["blocks"]
    kind = BLOCK_TYPES[form.type]
    coded = weight.grid_codes()
    assert coded is not None  # exact forms are of these three
    blocks = _blocks(kind, coded)
    written = GgufWeight({"blocks": blocks}, weight.shape, type=kind.name)
    if not torch.equal(written.dequantize(), weight.dequantize()):
        raise ModelError(
            f"a weight of format {weight.format} is another one in {kind.name}: this is an error "
            "of luq, please report it; --recode TYPE writes it nevertheless"
        )
    return blocks


def _blocks(kind: BlockType, grid: GridCodes) -> UInt8[Tensor, "out row_bytes"]:
    """Codes on a grid as blocks of a type that holds them."""
    rows, columns = grid.codes.shape
    starts = torch.arange(0, columns, kind.weights)
    group = starts // grid.group_size  # of each block of a row
    scale = grid.scale[:, group].flatten().half()
    if kind.sub_shifts:
        codes = grid.codes
        sub_shifts = grid.zero[:, group].reshape(-1, 1).expand(-1, kind.subs)
    else:
        steps = grid.codes - of_columns(grid.zero, grid.group_size, columns)
        codes = steps + kind.zero
        sub_shifts = None
    numbers = Numbers(
        codes=codes.to(torch.uint8).view(-1, kind.weights),
        scale=scale,
        shift=None if kind.shift_at is None else scale,
        sub_scales=torch.ones(len(scale), kind.subs) if kind.sub_scales else None,
        sub_shifts=sub_shifts,
    )
    return kind.write(numbers).view(rows, -1)


def size_of(form: Form, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return int(math.prod(shape) * form.bits) // 8


def stored_bits(weight: PackedWeight) -> float:
    """Bits per weight of a packed weight, as it stands in the store."""
    return 8 * sum(weight.ledger().values()) / (weight.shape[0] * weight.shape[1])


def nearest_tiers(bits: float, columns: int) -> list[str]:
    """The named tiers of GGUF types whose size is next to some bits per weight.

    Args:
        bits: per weight.
        columns: weights of a row; it is whole blocks of what is named.
    """
    fitting: list[BlockType | CodebookType] = []
    for name, tier in NAMED_TIERS.items():
        if isinstance(tier, GgufTier) and columns % KINDS[name].weights == 0:
            fitting.append(KINDS[name])
    fitting.sort(key=lambda kind: kind.stored_bits)
    below = [kind.name for kind in fitting if kind.stored_bits <= bits]
    above = [kind.name for kind in fitting if kind.stored_bits > bits]
    return below[-1:] + above[:1]
