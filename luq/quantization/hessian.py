"""The Hessian of a linear's output error, H = 2 X^T X / tokens, and its preparation for GPTQ.

Every token counts the same (the reference implementation counts sequences), unless weights say otherwise. fp32 [in, in].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from luq.errors import DataError

T = TypeVar("T")


class HessianSum:
    """Accumulates 2 X^T X over batches of inputs and divides by the tokens seen, or by their weights."""

    def __init__(self, columns: int, device: torch.device | str = "cpu"):
        self.total = torch.zeros(columns, columns, device=device)
        self.tokens = 0.0

    def add(self, inputs: Tensor, weights: Tensor | None = None) -> None:
        """Add inputs [..., in], each token as often as `weights` [tokens] says."""
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        if weights is not None:
            rows = rows * weights.to(rows).sqrt()[:, None]
        self.total.addmm_(rows.T, rows, alpha=2.0)
        self.tokens += rows.shape[0] if weights is None else float(weights.sum())

    def mean(self) -> Tensor:
        """The Hessian; the sum is used up."""
        return self.total.div_(self.tokens or 1)


def check(hessian: Tensor, columns: int, where: str = "") -> None:
    """Raise a DataError that names the layer if the Hessian cannot be one."""
    place = f" of {where}" if where else ""
    if hessian.shape != (columns, columns):
        raise DataError(
            f"the Hessian{place} is {tuple(hessian.shape)}, the weight has {columns} columns"
        )
    strips = [slice(start, start + STRIP) for start in range(0, columns, STRIP)]
    if not all(bool(torch.isfinite(hessian[strip]).all()) for strip in strips):
        raise DataError(
            f"the Hessian{place} holds NaN or infinity: look for bad activations in the calibration set"
        )
    largest = max((float(hessian[strip].abs().max()) for strip in strips), default=0.0)
    if not all(
        torch.allclose(hessian[s], hessian[:, s].T, rtol=1e-3, atol=1e-5 * largest) for s in strips
    ):
        raise DataError(f"the Hessian{place} is not symmetric")


STRIP = 1024  # rows of a Hessian that are copied or compared at a time


@dataclass(frozen=True)
class Factor:
    """`upper`: U with U^T U = (H + damping)^-1 [in, in]; `dead`: columns no token ever used [in]."""

    upper: Tensor
    dead: Tensor
    damping: float


def factorize(hessian: Tensor, damping: float, order: Tensor | None = None) -> Factor:
    """Upper Cholesky factor of the inverse damped Hessian; the damping is raised until it exists.

    `damping` is a share of the mean diagonal (GPTQ's percdamp). Dead columns get a diagonal of one. `order` [in]: of the columns
    in the factor. Of a wide layer each matrix is over a gigabyte: there is only one beside the Hessian.
    """
    size = len(hessian)
    order = torch.arange(size, device=hessian.device) if order is None else order
    dead = (torch.diagonal(hessian) <= 0)[order]
    # of the columns in reverse, H = L L^T: back in order, L is an upper triangle A with H = A A^T, and its inverse is the factor
    back = order.flip(0)
    while damping <= 1.0:
        work = torch.empty_like(
            hessian
        ).T  # column by column, as LAPACK wants it, which then works in place
        for start in range(0, size, STRIP):
            work[start : start + STRIP] = hessian[back[start : start + STRIP]][:, back]
        diagonal = torch.diagonal(work)
        diagonal[dead.flip(0)] = 1.0
        diagonal.add_(damping * float(diagonal.mean()))
        info = torch.empty((), dtype=torch.int32, device=work.device)
        torch.linalg.cholesky_ex(work, out=(work, info))
        if int(info) == 0:
            invert(work)
            _turn(work)
            if bool(torch.isfinite(work.sum())):
                return Factor(work, dead, damping)
        del work, diagonal
        damping = max(2 * damping, 1e-4)
    raise DataError(
        "the Hessian cannot be inverted even with damping 1.0: the calibration set has too few tokens"
    )


def invert(lower: Tensor) -> None:
    """Invert a lower triangle [n, n] in place, from its last block of columns to its first.

    A block's part below the diagonal becomes -(the inverse below and right of it) x (the part) x (the inverse of its triangle).
    """
    size = len(lower)
    for start in reversed(range(0, size, STRIP)):
        end = min(start + STRIP, size)
        eye = torch.eye(end - start, device=lower.device, dtype=lower.dtype)
        lower[start:end, start:end] = torch.linalg.solve_triangular(
            lower[start:end, start:end], eye, upper=False
        )
        below = -(lower[end:, start:end] @ lower[start:end, start:end])
        for row in range(end, size, STRIP):
            last = min(row + STRIP, size)
            lower[row:last, start:end] = lower[row:last, end:last] @ below[: last - end]


def _turn(matrix: Tensor) -> None:
    """Reverse rows and columns in place."""
    size = len(matrix)
    for start in range(0, size // 2, STRIP):
        end = min(start + STRIP, size // 2)
        top = matrix[start:end].clone()
        matrix[start:end] = matrix[size - end : size - start].flip(0, 1)
        matrix[size - end : size - start] = top.flip(0, 1)
    if size % 2:
        matrix[size // 2] = matrix[size // 2].flip(0)


class Shared:
    """What was last made of a Hessian: linears that share an input come one after another and share it."""

    def __init__(self) -> None:
        self.hessian: Tensor | None = None
        self.made: Any = None

    def of(self, hessian: Tensor, make: Callable[[], T]) -> T:
        """`make()`, unless it was made of this very Hessian before; what was made of another is let go first."""
        if self.hessian is not hessian:
            self.hessian = self.made = None
            self.made = make()
            self.hessian = hessian
        found: T = self.made
        return found


def effective_rank(hessian: Tensor) -> float:
    """exp of the spectral entropy of H: how many directions the inputs really use, in [1, in]."""
    values = torch.linalg.eigvalsh(hessian.double()).clamp_min(0)
    p = values / values.sum()
    return float(torch.exp(-(p * torch.log(p.clamp_min(1e-30))).sum()))
