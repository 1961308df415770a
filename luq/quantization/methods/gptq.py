"""GPTQ (Frantar et al., ICLR 2023) and round-to-nearest: weight, Hessian -> IntegerWeight or TernaryWeight. Pure.

Options: symmetric or asymmetric grids, any group size that divides the columns or one group per row,
act-order with static groups (no index is stored), clip search, 2, 3, 4 or 8 bits, blocks of lazy updates.
"""

import torch
from torch import Tensor

from luq.config import GptqTier
from luq.formats.base import PackedWeight
from luq.formats.integer import IntegerWeight
from luq.formats.packing import pack_codes
from luq.quantization import hessian as hessians
from luq.quantization.feedback import Ahead, descend, sweep
from luq.quantization.grid import Grid, fit, group_size


def _pack(codes: Tensor, grid: Grid, symmetric: bool, damping: float) -> IntegerWeight:
    bits = (grid.levels - 1).bit_length()
    buffers = {"codes": pack_codes(codes, bits), "scales": grid.scale.half()}
    if not symmetric:
        buffers["zeros"] = pack_codes(grid.zero, bits)
    return IntegerWeight(buffers, (codes.shape[0], codes.shape[1]), damping=damping)


class Gptq:
    """Round column by column, and let the columns to come make up for each error."""

    data_free = False

    def __init__(self, tier: GptqTier):
        self.tier, self.shared = tier, hessians.Shared()

    def quantize(self, weight: Tensor, hessian: Tensor) -> PackedWeight:
        """weight [out, in], hessian [in, in], both fp32 -> packed integers.

        Raises DataError for a Hessian that is not one and ConfigError for a group size that does not divide.
        """
        codes, grid, damping = self._codes(weight, hessian, 2**self.tier.bits, self.tier.symmetric)
        return _pack(codes, grid, self.tier.symmetric, damping)

    def _codes(
        self, weight: Tensor, hessian: Tensor, levels: int, symmetric: bool
    ) -> tuple[Tensor, Grid, float]:
        """Codes [out, in] on a grid of `levels` values, the grid, and the damping that was needed."""
        tier, columns = self.tier, weight.shape[1]
        hessians.check(hessian, columns)
        size = group_size(columns, tier.group_size)
        w = weight.clone()
        w[:, torch.diagonal(hessian) <= 0] = 0
        importance = torch.diagonal(hessian).clamp_min(0)
        order = torch.arange(columns, device=w.device)
        if tier.act_order:
            order = torch.argsort(importance, descending=True, stable=True)
        factor = self.shared.of(hessian, lambda: hessians.factorize(hessian, tier.damping, order))
        grid = fit(w, levels, size, symmetric, importance, tier.clip_steps)
        group = (torch.arange(columns, device=w.device) // size)[order]
        dynamic = not tier.act_order and not tier.static_groups
        codes, grid = _columns(
            w[:, order],
            factor.upper,
            grid,
            group,
            size if dynamic else 0,
            tier,
            symmetric,
            importance,
        )
        original = torch.empty_like(codes)
        original[:, order] = codes
        for _ in range(tier.descent):
            descend(w, hessian, original, grid, size, tier.block)
        return original, grid, factor.damping


def _columns(
    w: Tensor,
    upper: Tensor,
    grid: Grid,
    group: Tensor,
    refit: int,
    tier: GptqTier,
    symmetric: bool,
    importance: Tensor,
) -> tuple[Tensor, Grid]:
    """The sweep on a grid: codes [out, in] and the grid.

    With refit > 0 each group's grid is fitted anew, to the compensated weights, when the sweep reaches it.
    """
    scale, zero = grid.scale.clone(), grid.zero.clone()

    def nearest(i: int, column: Tensor, ahead: Ahead) -> tuple[Tensor, Tensor]:
        g = int(group[i])
        if refit and i % refit == 0:
            new = fit(
                ahead(refit),
                grid.levels,
                refit,
                symmetric,
                importance[i : i + refit],
                tier.clip_steps,
            )
            scale[:, g], zero[:, g] = new.scale[:, 0], new.zero[:, 0]
        code = torch.clamp(torch.round(column / scale[:, g]) + zero[:, g], 0, grid.levels - 1)
        return code, (code - zero[:, g]) * scale[:, g]

    return sweep(w, upper, tier.block, nearest), Grid(scale, zero, grid.levels)
