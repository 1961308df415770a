"""GPTQ (Frantar et al., ICLR 2023) and round-to-nearest: weight, Hessian -> IntegerWeight or TernaryWeight. Pure.

Options: symmetric or asymmetric grids, any group size that divides the columns or one group per row,
act-order with static groups (no index is stored), clip search, 2, 3, 4 or 8 bits, blocks of lazy updates.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from luq.config import TierConfig
from luq.quantization import hessian as hessians
from luq.quantization.grid import Grid, fit, group_size
from luq.quantization.packed import IntegerWeight, PackedWeight, TernaryWeight
from luq.quantization.packing import pack_codes, pack_trits


def _pack(codes: Tensor, grid: Grid, symmetric: bool, damping: float) -> IntegerWeight:
    bits = (grid.levels - 1).bit_length()
    buffers = {"codes": pack_codes(codes, bits), "scales": grid.scale.half()}
    if not symmetric:
        buffers["zeros"] = pack_codes(grid.zero, bits)
    return IntegerWeight(buffers, (codes.shape[0], codes.shape[1]), damping=damping)


class RTN:
    """Round to nearest: no calibration."""

    data_free = True

    def __init__(self, tier: TierConfig):
        self.tier = tier

    def quantize(self, weight: Tensor, hessian: Tensor | None = None) -> IntegerWeight:
        """weight [out, in] fp32 -> packed integers; the Hessian is not used."""
        size = group_size(weight.shape[1], self.tier.group_size)
        grid = fit(weight, 2**self.tier.bits, size, self.tier.symmetric, steps=self.tier.clip_steps)
        group = torch.arange(weight.shape[1], device=weight.device) // size
        return _pack(grid.encode(weight, group), grid, self.tier.symmetric, 0.0)


class GPTQ:
    """Round column by column, and let the columns to come make up for each error."""

    data_free = False

    def __init__(self, tier: TierConfig):
        self.tier, self.shared = tier, hessians.Shared()

    def quantize(self, weight: Tensor, hessian: Tensor) -> PackedWeight:
        """weight [out, in], hessian [in, in], both fp32 -> packed integers.

        Raises DataError for a Hessian that is not one and ConfigError for a group size that does not divide.
        """
        codes, grid, damping = self._codes(weight, hessian, 2**self.tier.bits, self.tier.symmetric)
        return _pack(codes, grid, self.tier.symmetric, damping)

    def _codes(self, weight: Tensor, hessian: Tensor, levels: int, symmetric: bool) -> tuple[Tensor, Grid, float]:
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
        codes, grid = _columns(w[:, order], factor.upper, grid, group, size if dynamic else 0, tier, symmetric, importance)
        original = torch.empty_like(codes)
        original[:, order] = codes
        for _ in range(tier.descent):
            descend(w, hessian, original, grid, size, tier.block)
        return original, grid, factor.damping


def descend(weight: Tensor, hessian: Tensor, codes: Tensor, grid: Grid, size: int, block: int) -> None:
    """One pass of coordinate descent on tr(E H E^T): each column of `codes` [out, in] in turn gets the best, given all others.

    E = quantized - weight. The error never grows. Columns that no token used are left alone.
    """
    columns = weight.shape[1]
    group = torch.arange(columns, device=weight.device) // size
    slope = (grid.decode(codes, group) - weight) @ hessian
    for start in range(0, columns, block):
        end = min(start + block, columns)
        local, steps = slope[:, start:end].clone(), torch.zeros_like(slope[:, start:end])
        for j in range(start, end):
            steepness = hessian[j, j]
            if steepness <= 0:
                continue
            scale, zero = grid.scale[:, group[j]], grid.zero[:, group[j]]
            now = (codes[:, j] - zero) * scale
            wanted = now - local[:, j - start] / steepness
            codes[:, j] = torch.clamp(torch.round(wanted / scale) + zero, 0, grid.levels - 1)
            step = (codes[:, j] - zero) * scale - now
            steps[:, j - start] = step
            local.addr_(step, hessian[j, start:end])
        slope.addmm_(steps, hessian[start:end])


class Ternary(GPTQ):
    """-1, 0 and 1 times a scale per row and group, with GPTQ's error feedback: five weights in a byte."""

    def quantize(self, weight: Tensor, hessian: Tensor) -> TernaryWeight:
        """As GPTQ's, on a grid of three values."""
        codes, grid, damping = self._codes(weight, hessian, 3, symmetric=True)
        buffers = {"codes": pack_trits(codes), "scales": grid.scale.half()}
        return TernaryWeight(buffers, (weight.shape[0], weight.shape[1]), damping=damping)


Ahead = Callable[[int], Tensor]
Nearest = Callable[[int, Tensor, Ahead], tuple[Tensor, Tensor]]


def sweep(weight: Tensor, upper: Tensor, block: int, nearest: Nearest) -> Tensor:
    """GPTQ's sweep (algorithm 1) over weight [out, in], a block's errors added to later blocks at once: codes [out, in].

    `nearest(i, column [out], ahead)` gives the codes and the values [out] that column i gets; `ahead(n)` are the n columns
    [out, n] from there on, with all errors so far made up for. The work is on the transpose: a column is a contiguous row.
    """
    wt = weight.T.contiguous()
    codes, columns = torch.empty_like(wt), len(wt)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = torch.empty_like(wt[start:end])
        for i in range(start, end):

            def ahead(n: int, i: int = i, start: int = start, end: int = end, errors: Tensor = errors) -> Tensor:
                found = wt[i : i + n].clone()
                if i + n > end:  # columns beyond the block still lack the block's own errors
                    found[end - i :] -= upper[start:i, end : i + n].T @ errors[: i - start]
                return found.T.contiguous()

            codes[i], value = nearest(i, wt[i], ahead)
            error = (wt[i] - value) / upper[i, i]
            errors[i - start] = error
            wt[i + 1 : end].addr_(upper[i, i + 1 : end], error, alpha=-1)
        wt[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
    return codes.T.contiguous()


def _columns(
    w: Tensor, upper: Tensor, grid: Grid, group: Tensor, refit: int, tier: TierConfig, symmetric: bool, importance: Tensor
) -> tuple[Tensor, Grid]:
    """The sweep on a grid: codes [out, in] and the grid.

    With refit > 0 each group's grid is fitted anew, to the compensated weights, when the sweep reaches it.
    """
    scale, zero = grid.scale.clone(), grid.zero.clone()

    def nearest(i: int, column: Tensor, ahead: Ahead) -> tuple[Tensor, Tensor]:
        g = int(group[i])
        if refit and i % refit == 0:
            new = fit(ahead(refit), grid.levels, refit, symmetric, importance[i : i + refit], tier.clip_steps)
            scale[:, g], zero[:, g] = new.scale[:, 0], new.zero[:, 0]
        code = torch.clamp(torch.round(column / scale[:, g]) + zero[:, g], 0, grid.levels - 1)
        return code, (code - zero[:, g]) * scale[:, g]

    return sweep(w, upper, tier.block, nearest), Grid(scale, zero, grid.levels)
