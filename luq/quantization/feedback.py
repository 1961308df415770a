"""Error feedback: the columns to come make up for the rounding errors of those before (GPTQ, Frantar et al., ICLR 2023)."""

from collections.abc import Callable

import torch
from torch import Tensor

from luq.quantization.grid import Grid


def descend(
    weight: Tensor, hessian: Tensor, codes: Tensor, grid: Grid, size: int, block: int
) -> None:
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

            def ahead(
                n: int, i: int = i, start: int = start, end: int = end, errors: Tensor = errors
            ) -> Tensor:
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
