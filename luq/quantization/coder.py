"""A weight into codes on a grid, with error feedback, whatever the grid."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from luq.quantization.feedback import Ahead, CodeGrid, descend, sweep_columns
from luq.quantization.hessian import UnitFactor

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


@dataclass(frozen=True)
class SweptRows(Generic[G]):
    """Codes of a weight's rows as a sweep leaves them, their grid, and each row's error under the
    damped Hessian.
    """

    codes: Float[Tensor, "in out"]
    grid: G
    error: Float[Tensor, " out"]

    def or_better(self, other: "SweptRows[G]") -> "SweptRows[G]":
        """Of each row the one with the less error; no row knows of others."""
        is_better = other.error < self.error
        return SweptRows(
            torch.where(is_better, other.codes, self.codes),
            self.grid.with_rows(is_better, other.grid),
            torch.where(is_better, other.error, self.error),
        )


class GridRounding(Generic[G]):
    """Rounds columns to a grid.

    Args:
        grid: of all groups.
        group: in which group each column of the sweep lies.
    """

    def __init__(self, grid: G, group: Int64[Tensor, " in"]) -> None:
        self.grid = grid
        self.group = group
        self.places: list[int] = group.tolist()  # the same, where the sweep is steered

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """As in `Rounding`."""
        group = self.places[index]
        codes = self.grid.encode_columns(column, group)
        return codes, self.grid.decode_columns(codes, group)


@dataclass(frozen=True)
class Coder:
    """One weight on its way to codes.

    Args:
        target: W, with zeros in columns that no token used.
        hessian: H.
        factor: of H, in the order of the sweep.
        order: of the columns in the sweep.
        group_size: columns of a group of the grid; the last one may have fewer.
        block: columns whose errors reach the later ones at once.
        descents: passes of coordinate descent after the sweep.
    """

    target: Float[Tensor, "out in"]
    hessian: Float[Tensor, "in in"]
    factor: UnitFactor
    order: Int64[Tensor, " in"]
    group_size: int
    block: int
    descents: int

    @cached_property
    def columns(self) -> Float[Tensor, "in out"]:
        """The weight, a column a row."""
        return self.target.T.contiguous()

    @property
    def group(self) -> Int64[Tensor, " in"]:
        """In which group each column lies."""
        return torch.arange(len(self.order), device=self.order.device) // self.group_size

    def swept(self, grid: G) -> SweptRows[G]:
        """All rows on a grid that stays as it is."""
        return self.swept_by(GridRounding(grid, self.group[self.order]))

    def swept_by(self, rounding: GridRounding[G]) -> SweptRows[G]:
        """All rows as a rounding codes them, which may change its grid on the way."""
        work = self.columns.index_select(0, self.order)
        swept = sweep_columns(work, self.factor, self.block, rounding)
        codes = work.index_copy_(0, self.order, swept.codes)  # what was there is used up
        return SweptRows(codes, rounding.grid, swept.error)

    def coded(self, candidates: Iterable[SweptRows[G]]) -> CodedRows[G]:
        """Of each row the candidate with the least error under the damped Hessian, descended."""
        rows: SweptRows[G] | None = None
        for candidate in candidates:
            rows = candidate if rows is None else rows.or_better(candidate)
        if rows is None:
            raise ValueError("there are no candidates")
        if self.descents > 0:
            descend(
                self.columns,
                self.hessian,
                rows.codes,
                rows.grid,
                self.group_size,
                self.descents,
            )
        return CodedRows(rows.codes.T.contiguous(), rows.grid)
