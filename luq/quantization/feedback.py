"""Error feedback: later columns make up for the rounding errors of earlier ones.

GPTQ (Frantar et al., ICLR 2023), section 3 and algorithm 1; U as in `luq.quantization.hessian`.

| symbol | in the code | meaning |
|---|---|---|
| W | `weight` | the weight [out, in], compensated column after column |
| Q | `values` | what its codes mean |
| U | `upper` | upper triangle with U^T U = (H + damping)^-1: the paper's Cholesky(H^-1)^T |
| E | `errors` | E_:j = (W_:j - Q_:j) / U_jj, of the columns of a block |
| B | `block` | columns whose errors reach the columns beyond them at once |
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# ahead(n): the n columns [out, n] from the current one on, with all errors so far made up for;
# fewer where fewer are left.
Ahead = Callable[[int], Tensor]


@runtime_checkable
class CodeGrid(Protocol):
    """What codes mean, by row and group of columns."""

    def encode(
        self, weight: Float[Tensor, "out n"], group: Int64[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """Nearest codes of columns that lie in the groups `group`."""
        ...

    def decode(
        self, codes: Float[Tensor, "out n"], group: Int64[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """What codes of columns in the groups `group` mean."""
        ...


@runtime_checkable
class Rounding(Protocol):
    """How the columns of a weight are rounded, one after the other."""

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """Codes of a column, and the values that they mean.

        Args:
            index: place of the column in the sweep.
            column: its weights, with all errors so far made up for.
            ahead: gives the compensated columns from this one on.
        """
        ...


def sweep(
    weight: Float[Tensor, "out in"],
    upper: Float[Tensor, "in in"],
    block: int,
    rounding: Rounding,
) -> Float[Tensor, "out in"]:
    """GPTQ's sweep: round column by column, and pass each error on to the columns to come.

    Args:
        weight: W, in the order in which columns are rounded; left as it is.
        upper: U, in the same order.
        block: B; it changes the result by rounding errors only.
        rounding: how a column becomes codes.

    Returns:
        The codes.
    """
    state = _Sweep(weight, upper)
    columns = weight.shape[1]
    codes = torch.empty_like(state.columns)
    for start in range(0, columns, block):
        state.begin_block(start, min(start + block, columns))
        for j in range(state.start, state.end):
            state.index = j
            codes[j], values = rounding.round(j, state.columns[j], state.ahead)
            state.pass_on(values)
        state.end_block()
    return codes.T.contiguous()


class _Sweep:
    """A weight on its way through a sweep. It is held transposed: a column is a contiguous row."""

    def __init__(self, weight: Float[Tensor, "out in"], upper: Float[Tensor, "in in"]) -> None:
        self.columns = weight.T.contiguous()
        self.upper = upper
        self.start = 0
        self.end = 0
        self.index = 0
        self.errors = self.columns[:0]

    def begin_block(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.errors = torch.empty_like(self.columns[start:end])

    def pass_on(self, values: Float[Tensor, " out"]) -> None:
        """Pass on the error of the current column inside the block."""
        j = self.index
        # E_:j = (W_:j - Q_:j) / U_jj
        error = (self.columns[j] - values) / self.upper[j, j]
        self.errors[j - self.start] = error
        # W_:,j:end -= E_:j U_j,j:end
        later = self.columns[j + 1 : self.end]
        later.addr_(self.upper[j, j + 1 : self.end], error, alpha=-1)

    def end_block(self) -> None:
        """Pass on all errors of the block to the columns beyond it."""
        # W_:,end: -= E U_start:end,end:
        factors = self.upper[self.start : self.end, self.end :]
        self.columns[self.end :].addmm_(factors.T, self.errors, alpha=-1)

    def ahead(self, amount: int) -> Float[Tensor, "out n"]:
        """Up to `amount` columns from the current one on, with all errors so far made up for."""
        j = self.index
        window = self.columns[j : j + amount].clone()
        if j + amount > self.end:
            # columns beyond the block still lack the errors of the block's columns so far
            factors = self.upper[self.start : j, self.end : j + amount]
            window[self.end - j :] -= factors.T @ self.errors[: j - self.start]
        return window.T.contiguous()


def descend(
    weight: Float[Tensor, "out in"],
    hessian: Float[Tensor, "in in"],
    codes: Float[Tensor, "out in"],
    grid: CodeGrid,
    group_size: int,
    block: int,
) -> None:
    """One pass of coordinate descent on tr(D H D^T) with D = Q - W, in place.

    As a function of column j of Q, all others held, each row's error is a parabola with its
    minimum at q - G_j / H_jj, where G = D H is half its slope: the nearest code to that is the best
    one. The error never grows. Columns that no token used (H_jj = 0) keep their codes.

    Args:
        weight: W.
        hessian: H, not damped.
        codes: of Q; changed in place.
        grid: what codes mean.
        group_size: columns of a group of the grid; the last one may have fewer.
        block: columns whose changes reach the slopes beyond them at once.
    """
    columns = weight.shape[1]
    group = torch.arange(columns, device=weight.device) // group_size
    values = grid.decode(codes, group)  # Q as it is before the pass
    slope = (values - weight) @ hessian  # G
    steepness = hessian.diagonal()
    is_used = (steepness > 0).tolist()
    for start in range(0, columns, block):
        end = min(start + block, columns)
        block_slope = slope[:, start:end].clone()
        changes = torch.zeros_like(block_slope)
        for j in range(start, end):
            if not is_used[j]:
                continue
            column = codes[:, j : j + 1]
            column_group = group[j : j + 1]
            minimum = values[:, j] - block_slope[:, j - start] / steepness[j]
            column[:] = grid.encode(minimum[:, None], column_group)
            change = grid.decode(column, column_group)[:, 0] - values[:, j]
            changes[:, j - start] = change
            # G += (change of Q_:j) H_j
            block_slope.addr_(change, hessian[j, start:end])
        slope.addmm_(changes, hessian[start:end])
