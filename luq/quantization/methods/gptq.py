"""GPTQ (Frantar et al., ICLR 2023) on integer grids.

Columns are rounded one after the other, and the columns to come make up for each error (algorithm
1; see `luq.quantization.feedback`). Beyond the paper: symmetric or asymmetric grids, any group size
or one group per row (the last group has what is left of the columns), act-order with static groups
(no index is stored), a clip search, and passes of coordinate descent over the codes.

The clip search weighs column j's rounding error by 1 / U_jj^2: with feedback a row's error under
the damped Hessian is sum_j (r_j / U_jj)^2, where r_j is what column j, compensated for the errors
before it, is rounded by. (The Hessian's diagonal is what counts without feedback: of a column that
later ones can make up for, it weighs far too much.)

With four codes or fewer the search goes by the diagonal all the same, and there is a sweep without
a search beside it: so `gptq2` keeps 67 % of pocket_llava's score, by 1 / U_jj^2 59 % (SmolLM2's
perplexities are 92.6 and 88.8, which is within what last bits change). With `clip_root` there is
one more search. Of several sweeps each row takes the codes that have the least error under the
whole, damped Hessian, which is known after the sweep. Then come the passes of descent.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from luq.config import GptqTier, TernaryTier
from luq.config.quantizer.base import columns_per_group
from luq.formats.integer import IntegerWeight
from luq.quantization import hessian as hessians
from luq.quantization.coder import Coder, GridRounding, SweptRows
from luq.quantization.feedback import Ahead
from luq.quantization.grid import Grid, fit, pack_on_grid
from luq.quantization.hessian import HessianCache, UnitFactor


class Gptq:
    """Integers on a grid, with error feedback."""

    def __init__(self, tier: GptqTier) -> None:
        self.tier = tier
        self.factors: HessianCache[UnitFactor] = HessianCache()

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> IntegerWeight:
        """As in `Quantizer`."""
        tier = self.tier
        coded = codes_on_grid(weight, hessian, tier, 2**tier.bits, tier.symmetric, self.factors)
        return pack_on_grid(
            coded.codes, coded.grid, coded.group_size, tier.symmetric, coded.damping
        )


FEW_CODES = 4  # most codes of a grid whose ranges are searched by the Hessian's diagonal


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
    factors: HessianCache[UnitFactor],
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
    factor = factors.get(hessian, lambda: hessians.decompose(hessian, damping, order))
    size = columns_per_group(columns, tier.group_size)
    coder = Coder(target, hessian, factor, order, size, tier.block, tier.descent)

    has_few_codes = levels <= FEW_CODES
    column_weights = importance
    if not has_few_codes:
        column_weights = torch.empty_like(importance).index_copy_(0, order, factor.unmended)

    def swept(column_weights: Float[Tensor, " in"], clip_steps: int) -> SweptRows[Grid]:
        grid = fit(target, levels, size, symmetric, column_weights, clip_steps)
        if tier.act_order or tier.static_groups:
            return coder.swept(grid)
        rounding = RefittingRounding(grid, coder.group, size, symmetric, column_weights, clip_steps)
        return coder.swept_by(rounding)

    def candidates() -> Iterator[SweptRows[Grid]]:
        yield swept(column_weights, tier.clip_steps)
        if tier.clip_steps and has_few_codes:
            yield swept(column_weights, 0)
        if tier.clip_steps and tier.clip_root:
            yield swept(column_weights.sqrt(), tier.clip_steps)

    rows = coder.coded(candidates())
    return Coded(rows.codes, rows.grid, size, factor.damping)


class RefittingRounding(GridRounding[Grid]):
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
        self.current = self.grid  # that of the group where the sweep is

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
            self.current = new
        codes = self.current.encode_columns(column, 0)
        return codes, self.current.decode_columns(codes, 0)
