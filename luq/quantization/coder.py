"""A weight into codes on a grid, with error feedback, whatever the grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from luq.quantization.feedback import Ahead, CodeGrid, descend, sweep

G = TypeVar("G", bound="RowGrid")


@runtime_checkable
class RowGrid(CodeGrid, Protocol):
    """A grid of which each row is one of its own."""

    def with_rows(self: G, is_other: Bool[Tensor, " out"], other: G) -> G:
        """The same with some rows of another one."""
        ...


@dataclass(frozen=True)
class CodedRows(Generic[G]):
    """Codes of a weight's rows, and their grid."""

    codes: Float[Tensor, "out in"]
    grid: G


class GridRounding(Generic[G]):
    """Rounds columns to a grid.

    Args:
        grid: of all groups.
        group: in which group each column of the sweep lies.
    """

    def __init__(self, grid: G, group: Int64[Tensor, " in"]) -> None:
        self.grid = grid
        self.group = group

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """As in `Rounding`."""
        group = self.group[index : index + 1]
        codes = self.grid.encode(column[:, None], group)
        return codes[:, 0], self.grid.decode(codes, group)[:, 0]


@dataclass(frozen=True)
class Coder:
    """One weight on its way to codes.

    Args:
        target: W, with zeros in columns that no token used.
        hessian: H.
        upper: U (`luq.quantization.hessian`), in the order of the sweep.
        order: of the columns in the sweep.
        group_size: columns of a group of the grid; the last one may have fewer.
        block: columns whose errors reach the later ones at once.
        descents: passes of coordinate descent after the sweep.
    """

    target: Float[Tensor, "out in"]
    hessian: Float[Tensor, "in in"]
    upper: Float[Tensor, "in in"]
    order: Int64[Tensor, " in"]
    group_size: int
    block: int
    descents: int

    @property
    def group(self) -> Int64[Tensor, " in"]:
        """In which group each column lies."""
        return torch.arange(len(self.order), device=self.order.device) // self.group_size

    def coded(self, grid: G) -> CodedRows[G]:
        """All rows on a grid that stays as it is."""
        return self.coded_by(GridRounding(grid, self.group[self.order]))

    def coded_by(self, rounding: GridRounding[G]) -> CodedRows[G]:
        """All rows as a rounding codes them, which may change its grid on the way."""
        swept = sweep(self.target[:, self.order], self.upper, self.block, rounding)
        codes = torch.empty_like(swept)
        codes[:, self.order] = swept
        for _ in range(self.descents):
            descend(self.target, self.hessian, codes, rounding.grid, self.group_size, self.block)
        return CodedRows(codes, rounding.grid)

    def best(self, candidates: Sequence[CodedRows[G]]) -> CodedRows[G]:
        """Of each row the one with the least error under the Hessian."""
        rows = candidates[0]
        for others in candidates[1:]:
            rows = self.better(rows, others)
        return rows

    def better(self, rows: CodedRows[G], others: CodedRows[G]) -> CodedRows[G]:
        """Of each row the one with the less error under the Hessian; no row knows of others."""
        is_better = self.errors(others) < self.errors(rows)
        codes = torch.where(is_better[:, None], others.codes, rows.codes)
        return CodedRows(codes, rows.grid.with_rows(is_better, others.grid))

    def errors(self, rows: CodedRows[G]) -> Float[Tensor, " out"]:
        """D_r H D_r^T of every row r of D = Q - W."""
        difference = rows.grid.decode(rows.codes, self.group) - self.target
        return ((difference @ self.hessian) * difference).sum(1)
