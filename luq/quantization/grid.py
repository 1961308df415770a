"""Integer grids: one scale and zero per row and group of columns.

| symbol | in the code | meaning |
|---|---|---|
| w | `weight` | a weight |
| q | `codes` | its code, q = clamp(round(w / s) + z, 0, levels - 1) |
| s | `scale` | step of the grid |
| z | `zero` | the code that means zero |

A code means (q - z) s. A grid holds the *stored* values: scales are rounded to fp16 before any code
is computed with them, so what is meant and what is written cannot differ.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from luq.formats.base import group_meta
from luq.formats.integer import IntegerWeight
from luq.formats.packing import pack_codes

SMALLEST_SCALE = 2.0**-24  # the smallest positive fp16 number
# The clip search tries ranges from all of a group's own down to nearly this share of it. Gaussian
# groups of 128 have their least error at 0.44 for a ternary grid (median), 0.61 for 2 bits and 0.80
# for 3. GPTQ's reference code goes down to 0.2.
SMALLEST_RANGE = 0.4
CHUNK = 2**18  # weights that are searched at a time: they stay in a processor's cache


def nearest_codes(weight: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    """q = clamp(round(w / s) + z, 0, levels - 1), elementwise; shapes broadcast."""
    return torch.clamp(torch.round(weight / scale) + zero, 0, levels - 1)


def values_of(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(q - z) s, elementwise; shapes broadcast."""
    return (codes - zero) * scale


@dataclass(frozen=True)
class Grid:
    """Stored scales and zeros of a weight; codes are 0 to `levels` - 1, as fp32 numbers."""

    scale: Float[Tensor, "out groups"]
    zero: Float[Tensor, "out groups"]
    levels: int

    def encode(
        self, weight: Float[Tensor, "out n"], group: Int[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """Nearest codes of columns that lie in the groups `group`."""
        return nearest_codes(weight, self.scale[:, group], self.zero[:, group], self.levels)

    def decode(
        self, codes: Float[Tensor, "out n"], group: Int[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """What codes of columns in the groups `group` mean."""
        return values_of(codes, self.scale[:, group], self.zero[:, group])

    def encode_columns(self, columns: Float[Tensor, "*n out"], group: int) -> Tensor:
        """Nearest codes of columns of one group; a column is a row here."""
        return nearest_codes(columns, self._scales[group], self._zeros[group], self.levels)

    def decode_columns(self, codes: Float[Tensor, "*n out"], group: int) -> Tensor:
        """What codes of columns of one group mean."""
        return values_of(codes, self._scales[group], self._zeros[group])

    @cached_property
    def _scales(self) -> Float[Tensor, "groups out"]:
        return self.scale.T.contiguous()

    @cached_property
    def _zeros(self) -> Float[Tensor, "groups out"]:
        return self.zero.T.contiguous()

    def of_rows(self, rows: slice) -> "Grid":
        """The grid of some rows."""
        return Grid(self.scale[rows], self.zero[rows], self.levels)

    def with_rows(self, is_other: Bool[Tensor, " out"], other: "Grid") -> "Grid":
        """The same with some rows of another grid."""
        scale = torch.where(is_other[:, None], other.scale, self.scale)
        zero = torch.where(is_other[:, None], other.zero, self.zero)
        return Grid(scale, zero, self.levels)


def fit(
    weight: Float[Tensor, "out in"],
    levels: int,
    group_size: int,
    symmetric: bool,
    importance: Float[Tensor, " in"] | None = None,
    steps: int = 0,
) -> Grid:
    """Fit a grid to each row and group of columns.

    Args:
        weight: what is to be coded [out, in].
        levels: number of codes.
        group_size: columns of a group; the last group has what is left of `in`.
        symmetric: the zero is the middle code, and not stored.
        importance: what a column's squared error counts (the Hessian's diagonal); None: all alike.
            Read only by the clip search.
        steps: shrink factors in (0.4, 1] that the clip search tries: each row and group takes the
            one with the least squared rounding error. 0: no search, the grid spans all weights.
    """
    columns = weight.shape[1]
    if importance is None:
        importance = torch.ones(columns, device=weight.device)
    importance = _filled_up(importance, group_size).view(1, -1, group_size)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []
    # rows know nothing of each other
    for part in torch.split(weight, max(1, CHUNK // columns)):
        grouped = _filled_up(part, group_size).view(len(part), -1, group_size)
        scale, zero = _searched(grouped, importance, levels, symmetric, steps)
        scales.append(scale)
        zeros.append(zero)
    return Grid(torch.cat(scales), torch.cat(zeros), levels)


def _searched(
    grouped: Float[Tensor, "out groups size"],
    importance: Float[Tensor, "1 groups size"],
    levels: int,
    symmetric: bool,
    steps: int,
) -> tuple[Float[Tensor, "out groups"], Float[Tensor, "out groups"]]:
    """Scale and zero of some rows, as `fit` searches them."""
    scale, zero = _spanning(grouped, levels, symmetric, shrink=1.0)
    if steps == 0:
        return scale, zero
    least = _rounding_error(grouped, importance, scale, zero, levels)
    for step in range(1, steps):
        shrink = 1.0 - (1.0 - SMALLEST_RANGE) * step / steps
        new_scale, new_zero = _spanning(grouped, levels, symmetric, shrink)
        error = _rounding_error(grouped, importance, new_scale, new_zero, levels)
        better = error < least
        scale = torch.where(better, new_scale, scale)
        zero = torch.where(better, new_zero, zero)
        least = torch.where(better, error, least)
    return scale, zero


def _filled_up(x: Float[Tensor, "*rows in"], group_size: int) -> Float[Tensor, "*rows whole"]:
    """With zeros up to whole groups: a grid spans zero anyway, and codes it without an error."""
    missing = -x.shape[-1] % group_size
    return pad(x, (0, missing)) if missing else x


def _spanning(
    grouped: Float[Tensor, "out groups size"], levels: int, symmetric: bool, shrink: float
) -> tuple[Float[Tensor, "out groups"], Float[Tensor, "out groups"]]:
    """Scale and zero of the grid over `shrink` times the range of each group and zero."""
    steps_in_range = levels - 1
    low = grouped.amin(-1).clamp_max(0) * shrink
    high = grouped.amax(-1).clamp_min(0) * shrink
    if symmetric:
        high = torch.maximum(-low, high)
        scale = _stored(2 * high / steps_in_range)
        return scale, torch.full_like(scale, levels // 2)
    scale = _stored((high - low) / steps_in_range)
    zero = torch.clamp(torch.round(-low / scale), 0, steps_in_range)
    return scale, zero


def _stored(scale: Float[Tensor, "out groups"]) -> Float[Tensor, "out groups"]:
    """The scale as fp16 has it, never zero; of groups of zeros it is one."""
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale.half().float().clamp_min(SMALLEST_SCALE)


def _rounding_error(
    grouped: Float[Tensor, "out groups size"],
    importance: Float[Tensor, "1 groups size"],
    scale: Float[Tensor, "out groups"],
    zero: Float[Tensor, "out groups"],
    levels: int,
) -> Float[Tensor, "out groups"]:
    """Sum over a group of importance times squared error."""
    scale = scale.unsqueeze(-1)
    zero = zero.unsqueeze(-1)
    codes = nearest_codes(grouped, scale, zero, levels)
    error = values_of(codes, scale, zero) - grouped
    return (error.square() * importance).sum(-1)


def pack_on_grid(
    codes: Float[Tensor, "out in"], grid: Grid, group_size: int, symmetric: bool, damping: float
) -> IntegerWeight:
    """Codes and their grid as they are stored.

    Args:
        codes: whole numbers in [0, levels).
        grid: what they mean; `levels` is a power of two.
        group_size: columns of a group of the grid.
        symmetric: the zeros are not stored.
        damping: of the Hessian; for the record.
    """
    rows, columns = codes.shape
    bits = (grid.levels - 1).bit_length()
    buffers = {"codes": pack_codes(codes, bits), "scales": grid.scale.half()}
    if not symmetric:
        buffers["zeros"] = pack_codes(grid.zero, bits)
    meta = group_meta(columns, group_size)
    return IntegerWeight(buffers, (rows, columns), damping=damping, **meta)
