"""Integer grids: one scale and zero per row and group of columns, stored as fp16 and integers.

A grid holds the *stored* values (scales already rounded to fp16), so what is meant and what is written
cannot differ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from luq.errors import ConfigError


@dataclass(frozen=True)
class Grid:
    """scale, zero: [out, groups] fp32; values are (code - zero) * scale with `levels` codes."""

    scale: Tensor
    zero: Tensor
    levels: int

    def encode(self, weight: Tensor, group: Tensor | int) -> Tensor:
        """Nearest codes of `weight` [out, n], whose columns lie in `group` ([n] or one index)."""
        scale, zero = self.scale[:, group], self.zero[:, group]
        if isinstance(group, int):
            scale, zero = scale[:, None], zero[:, None]
        return torch.clamp(torch.round(weight / scale) + zero, 0, self.levels - 1)

    def decode(self, codes: Tensor, group: Tensor | int) -> Tensor:
        scale, zero = self.scale[:, group], self.zero[:, group]
        if isinstance(group, int):
            scale, zero = scale[:, None], zero[:, None]
        return (codes - zero) * scale


def group_size(columns: int, wanted: int) -> int:
    """Columns per group; 0 means one group per row. A size that does not divide is a ConfigError."""
    size = wanted or columns
    if columns % size:
        raise ConfigError(
            f"group size {size} does not divide the {columns} columns of a linear; choose a divisor"
        )
    return size


def _range(
    weight: Tensor, levels: int, symmetric: bool, shrink: Tensor | float
) -> tuple[Tensor, Tensor]:
    top = levels - 1
    low = weight.amin(-1).clamp_max(0) * shrink
    high = weight.amax(-1).clamp_min(0) * shrink
    if symmetric:
        high = torch.maximum(-low, high)
        scale = 2 * high / top
        zero = torch.full_like(scale, levels // 2)
    else:
        scale = (high - low) / top
        zero = torch.zeros_like(scale)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).half().float().clamp_min(2.0**-24)
    if not symmetric:
        zero = torch.clamp(torch.round(-low / scale), 0, top)
    return scale, zero


def fit(
    weight: Tensor,
    levels: int,
    group: int,
    symmetric: bool,
    importance: Tensor | None = None,
    steps: int = 0,
) -> Grid:
    """Fit a grid of `levels` codes to weight [out, in] in groups of `group` columns.

    With steps > 0 the range is clipped: of `steps` shrink factors in (0.4, 1] each row and group takes the one with the
    least squared rounding error, weighted by `importance` [in] (the Hessian's diagonal).
    """
    rows, columns = weight.shape
    grouped = weight.view(rows, columns // group, group)
    best = Grid(*_range(grouped, levels, symmetric, 1.0), levels)
    if steps == 0:
        return best
    weights = torch.ones(columns, device=weight.device) if importance is None else importance
    weights = weights.view(1, columns // group, group)

    def error(grid: Grid) -> Tensor:
        scale, zero = grid.scale.unsqueeze(-1), grid.zero.unsqueeze(-1)
        codes = torch.clamp(torch.round(grouped / scale) + zero, 0, levels - 1)
        return (((codes - zero) * scale - grouped).square() * weights).sum(-1)

    scale, zero, least = best.scale.clone(), best.zero.clone(), error(best)
    for step in range(1, steps):
        grid = Grid(*_range(grouped, levels, symmetric, 1.0 - 0.6 * step / steps), levels)
        errors = error(grid)
        better = errors < least
        scale, zero = torch.where(better, grid.scale, scale), torch.where(better, grid.zero, zero)
        least = torch.where(better, errors, least)
    return Grid(scale, zero, levels)
