"""The nearest points of llama.cpp's codebooks, signs and moves and all.

| symbol | in the code | meaning |
|---|---|---|
| w | `weights` | eight weights of a row |
| h | `importance` | what the squared error of each of the eight counts |
| s | `step` | of the row there |
| q | | a point: the whole numbers that the eight may mean in steps |

The error sum h (w - s q)^2 is sum h w^2 - s (2 sum h w q - s sum h q^2): the nearest point has the
largest score 2 sum h w q - s sum h q^2, which is one product of (h w, s) and a matrix.
"""

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from luq.formats.gguf_codebooks import UNIT, CodebookType, MovedType, SignedType

CHUNK = 2**19  # scores at a time: they stay in a processor's cache
STRIDE = 64  # scores of which the largest is found at once

# `units` are places in rows: in each of them eight weights, all rows of the same importance.
Units = Float32[Tensor, "units rows 8"]
ByUnit = Float32[Tensor, "units rows"]
Importance = Float32[Tensor, "units 8"]
Rows = Float32[Tensor, "n 8"]  # of all units
Scores = Float32[Tensor, "n points"]


class Search(ABC):
    """Finds nearest points of one type."""

    points: Float32[Tensor, "points point"]  # what is listed
    moves: tuple[int, ...] = (0,)  # what a whole sub-block may be moved by, in codes

    def nearest(self, weights: Units, importance: Importance, step: ByUnit, move: ByUnit) -> Units:
        """The nearest points.

        Args:
            weights: w.
            importance: h.
            step: s, not negative; where it is 0 any point is the nearest.
            move: of the sub-block, one of `moves`.

        Returns:
            q.
        """
        units, rows, _ = weights.shape
        rows_at_once = max(1, min(rows, CHUNK // len(self.points)))
        units_at_once = max(1, CHUNK // len(self.points) // rows_at_once)
        points = torch.empty_like(weights)
        for first in range(0, units, units_at_once):
            some = slice(first, first + units_at_once)
            for start in range(0, rows, rows_at_once):
                part = (some, slice(start, start + rows_at_once))
                found = self._nearest(weights[part], importance[some], step[part], move[part])
                points[part] = found.view_as(points[part])
        return points

    @abstractmethod
    def _nearest(self, weights: Units, importance: Importance, step: ByUnit, move: ByUnit) -> Rows:
        """The same of some units and rows."""


class MovedSearch(Search):
    """Of IQ1: all points are listed, those that are moved up and those that are moved down."""

    def __init__(self, kind: MovedType) -> None:
        codes = 8 * kind.points.float()
        is_free = kind.moved == UNIT
        self.points = torch.cat([codes + 1, codes - 1]) if is_free else codes
        self.moves = (0,) if is_free else (1, -1)

    def _nearest(self, weights: Units, importance: Importance, step: ByUnit, move: ByUnit) -> Rows:
        points = self.points.to(weights.device)
        # w - s (q + m) = (w - s m) - s q for a move m
        rest = weights - (step * move)[:, :, None]
        scores = _scores(rest * importance[:, None], step, points, importance)
        return points[_largest(scores)] + move.flatten()[:, None]


class SignedSearch(Search):
    """Of IQ2 and IQ3: magnitudes are listed, the signs are those of the weights.

    Where an even number of signs has to be minus and is not, the sign of one weight is another
    one: which one, and of which point then, is found with the magnitudes.
    """

    def __init__(self, kind: SignedType) -> None:
        self.points = kind.points.float()
        self.is_even = kind.is_even

    def _nearest(self, weights: Units, importance: Importance, step: ByUnit, move: ByUnit) -> Rows:
        points = self.points.to(weights.device)
        width = points.shape[1]
        weighed = weights.abs() * importance[:, None]
        parts: list[Tensor] = []  # of the eight, in points of `width`
        scores: list[Tensor] = []
        for start in range(0, UNIT, width):
            part = slice(start, start + width)
            scores.append(_scores(weighed[:, :, part], step, points, importance[:, part]))
            parts.append(points[_largest(scores[-1])])
        found = torch.cat(parts, 1)
        is_minus = (weights < 0).reshape(-1, UNIT)
        signs = torch.where(is_minus, -1.0, 1.0)
        if self.is_even:
            odd = (is_minus.sum(1) % 2 == 1).nonzero()[:, 0]
            odd_scores = [score[odd] for score in scores]
            flipped = self._with_one_flipped(weighed.reshape(-1, UNIT)[odd], odd_scores)
            found[odd] = flipped.abs()
            signs[odd] *= torch.sign(flipped)
        return found * signs

    def _with_one_flipped(self, weighed: Rows, scores: list[Tensor]) -> Rows:
        """The points of most score with one number of the wrong sign.

        A wrong sign of the number p takes 4 h |w| p from the score.

        Args:
            weighed: h |w|.
            scores: of all points with right signs, for each part of the eight.

        Returns:
            The points, with minus where the sign is wrong.
        """
        points = self.points.to(weighed.device)
        width = points.shape[1]
        whole: list[Tensor] = []  # points with right signs
        turned: list[Tensor] = []  # points with a wrong one
        losses: list[Tensor] = []  # of score, of a wrong one
        for place, score in enumerate(scores):
            part = weighed[:, place * width : (place + 1) * width]
            penalty = torch.full_like(score, torch.inf)
            for column in range(width):
                torch.minimum(penalty, part[:, column, None] * points[:, column], out=penalty)
            with_wrong = score - 4 * penalty
            best = _largest(score)
            best_wrong = _largest(with_wrong)
            chosen = points[best_wrong]
            wrong = (part * chosen).argmin(1, keepdim=True)
            whole.append(points[best])
            turned.append(chosen.scatter(1, wrong, -chosen.gather(1, wrong)))
            losses.append(_at(score, best) - _at(with_wrong, best_wrong))
        cheapest = torch.stack(losses).argmin(0)
        mixed: list[Tensor] = []
        for place in range(len(scores)):
            is_turned: Bool[Tensor, "n 1"] = (cheapest == place)[:, None]
            mixed.append(torch.where(is_turned, turned[place], whole[place]))
        return torch.cat(mixed, 1)


@lru_cache
def search_of(kind: CodebookType) -> Search:
    """The search of a type."""
    if isinstance(kind, MovedType):
        return MovedSearch(kind)
    assert isinstance(kind, SignedType)
    return SignedSearch(kind)


def _scores(
    weighed: Float32[Tensor, "units rows point"],
    step: ByUnit,
    points: Float32[Tensor, "points point"],
    importance: Float32[Tensor, "units point"],
) -> Scores:
    """2 sum h w q - s sum h q^2, of h w and s."""
    squares = importance @ points.square().T
    slopes = (2 * points.T).expand(len(importance), -1, -1)
    matrices = torch.cat([slopes, -squares[:, None]], 1)
    return (torch.cat([weighed, step[:, :, None]], 2) @ matrices).flatten(0, 1)


def _largest(scores: Scores) -> Int64[Tensor, " n"]:
    """The place of the largest score, in two steps, for torch finds values faster than places."""
    strides = scores.view(len(scores), scores.shape[1] // STRIDE, STRIDE)
    stride = strides.amax(2).argmax(1)
    rows = torch.arange(len(scores), device=scores.device)
    return STRIDE * stride + strides[rows, stride].argmax(1)


def _at(scores: Scores, places: Int64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    return scores.gather(1, places[:, None])[:, 0]
