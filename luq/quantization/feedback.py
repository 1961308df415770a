"""Error feedback: later columns make up for the rounding errors of earlier ones.

GPTQ (Frantar et al., ICLR 2023), section 3 and algorithm 1, without the inverse of the Hessian; B
and a as in `luq.quantization.hessian`.

| symbol | in the code | meaning |
|---|---|---|
| W | `columns` | the weight, a column a row [in, out] |
| W' | `work` | the same, compensated column after column |
| Q | `values` | what its codes mean |
| D | `differences` | D = W - Q, of the columns of a block |
| B, a | `unit`, `scale` | B diag(a)^2 B^T = H + damping, B an upper triangle with ones |

A row's error is D_r (H + damping) D_r^T = |D_r B diag(a)|^2 = sum_j a_j^2 (sum_{i<=j} D_ri B_ij)^2.
Of its term j what comes of the columns before j is known when j is rounded, and Q_:j is best the
nearest to W'_:j = W_:j + sum_{i<j} D_:i B_ij. That is the paper's compensation: with its U = A^-1,
A = B diag(a), it subtracts (W'_:i - Q_:i) U_ij / U_ii. And sum_j a_j^2 (W'_:j - Q_:j)^2, a row's
error, costs no product.

Weights and codes are held transposed: a column is a contiguous row. Within a block, errors reach
the columns beyond a strip of a few at once, so that what a column changes stays in a processor's
cache.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from luq.quantization.hessian import UnitFactor

STRIP = 16  # columns whose changes reach the rest of their block at once
BLOCK = 512  # columns whose slopes descent computes at once: a product of good shape
ROWS = 4096  # rows of a weight on which descent works at a time: it holds some copies of them

# ahead(n): the n columns [out, n] from the current one on, with all errors so far made up for;
# fewer where fewer are left.
Ahead = Callable[[int], Tensor]


@runtime_checkable
class CodeGrid(Protocol):
    """What codes mean, by row and group of columns."""

    def encode_columns(self, columns: Float[Tensor, "*n out"], group: int) -> Tensor:
        """Nearest codes of columns that lie in one group."""
        ...

    def decode_columns(self, codes: Float[Tensor, "*n out"], group: int) -> Tensor:
        """What codes of columns in one group mean."""
        ...

    def of_rows(self, rows: slice) -> "CodeGrid":
        """The grid of some rows."""
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


class Swept(NamedTuple):
    """What a sweep gives: codes, and the error of each row under the damped Hessian."""

    codes: Float[Tensor, "in out"]
    error: Float[Tensor, " out"]


def sweep(
    weight: Float[Tensor, "out in"],
    factor: UnitFactor,
    block: int,
    rounding: Rounding,
) -> Float[Tensor, "out in"]:
    """The codes of `sweep_columns` for a weight that is left as it is."""
    return sweep_columns(weight.T.contiguous(), factor, block, rounding).codes.T.contiguous()


def sweep_columns(
    columns: Float[Tensor, "in out"],
    factor: UnitFactor,
    block: int,
    rounding: Rounding,
) -> Swept:
    """GPTQ's sweep: round column by column, and pass each error on to the columns to come.

    Args:
        columns: W, in the order in which columns are rounded; used up.
        factor: B and a, in the same order.
        block: columns whose errors reach the columns beyond them at once; it changes the result by
            rounding errors only.
        rounding: how a column becomes codes.
    """
    state = _Sweep(columns, factor)
    codes = torch.empty_like(columns)
    error = torch.zeros_like(columns[0])
    for start in range(0, len(columns), block):
        state.begin_block(start, min(start + block, len(columns)))
        for first in range(state.start, state.end, STRIP):
            state.begin_strip(first, min(first + STRIP, state.end))
            for j in range(state.first, state.last):
                state.index = j
                codes[j], values = rounding.round(j, state.work[j], state.ahead)
                state.pass_on(values)
            state.end_strip()
        error += state.end_block()
    return Swept(codes, error)


class _Sweep:
    """A weight on its way through a sweep: at a column of a strip of a block."""

    def __init__(self, columns: Float[Tensor, "in out"], factor: UnitFactor) -> None:
        self.columns = columns  # W; D where the sweep has been
        self.work = columns.clone()
        self.unit = factor.unit
        self.scale = factor.scale
        self.start = 0  # of the block
        self.end = 0
        self.first = 0  # of the strip
        self.last = 0
        self.index = 0
        self.triangle = self.unit[:0, :0]  # B of the block

    def begin_block(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.triangle = self.unit[start:end, start:end].contiguous()

    def begin_strip(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    def pass_on(self, values: Float[Tensor, " out"]) -> None:
        """Pass on the error of the current column inside the strip."""
        j = self.index
        # what is left of W' is the column's own error; D_:j = W_:j - Q_:j
        self.work[j] -= values
        self.columns[j] -= values
        # W'_:,j:last += D_:j B_j,j:last
        factors = self.triangle[j - self.start, j + 1 - self.start : self.last - self.start]
        self.work[j + 1 : self.last].addr_(factors, self.columns[j])

    def end_strip(self) -> None:
        """Pass on all errors of the strip to the rest of the block."""
        self._pass_on(self.first, self.last, self.work[self.last : self.end])

    def end_block(self) -> Float[Tensor, " out"]:
        """Pass on all errors of the block to the columns beyond it.

        Returns:
            Its part of each row's error.
        """
        block = slice(self.start, self.end)
        # W'_:,end: += D_:,block B_block,end:
        self.work[self.end :].addmm_(self.unit[block, self.end :].T, self.columns[block])
        # sum_j a_j^2 (W'_:j - Q_:j)^2
        return (self.work[block] * self.scale[block, None]).square_().sum(0)

    def ahead(self, amount: int) -> Float[Tensor, "out n"]:
        """Up to `amount` columns from the current one on, with all errors so far made up for.

        Made up for by all of them: X = W - Q with sum_{i<=k} D_:i B_ik = 0 for each column k of the
        window. With S what of these sums comes of the columns before it, X B = -S in the window.
        """
        j = self.index
        stop = min(j + amount, len(self.columns))
        window = self.work[j:stop].clone()
        # columns beyond the strip still lack the errors of the strip's columns so far
        within = min(stop, self.end)
        self._pass_on(self.first, j, window[self.last - j : within - j])
        # columns beyond the block those of the block's
        if stop > self.end:
            factors = self.unit[self.start : j, self.end : stop]
            window[self.end - j :] += factors.T @ self.columns[self.start : j]
        before = window - self.columns[j:stop]
        made_up: Tensor = torch.linalg.solve_triangular(
            self.unit[j:stop, j:stop].T, before, upper=False, unitriangular=True
        )
        # of the first column nothing else is made up for: S and its solution are the same there
        return (window + (made_up - before)).T.contiguous()

    def _pass_on(self, first: int, last: int, later: Float[Tensor, "n out"]) -> None:
        """Pass on the errors of some columns to those that follow the strip, in the same block."""
        here = self.last - self.start
        rows = slice(first - self.start, last - self.start)
        factors = self.triangle[rows, here : here + len(later)]
        later.addmm_(factors.T, self.columns[first:last])


def descend(
    columns: Float[Tensor, "in out"],
    hessian: Float[Tensor, "in in"],
    codes: Float[Tensor, "in out"],
    grid: CodeGrid,
    group_size: int,
    passes: int = 1,
    block: int = BLOCK,
) -> None:
    """Passes of coordinate descent on tr(D H D^T) with D = Q - W, in place: there and back in turn.

    As a function of column j of Q, all others held, each row's error is a parabola with its
    minimum at q - G_j / H_jj, where G = D H is half its slope: the nearest code to that is the best
    one. The error never grows. Columns that no token used (H_jj = 0) keep what they mean.

    Args:
        columns: W.
        hessian: H, not damped.
        codes: of Q; changed in place.
        grid: what codes mean.
        group_size: columns of a group of the grid; the last one may have fewer.
        passes: over all columns.
        block: columns whose slopes are computed at once.
    """
    blocks = [slice(s, min(s + block, len(columns))) for s in range(0, len(columns), block)]
    for first in range(0, columns.shape[1], ROWS):
        rows = slice(first, first + ROWS)
        state = _Descent(columns[:, rows], hessian, codes[:, rows], grid.of_rows(rows), group_size)
        for place in range(passes):
            state.go(blocks if place % 2 == 0 else blocks[::-1], is_first=place == 0)


class _Descent:
    """Some rows of a weight on their way through a descent.

    The first pass computes the slopes of a block when it comes to it. These lack what the block
    itself changes then, and what the blocks after it change. The pass back adds both, and what it
    changes in the blocks on its way, and so on: a pass after the first costs half a product.
    """

    def __init__(
        self,
        columns: Float[Tensor, "in out"],
        hessian: Float[Tensor, "in in"],
        codes: Float[Tensor, "in out"],
        grid: CodeGrid,
        group_size: int,
    ) -> None:
        self.columns = columns
        self.hessian = hessian
        self.codes = codes
        self.grid = grid
        self.group_size = group_size
        self.difference = torch.empty_like(columns)  # D
        for group, start in enumerate(range(0, len(columns), group_size)):
            part = slice(start, start + group_size)
            values = grid.decode_columns(codes[part], group)
            torch.sub(values, columns[part], out=self.difference[part])
        self.slopes = torch.empty_like(columns)  # G, as blocks met it last
        self.changes = torch.zeros_like(columns)  # of D, of each block's last visit
        self.unknown = torch.zeros_like(columns)  # changes of D that slopes to come lack

    def go(self, blocks: Sequence[slice], is_first: bool) -> None:
        """One pass over blocks of columns, from one end to the other."""
        begin = blocks[0]
        for part in blocks:
            if is_first:
                torch.mm(self.hessian[part], self.difference, out=self.slopes[part])
            else:
                passed = slice(min(begin.start, part.start), max(begin.stop, part.stop))
                factors = self.hessian[part, passed]
                self.slopes[part].addmm_(factors, self.unknown[passed])
            changes = self._visit(part, self.slopes[part].clone())
            self.unknown[part] += changes
            self.changes[part] = changes
        self.unknown.copy_(self.changes)

    def _visit(self, part: slice, slope: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
        """Give each column of a block its best codes, one after the other.

        Args:
            part: the columns.
            slope: G of them; used up.

        Returns:
            The changes of D.
        """
        metric = self.hessian[part, part].contiguous()
        steepness = metric.diagonal()
        # G / inf = 0: a column that no token used stays
        steepness = torch.where(steepness > 0, steepness, torch.inf)
        changes = torch.empty_like(slope)
        for first in range(0, len(slope), STRIP):
            last = min(first + STRIP, len(slope))
            for j in range(first, last):
                column = part.start + j
                group = column // self.group_size
                values = self.grid.decode_columns(self.codes[column], group)
                minimum = values - slope[j] / steepness[j]
                codes = self.grid.encode_columns(minimum, group)
                new_values = self.grid.decode_columns(codes, group)
                self.codes[column] = codes
                torch.sub(new_values, values, out=changes[j])
                torch.sub(new_values, self.columns[column], out=self.difference[column])
                # G += (change of Q_:j) H_j
                slope[j + 1 : last].addr_(metric[j, j + 1 : last], changes[j])
            strip = slice(first, last)
            slope[last:].addmm_(metric[last:, strip], changes[strip])
        return changes
