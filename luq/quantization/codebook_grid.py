"""Grids of llama.cpp's codebooks: what codes mean there, and the search for a block's numbers.

| symbol | in the code | meaning |
|---|---|---|
| w, q | `weight`, `codes` | a weight, and what it means in steps, a whole number |
| d, a | `scale`, `sub_scales` | of a block, and of a sub-block |
| s | `step` | s = d a of a sub-block: a code means s q |
| h | `importance` | what the squared error of a column counts |
| x, y | `cross`, `square` | sum h w q and sum h q^2 of the nearest q for some s |

The error of a sub-block is sum h w^2 - s (2 x - s y). First s is searched as if it were any number:
some multiples of the sub-block's spread are tried, each with the s = x / y that fits its codes
best. Then d is the one with which the largest s of a block has the largest a, and each s the
nearest a; and in turn d is fitted to all codes of the block, and a moves to its neighbours where
that is better. Where sub-blocks are moved as a whole (IQ1_S), each s is tried with both moves.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from luq.formats.gguf import GgufWeight
from luq.formats.gguf_codebooks import UNIT, CodebookNumbers, CodebookType
from luq.quantization.block_grid import LARGEST
from luq.quantization.codebook_search import search_of
from luq.quantization.coder import GridRounding
from luq.quantization.feedback import Ahead

ROWS = 256  # that are searched at a time
ROUNDS = 3  # in which the numbers of blocks are fitted in turn
# The spread of s q over the spread of weights, at most and at least, in what is tried first.
WIDEST = 1.5
NARROWEST = 0.6

BySub = Float32[Tensor, "rows subs"]


@dataclass(frozen=True)
class CodebookGrid:
    """The stored numbers of all blocks; codes are what weights mean in steps.

    Args:
        kind: the type of blocks.
        scale: d.
        sub_scales: a.
        moves: what a sub-block is moved by, in codes; 0 where each point has its own move, or none.
    """

    kind: CodebookType
    scale: Float32[Tensor, "out blocks"]
    sub_scales: Float32[Tensor, "out subs"]
    moves: Float32[Tensor, "out subs"]

    @cached_property
    def step(self) -> Float32[Tensor, "out subs"]:
        """s."""
        return self.scale.repeat_interleave(self.kind.subs, 1) * self.sub_scales

    def nearest(
        self,
        weight: Float[Tensor, "out n"],
        importance: Float[Tensor, " n"],
        group: Int64[Tensor, " n"],
    ) -> Float[Tensor, "out n"]:
        """Codes of columns with the least weighed error.

        Args:
            weight: of whole units of eight columns.
            importance: h.
            group: in which sub-block each column lies.
        """
        subs = group[::UNIT]
        units = weight.view(len(weight), -1, UNIT).transpose(0, 1)
        step = self.step[:, subs].T
        codes = search_of(self.kind).nearest(
            units, importance.view(-1, UNIT), step, self.moves[:, subs].T
        )
        return codes.transpose(0, 1).reshape(weight.shape)

    def encode(
        self, weight: Float[Tensor, "out n"], group: Int64[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """Nearest codes of columns that lie in the sub-blocks `group`: of whole units of eight."""
        return self.nearest(weight, torch.ones_like(weight[0]), group)

    def decode(
        self, codes: Float[Tensor, "out n"], group: Int64[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """What codes of columns in the sub-blocks `group` mean."""
        return codes * self.step[:, group]

    def encode_columns(self, columns: Float[Tensor, "n out"], group: int) -> Tensor:
        """Nearest codes of columns of one sub-block, of whole units of eight; a column is a row."""
        groups = torch.full((len(columns),), group, device=columns.device)
        return self.encode(columns.T, groups).T

    def decode_columns(self, codes: Float[Tensor, "*n out"], group: int) -> Tensor:
        """What codes of columns of one sub-block mean."""
        return codes * self.step[:, group]

    def of_rows(self, rows: slice) -> "CodebookGrid":
        """The grid of some rows."""
        return CodebookGrid(self.kind, self.scale[rows], self.sub_scales[rows], self.moves[rows])

    def with_rows(self, is_other: Bool[Tensor, " out"], other: "CodebookGrid") -> "CodebookGrid":
        """The same with some rows of another grid of the same type."""
        mask = is_other[:, None]
        return CodebookGrid(
            self.kind,
            torch.where(mask, other.scale, self.scale),
            torch.where(mask, other.sub_scales, self.sub_scales),
            torch.where(mask, other.moves, self.moves),
        )

    def pack(self, codes: Float[Tensor, "out in"], damping: float) -> GgufWeight:
        """Codes and this grid as they are stored.

        Args:
            codes: points of the codebook.
            damping: of the Hessian; for the record.
        """
        kind = self.kind
        numbers = CodebookNumbers(
            codes.to(torch.int8).view(-1, kind.weights),
            self.scale.flatten().half(),
            self.sub_scales.view(-1, kind.subs),
        )
        rows, columns = codes.shape
        buffers = {"blocks": kind.write(numbers).view(rows, -1)}
        return GgufWeight(buffers, (rows, columns), type=kind.name, damping=damping)


class UnitRounding(GridRounding[CodebookGrid]):
    """Rounds eight columns at a time, when the first of them comes.

    What the errors of the first columns would do to the others is left out in the choice; they are
    passed on as they are.

    Args:
        grid: of all sub-blocks.
        group: in which sub-block each column of the sweep lies; eight after another are a unit.
        importance: h, in the order of the sweep.
    """

    def __init__(
        self, grid: CodebookGrid, group: Int64[Tensor, " in"], importance: Float[Tensor, " in"]
    ) -> None:
        super().__init__(grid, group)
        self.importance = importance
        self.codes = importance.new_empty(0, UNIT)

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """As in `Rounding`."""
        place = index % UNIT
        if place == 0:
            unit = slice(index, index + UNIT)
            self.codes = self.grid.nearest(ahead(UNIT), self.importance[unit], self.group[unit])
        codes = self.codes[:, place]
        return codes, codes * self.grid.step[:, self.places[index]]


def fit_codebook(
    kind: CodebookType,
    weight: Float[Tensor, "out in"],
    importance: Float[Tensor, " in"],
    steps: int,
) -> CodebookGrid:
    """Fit the numbers of all blocks of a weight.

    Args:
        kind: the type of blocks; rows are whole blocks.
        weight: W.
        importance: h; where a whole sub-block has none, its columns count alike.
        steps: multiples of a sub-block's spread that are tried; 0: one, and nothing is fitted.
    """
    grouped = importance.view(-1, kind.group)
    grouped = torch.where(grouped.sum(1, keepdim=True) > 0, grouped, 1.0)
    parts: list[CodebookGrid] = []
    for start in range(0, len(weight), ROWS):
        search = _Fit(kind, weight[start : start + ROWS].float(), grouped.view(-1, UNIT))
        parts.append(search.run(steps))
    return CodebookGrid(
        kind,
        torch.cat([part.scale for part in parts]),
        torch.cat([part.sub_scales for part in parts]),
        torch.cat([part.moves for part in parts]),
    )


class _Coded(NamedTuple):
    """What came of some s: the error without sum h w^2, x, y, and the moves."""

    error: BySub
    cross: BySub
    square: BySub
    moves: BySub

    def or_better(self, other: "_Coded", is_better: Bool[Tensor, "rows subs"]) -> "_Coded":
        """With another one in some sub-blocks."""
        pairs = zip(other, self, strict=True)
        return _Coded(*(torch.where(is_better, new, old) for new, old in pairs))


@dataclass(frozen=True)
class _Fit:
    """The search for the numbers of some rows.

    Args:
        kind: the type of blocks.
        weight: w.
        importance: h, by unit.
    """

    kind: CodebookType
    weight: Float32[Tensor, "rows in"]
    importance: Float32[Tensor, "units 8"]

    def run(self, steps: int) -> CodebookGrid:
        """Search, with so many multiples of the spread."""
        grid = self._in_two_levels(self._steps(steps))
        coded = self._coded(grid.step)
        grid = replace(grid, moves=coded.moves)
        if steps == 0:
            return grid
        for _ in range(ROUNDS):
            grid, coded = self._better_blocks(grid, coded)
            grid, coded = self._better_subs(grid, coded)
        return grid

    def _steps(self, steps: int) -> BySub:
        """s of each sub-block, as any number."""
        columns = self.importance.flatten()
        weighed = self._by_sub(self.weight.square() * columns)
        spread = (weighed / self._by_sub(columns[None])).sqrt()
        search = search_of(self.kind)
        of_points = self._spread_of_points(search.moves)
        best = spread / of_points
        if steps == 0:
            return best
        least = torch.full_like(best, torch.inf)
        for factor in torch.linspace(WIDEST, NARROWEST, steps).tolist():
            step = spread * (factor / of_points)
            coded = self._coded(step)
            fitted = torch.where(coded.square > 0, coded.cross / coded.square, 0.0)
            fitted = fitted.clamp_min(0)
            error = fitted * (fitted * coded.square - 2 * coded.cross)
            is_better = error < least
            best = torch.where(is_better, fitted, best)
            least = torch.where(is_better, error, least)
        return best

    def _spread_of_points(self, moves: tuple[int, ...]) -> float:
        """The root mean square of q, as if all points were as frequent."""
        points = search_of(self.kind).points + moves[0]
        return float(points.square().mean().sqrt())

    def _by_sub(self, by_column: Float32[Tensor, "n in"]) -> Float32[Tensor, "n subs"]:
        return by_column.view(len(by_column), -1, self.kind.group).sum(2)

    def _coded(self, step: BySub) -> _Coded:
        """The nearest codes for some s, with the better of the moves."""
        best: _Coded | None = None
        for move in search_of(self.kind).moves:
            coded = self._coded_with(step, torch.full_like(step, move))
            best = coded if best is None else best.or_better(coded, coded.error < best.error)
        assert best is not None  # there is one move at least
        return best

    def _coded_with(self, step: BySub, moves: BySub) -> _Coded:
        def of_units(by_sub: BySub) -> Float32[Tensor, "units rows"]:
            return by_sub.repeat_interleave(self.kind.group // UNIT, 1).T

        units = self.weight.view(len(self.weight), -1, UNIT).transpose(0, 1)
        search = search_of(self.kind)
        codes = search.nearest(units, self.importance, of_units(step), of_units(moves))
        weighed = (codes * self.importance[:, None]).transpose(0, 1)
        by_column = self.weight.view_as(weighed)
        cross = self._by_sub((weighed * by_column).flatten(1))
        square = self._by_sub((weighed * codes.transpose(0, 1)).flatten(1))
        return _Coded(step * (step * square - 2 * cross), cross, square, moves)

    def _in_two_levels(self, step: BySub) -> CodebookGrid:
        """s = d a with the nearest a."""
        multiples = self.kind.multiples.to(step.device)
        by_block = step.view(len(step), -1, self.kind.subs)
        scale = _fp16(by_block.amax(2) / multiples[-1])
        unit = scale.repeat_interleave(self.kind.subs, 1)
        middles = (multiples[1:] + multiples[:-1]) / 2
        place = torch.bucketize(step / torch.where(unit > 0, unit, torch.inf), middles)
        return CodebookGrid(self.kind, scale, multiples[place], torch.zeros_like(step))

    def _better_blocks(self, grid: CodebookGrid, coded: _Coded) -> tuple[CodebookGrid, _Coded]:
        """d fitted to the codes of each block, where that is better."""
        cross = self._by_block(grid.sub_scales * coded.cross)
        square = self._by_block(grid.sub_scales.square() * coded.square)
        scale = _fp16(torch.where(square > 0, cross / square, 0.0).clamp_min(0))
        new = self._coded(replace(grid, scale=scale).step)
        is_better = self._by_block(new.error) < self._by_block(coded.error)
        of_subs = is_better.repeat_interleave(self.kind.subs, 1)
        coded = coded.or_better(new, of_subs)
        scale = torch.where(is_better, scale, grid.scale)
        return replace(grid, scale=scale, moves=coded.moves), coded

    def _by_block(self, by_sub: BySub) -> Float32[Tensor, "rows blocks"]:
        return by_sub.view(len(by_sub), -1, self.kind.subs).sum(2)

    def _better_subs(self, grid: CodebookGrid, coded: _Coded) -> tuple[CodebookGrid, _Coded]:
        """a one place higher or lower, where that is better."""
        multiples = self.kind.multiples
        apart = float(multiples[1] - multiples[0])
        best = grid.sub_scales
        for change in (-apart, apart):
            tried = (grid.sub_scales + change).clamp(float(multiples[0]), float(multiples[-1]))
            new = self._coded(replace(grid, sub_scales=tried).step)
            is_better = new.error < coded.error
            best = torch.where(is_better, tried, best)
            coded = coded.or_better(new, is_better)
        return replace(grid, sub_scales=best, moves=coded.moves), coded


def _fp16(x: Tensor) -> Tensor:
    """As fp16 has it, in fp32."""
    return x.clamp_max(LARGEST).half().float()
