"""Grids of llama.cpp's blocks: what codes mean there, and the search for a block's numbers.

| symbol | in the code | meaning |
|---|---|---|
| w | `weight` | a weight |
| q, z | `codes`, `zero` | its code, and the code that means zero |
| d, d' | `scale`, `shift` | fp16 numbers of a block; without shifts d' = 0 |
| a, b | `sub_scales`, `sub_shifts` | whole numbers of a sub-block; of small blocks a = 1, b = -1 |
| s, o | `step`, `offset` | s = d a and o = -d' b: a code means s (q - z) + o |
| h | `importance` | what the squared error of a column counts |

Small blocks take the s and o of least error sum h (w - s (q - z) - o)^2 among ranges that are
shrunk step by step, each with the s and o that fit its codes best (weighted least squares). In
super-blocks the s and o of sub-blocks become whole numbers times d and d'; then in turn d and d'
are fitted to all codes of the super-block, and a and b move by one where that is better.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from luq.formats.gguf import GgufWeight
from luq.formats.gguf_blocks import BlockType, Numbers

SMALLEST_RANGE = 0.4  # as in `luq.quantization.grid`
ROUNDS = 3  # in which the numbers of super-blocks are fitted in turn
CHUNK = 2**18  # weights that are searched at a time: they stay in a processor's cache
LARGEST = 65504.0  # the largest fp16 number
SINGULAR = 1e-6  # share of a determinant's largest part below which it is none

Grouped = Float32[Tensor, "out groups size"]
ByGroup = Float32[Tensor, "out groups"]


@dataclass(frozen=True)
class BlockGrid:
    """The stored numbers of all blocks, as fp32 numbers; codes are 0 to `kind.levels` - 1."""

    kind: BlockType
    scale: Float32[Tensor, "out blocks"]
    shift: Float32[Tensor, "out blocks"]
    sub_scales: ByGroup
    sub_shifts: ByGroup

    @cached_property
    def step(self) -> ByGroup:
        """s."""
        return self._of_groups(self.scale) * self.sub_scales

    @cached_property
    def offset(self) -> ByGroup:
        """o."""
        return -(self._of_groups(self.shift) * self.sub_shifts)

    def _of_groups(self, by_block: Float32[Tensor, "out blocks"]) -> ByGroup:
        return by_block.repeat_interleave(self.kind.subs, 1)

    def encode(
        self, weight: Float[Tensor, "out n"], group: Int64[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """Nearest codes of columns that lie in the groups `group`."""
        return nearest_codes(self.kind, weight, self.step[:, group], self.offset[:, group])

    def decode(
        self, codes: Float[Tensor, "out n"], group: Int64[Tensor, " n"]
    ) -> Float[Tensor, "out n"]:
        """What codes of columns in the groups `group` mean."""
        means = self.kind.means(codes.to(torch.uint8))
        return means * self.step[:, group] + self.offset[:, group]

    def encode_columns(self, columns: Float[Tensor, "*n out"], group: int) -> Tensor:
        """Nearest codes of columns of one group; a column is a row here."""
        return nearest_codes(self.kind, columns, self._steps[group], self._offsets[group])

    def decode_columns(self, codes: Float[Tensor, "*n out"], group: int) -> Tensor:
        """What codes of columns of one group mean."""
        means = self.kind.means(codes.to(torch.uint8))
        return means * self._steps[group] + self._offsets[group]

    @cached_property
    def _steps(self) -> Float32[Tensor, "groups out"]:
        return self.step.T.contiguous()

    @cached_property
    def _offsets(self) -> Float32[Tensor, "groups out"]:
        return self.offset.T.contiguous()

    def of_rows(self, rows: slice) -> "BlockGrid":
        """The grid of some rows."""
        return BlockGrid(
            self.kind,
            self.scale[rows],
            self.shift[rows],
            self.sub_scales[rows],
            self.sub_shifts[rows],
        )

    def with_rows(self, is_other: Bool[Tensor, " out"], other: "BlockGrid") -> "BlockGrid":
        """The same with some rows of another grid of the same type."""
        mask = is_other[:, None]
        return BlockGrid(
            self.kind,
            torch.where(mask, other.scale, self.scale),
            torch.where(mask, other.shift, self.shift),
            torch.where(mask, other.sub_scales, self.sub_scales),
            torch.where(mask, other.sub_shifts, self.sub_shifts),
        )

    def pack(self, codes: Float[Tensor, "out in"], damping: float) -> GgufWeight:
        """Codes and this grid as they are stored.

        Args:
            codes: whole numbers in [0, levels).
            damping: of the Hessian; for the record.
        """
        kind = self.kind
        numbers = Numbers(
            codes.to(torch.uint8).view(-1, kind.weights),
            self.scale.flatten().half(),
            None if kind.shift_at is None else self.shift.flatten().half(),
            self.sub_scales.view(-1, kind.subs) if kind.sub_scales else None,
            self.sub_shifts.view(-1, kind.subs) if kind.sub_shifts else None,
        )
        rows, columns = codes.shape
        buffers = {"blocks": kind.write(numbers).view(rows, -1)}
        return GgufWeight(buffers, (rows, columns), type=kind.name, damping=damping)


def nearest_codes(kind: BlockType, weight: Tensor, step: Tensor, offset: Tensor) -> Tensor:
    """Codes whose meaning is nearest, elementwise; shapes broadcast. Of a step 0: any."""
    # w / inf = 0: the code that means zero
    divisor = torch.where(step == 0, torch.inf, step)
    scaled = (weight - offset) / divisor
    if kind.table is None:
        return torch.clamp(torch.round(scaled) + kind.zero, 0, kind.levels - 1)
    table = torch.tensor(kind.table, dtype=torch.float32, device=weight.device)
    middles = (table[1:] + table[:-1]) / 2
    return torch.bucketize(scaled, middles).float()


def fit(
    kind: BlockType,
    weight: Float[Tensor, "out in"],
    importance: Float[Tensor, " in"],
    steps: int,
) -> BlockGrid:
    """Fit the numbers of all blocks of a weight.

    Args:
        kind: the type of blocks; rows are whole blocks.
        weight: W.
        importance: h; where a whole group has none, its columns count alike.
        steps: shrink factors in (0.4, 1] that are tried; 0: ranges span all weights, and nothing is
            fitted.
    """
    rows, columns = weight.shape
    grouped = importance.view(1, -1, kind.group)
    grouped = torch.where(grouped.sum(-1, keepdim=True) > 0, grouped, 1.0)
    rows_at_once = max(1, CHUNK // columns)
    parts: list[BlockGrid] = []
    for start in range(0, rows, rows_at_once):
        part = weight[start : start + rows_at_once]
        search = _Search(kind, part.reshape(len(part), -1, kind.group), grouped)
        parts.append(search.run(steps))
    return BlockGrid(
        kind,
        torch.cat([part.scale for part in parts]),
        torch.cat([part.shift for part in parts]),
        torch.cat([part.sub_scales for part in parts]),
        torch.cat([part.sub_shifts for part in parts]),
    )


@dataclass(frozen=True)
class _Search:
    """The search for the numbers of some rows.

    Args:
        kind: the type of blocks.
        weight: w, by sub-block, or by block where there are none.
        importance: h, likewise.
    """

    kind: BlockType
    weight: Grouped
    importance: Float32[Tensor, "1 groups size"]

    def run(self, steps: int) -> BlockGrid:
        """Search, with so many shrink factors."""
        step, offset = self._of_groups(steps)
        if not self.kind.sub_scales:
            ones = torch.ones_like(step)
            return BlockGrid(self.kind, step, offset, ones, -ones)
        grid = self._in_two_levels(step, offset)
        if steps == 0:
            return grid
        error = self._error(grid.step, grid.offset)
        for _ in range(ROUNDS):
            grid, error = self._better_blocks(grid, error)
            grid, error = self._better_subs(grid, error)
        return grid

    def _of_groups(self, steps: int) -> tuple[ByGroup, ByGroup]:
        """s and o of each group, as if both were stored in fp16."""
        best_step, best_offset = _stored(*next(self._ranges(1.0)))
        if steps == 0:
            return best_step, best_offset
        least = self._error(best_step, best_offset)
        for place in range(steps):
            shrink = 1.0 - (1.0 - SMALLEST_RANGE) * place / steps
            for step, offset in self._ranges(shrink):
                codes = nearest_codes(self.kind, self.weight, step[..., None], offset[..., None])
                fitted = _stored(*self._fitted(codes))
                for tried_step, tried_offset in (_stored(step, offset), fitted):
                    error = self._error(tried_step, tried_offset)
                    is_better = error < least
                    best_step = torch.where(is_better, tried_step, best_step)
                    best_offset = torch.where(is_better, tried_offset, best_offset)
                    least = torch.where(is_better, error, least)
        return best_step, best_offset

    def _ranges(self, shrink: float) -> Iterator[tuple[ByGroup, ByGroup]]:
        """s and o of grids over `shrink` times the range of each group.

        Without offsets a grid may be turned round, so that the larger half is for the sign that the
        largest weight has; or not.
        """
        low = self.weight.amin(-1)
        high = self.weight.amax(-1)
        if self.kind.shift_at is not None:
            low = low.clamp_max(0)
            high = high.clamp_min(0)
            yield (high - low) * shrink / (self.kind.levels - 1), low * shrink
            return
        means = self.kind.means(torch.tensor([0, self.kind.levels - 1]))
        extreme = torch.where(-low > high, low, high) * shrink
        for end in means.tolist():
            yield extreme / end, torch.zeros_like(extreme)

    def _fitted(self, codes: Grouped) -> tuple[ByGroup, ByGroup]:
        """The s and o with the least error for some codes."""
        means = self.kind.means(codes.to(torch.uint8))
        weights = self.importance
        square = (weights * means * means).sum(-1)
        cross = (weights * means * self.weight).sum(-1)
        alone = _ratio(cross, square)
        if self.kind.shift_at is None:
            return alone, torch.zeros_like(alone)
        total = weights.sum(-1)
        mean_code = (weights * means).sum(-1) / total
        mean_weight = (weights * self.weight).sum(-1) / total
        spread = square - total * mean_code.square()
        step = _ratio(cross - total * mean_code * mean_weight, spread)
        offset = mean_weight - step * mean_code
        if self.kind.sub_shifts:
            # shifts of sub-blocks are taken away: none is positive
            step = torch.where(offset > 0, alone, step)
            offset = offset.clamp_max(0)
        return step, offset

    def _in_two_levels(self, step: ByGroup, offset: ByGroup) -> BlockGrid:
        """s = d a and o = -d' b with the nearest whole numbers a and b."""
        kind = self.kind
        by_block = step.view(len(step), -1, kind.subs)
        lowest, highest = -kind.sub_zero, kind.sub_levels - 1 - kind.sub_zero
        largest = by_block.abs().amax(-1)
        if lowest < 0:  # the largest one gets the end that is farther from zero
            place = by_block.abs().argmax(-1, keepdim=True)
            largest = by_block.gather(-1, place)[..., 0]
            scale = _fp16(largest / lowest)
        else:
            scale = _fp16(largest / highest)
        sub_scales = _whole(by_block, scale, lowest, highest)
        shifts = -offset.view(len(offset), -1, kind.subs)
        shift = _fp16(shifts.amax(-1) / (kind.sub_levels - 1))
        sub_shifts = _whole(shifts, shift, 0, kind.sub_levels - 1)
        return BlockGrid(kind, scale, shift, sub_scales, sub_shifts)

    def _better_blocks(self, grid: BlockGrid, error: ByGroup) -> tuple[BlockGrid, ByGroup]:
        """d and d' fitted to the codes of each super-block, where that is better."""
        codes = nearest_codes(self.kind, self.weight, grid.step[..., None], grid.offset[..., None])
        slope = self.kind.means(codes.to(torch.uint8)) * grid.sub_scales[..., None]  # of d

        def of_blocks(x: Grouped) -> Float32[Tensor, "out blocks"]:
            return (self.importance * x).view(len(x), -1, self.kind.weights).sum(-1)

        square = of_blocks(slope * slope)
        cross = of_blocks(slope * self.weight)
        # w = d (a q) + d' (-b): two unknowns, or one
        other = (-grid.sub_shifts)[..., None].expand_as(slope)
        other_square = of_blocks(other * other)
        other_cross = of_blocks(other * self.weight)
        mixed = of_blocks(slope * other)
        determinant = square * other_square - mixed.square()
        scale = _ratio(cross * other_square - other_cross * mixed, determinant)
        shift = _ratio(other_cross * square - cross * mixed, determinant)
        is_singular = determinant <= SINGULAR * square * other_square
        scale = _fp16(torch.where(is_singular, _ratio(cross, square), scale))
        shift = _fp16(torch.where(is_singular, grid.shift, shift))
        fitted = replace(grid, scale=scale, shift=shift)
        new = self._error(fitted.step, fitted.offset)
        is_better = self._by_block(new) < self._by_block(error)
        scale = torch.where(is_better, fitted.scale, grid.scale)
        shift = torch.where(is_better, fitted.shift, grid.shift)
        of_groups = is_better.repeat_interleave(self.kind.subs, 1)
        return replace(grid, scale=scale, shift=shift), torch.where(of_groups, new, error)

    def _by_block(self, errors: ByGroup) -> Float32[Tensor, "out blocks"]:
        """Sums over the groups of each block."""
        return errors.view(len(errors), -1, self.kind.subs).sum(-1)

    def _better_subs(self, grid: BlockGrid, error: ByGroup) -> tuple[BlockGrid, ByGroup]:
        """a and b one higher or lower, where that is better."""
        kind = self.kind
        best = grid
        moves = (-1, 0, 1)
        for move, shift_move in product(moves, moves if kind.sub_shifts else (0,)):
            scales = grid.sub_scales + move
            scales = scales.clamp(-kind.sub_zero, kind.sub_levels - 1 - kind.sub_zero)
            shifts = (grid.sub_shifts + shift_move).clamp(0, kind.sub_levels - 1)
            tried = replace(grid, sub_scales=scales, sub_shifts=shifts)
            new = self._error(tried.step, tried.offset)
            is_better = new < error
            best = replace(
                best,
                sub_scales=torch.where(is_better, scales, best.sub_scales),
                sub_shifts=torch.where(is_better, shifts, best.sub_shifts),
            )
            error = torch.where(is_better, new, error)
        return best, error

    def _error(self, step: ByGroup, offset: ByGroup) -> ByGroup:
        """sum h (w - s (q - z) - o)^2 with nearest codes."""
        step = step[..., None]
        offset = offset[..., None]
        codes = nearest_codes(self.kind, self.weight, step, offset)
        values = self.kind.means(codes.to(torch.uint8)) * step + offset
        return ((values - self.weight).square() * self.importance).sum(-1)


def _fp16(x: Tensor) -> Tensor:
    """As fp16 has it, in fp32."""
    return x.clamp(-LARGEST, LARGEST).half().float()


def _stored(step: ByGroup, offset: ByGroup) -> tuple[ByGroup, ByGroup]:
    return _fp16(step), _fp16(offset)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below; 0 where that is none."""
    return torch.where(below > 0, above / below, 0.0)


def _whole(
    numbers: Float32[Tensor, "out blocks subs"],
    unit: Float32[Tensor, "out blocks"],
    lowest: int,
    highest: int,
) -> ByGroup:
    """The nearest whole multiples of a unit."""
    divisor = torch.where(unit == 0, torch.inf, unit)[..., None]
    return torch.round(numbers / divisor).clamp(lowest, highest).flatten(1)
