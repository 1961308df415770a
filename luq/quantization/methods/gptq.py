"""GPTQ (Frantar et al., ICLR 2023) on integer grids.

Columns are rounded one after the other, and the columns to come make up for each error (algorithm
1; see `luq.quantization.feedback`). Beyond the paper: symmetric or asymmetric grids, any group size
or one group per row (the last group has what is left of the columns), act-order with static groups
(no index is stored), a clip search, and passes of coordinate descent over the codes.

The clip search weighs a column's rounding error by the Hessian's diagonal, as if columns were
rounded to nearest. With error feedback that can be worse than no search: so each row takes the
codes that have the least error under the whole Hessian, of those with and without a search.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from luq.config import GptqTier, TernaryTier
from luq.config.quantizer.base import columns_per_group
from luq.formats.integer import IntegerWeight
from luq.quantization import hessian as hessians
from luq.quantization.feedback import Ahead, descend, sweep
from luq.quantization.grid import Grid, fit, nearest_codes, pack_on_grid, values_of
from luq.quantization.hessian import Factor, HessianCache


class Gptq:
    """Integers on a grid, with error feedback."""

    def __init__(self, tier: GptqTier) -> None:
        self.tier = tier
        self.factors: HessianCache[Factor] = HessianCache()

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> IntegerWeight:
        """As in `Quantizer`."""
        tier = self.tier
        coded = codes_on_grid(weight, hessian, tier, 2**tier.bits, tier.symmetric, self.factors)
        return pack_on_grid(
            coded.codes, coded.grid, coded.group_size, tier.symmetric, coded.damping
        )


class Coded(NamedTuple):
    """Codes, what they mean, columns of a group, and the damping that the Hessian needed."""

    codes: Float[Tensor, "out in"]
    grid: Grid
    group_size: int
    damping: float


def codes_on_grid(
    weight: Float[Tensor, "out in"],
    hessian: Tensor | None,
    tier: GptqTier | TernaryTier,
    levels: int,
    symmetric: bool,
    factors: HessianCache[Factor],
) -> Coded:
    """GPTQ's codes for a weight, on a grid per row and group of columns.

    Args:
        weight: W [out, in], fp32.
        hessian: H [in, in], fp32.
        tier: group size, order of columns, clip search, descent, block and damping.
        levels: codes of a grid.
        symmetric: whether the middle code is zero.
        factors: the last Hessian's factor.

    Raises:
        DataError: the Hessian is none.
    """
    columns = weight.shape[1]
    hessian = hessians.checked(hessian, columns)
    target = hessians.without_dead_columns(weight, hessian)
    importance = torch.diagonal(hessian).clamp_min(0)
    order = torch.arange(columns, device=weight.device)
    if tier.act_order:
        order = torch.argsort(importance, descending=True, stable=True)
    damping = tier.damping
    factor = factors.get(hessian, lambda: hessians.factorize(hessian, damping, order))
    coder = _Coder(tier, levels, symmetric, target, hessian, factor.upper, order)
    coded = coder.coded(importance, 0)
    if tier.clip_steps > 0:
        coded = coder.better_rows(coder.coded(importance, tier.clip_steps), coded)
    if tier.clip_steps > 0 and tier.clip_root:
        coded = coder.better_rows(coder.coded(importance.sqrt(), tier.clip_steps), coded)
    return Coded(coded.codes, coded.grid, coder.group_size, factor.damping)


@dataclass(frozen=True)
class _Coder:
    """One weight on its way to codes.

    Args:
        tier: as for `codes_on_grid`, as `levels` and `symmetric` are.
        target: the weight, with zeros in columns that no token used.
        hessian: H.
        upper: its factor, in the order of the sweep.
        order: of the columns in the sweep.
    """

    tier: GptqTier | TernaryTier
    levels: int
    symmetric: bool
    target: Float[Tensor, "out in"]
    hessian: Float[Tensor, "in in"]
    upper: Float[Tensor, "in in"]
    order: Int64[Tensor, " in"]

    @property
    def group_size(self) -> int:
        """Columns of a group of the grid."""
        return columns_per_group(self.target.shape[1], self.tier.group_size)

    def coded(self, importance: Float[Tensor, " in"], clip_steps: int) -> "_Rows":
        """All rows, on grids that span their groups or that a clip search finds."""
        tier = self.tier
        size = self.group_size
        grid = fit(self.target, self.levels, size, self.symmetric, importance, clip_steps)
        group = (torch.arange(len(self.order), device=self.order.device) // size)[self.order]
        rounding = GridRounding(grid, group)
        if not tier.act_order and not tier.static_groups:
            rounding = RefittingRounding(grid, group, size, self.symmetric, importance, clip_steps)
        swept = sweep(self.target[:, self.order], self.upper, tier.block, rounding)
        codes = torch.empty_like(swept)
        codes[:, self.order] = swept
        for _ in range(tier.descent):
            descend(self.target, self.hessian, codes, rounding.grid, size, tier.block)
        return _Rows(codes, rounding.grid)

    def better_rows(self, rows: "_Rows", others: "_Rows") -> "_Rows":
        """Of each row the one with the less error under the Hessian; no row knows of others."""
        is_better = (self._errors(others) < self._errors(rows))[:, None]
        codes = torch.where(is_better, others.codes, rows.codes)
        scale = torch.where(is_better, others.grid.scale, rows.grid.scale)
        zero = torch.where(is_better, others.grid.zero, rows.grid.zero)
        return _Rows(codes, Grid(scale, zero, self.levels))

    def _errors(self, rows: "_Rows") -> Float[Tensor, " out"]:
        """D_r H D_r^T of every row r of D = Q - W."""
        group = torch.arange(len(self.order), device=self.order.device) // self.group_size
        difference = rows.grid.decode(rows.codes, group) - self.target
        return ((difference @ self.hessian) * difference).sum(1)


class _Rows(NamedTuple):
    """Codes of a weight's rows, and their grid."""

    codes: Float[Tensor, "out in"]
    grid: Grid


class GridRounding:
    """Rounds columns to a grid.

    Args:
        grid: of all groups.
        group: in which group each column of the sweep lies.
    """

    def __init__(self, grid: Grid, group: Int64[Tensor, " in"]) -> None:
        self.grid = grid
        self.group = group

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """As in `Rounding`."""
        group = int(self.group[index])
        scale = self.grid.scale[:, group]
        zero = self.grid.zero[:, group]
        codes = nearest_codes(column, scale, zero, self.grid.levels)
        return codes, values_of(codes, scale, zero)


class RefittingRounding(GridRounding):
    """Rounds columns to a grid that is fitted anew, group by group, when the sweep reaches a group.

    The grid is then that of the compensated weights (GPTQ, section 4, "additional tricks"). Groups
    must come in their own order.

    Args:
        grid: as it is before the sweep; left as it is.
        group: in which group each column lies.
        group_size: columns of a group; the last one may have fewer.
        symmetric: whether the middle code is zero.
        importance: of columns, for the clip search.
        clip_steps: of the clip search.
    """

    def __init__(
        self,
        grid: Grid,
        group: Int64[Tensor, " in"],
        group_size: int,
        symmetric: bool,
        importance: Float[Tensor, " in"],
        clip_steps: int,
    ) -> None:
        super().__init__(Grid(grid.scale.clone(), grid.zero.clone(), grid.levels), group)
        self.group_size = group_size
        self.symmetric = symmetric
        self.importance = importance
        self.clip_steps = clip_steps

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """As in `Rounding`."""
        size = self.group_size
        if index % size == 0:
            importance = self.importance[index : index + size]
            levels = self.grid.levels
            new = fit(ahead(size), levels, size, self.symmetric, importance, self.clip_steps)
            group = index // size
            self.grid.scale[:, group] = new.scale[:, 0]
            self.grid.zero[:, group] = new.zero[:, 0]
        return super().round(index, column, ahead)
