"""Four values for each row of a block of columns, as good as they can be under their importance.

They are fitted, and then columns are rounded to the nearest of them.

Lloyd's algorithm (k-means in one dimension) on sorted rows: a cluster is a run of neighbours, so
its mass and total are differences of prefix sums, and a turn looks at no weight again. Where there
is a compiler that is C (`luq_four_levels` of cpu.c), bit for bit what torch computes more slowly.

| symbol | in the code | meaning |
|---|---|---|
| w_j | `values` | weights of a row, rising |
| h_j | `importance` | what the squared error of column j counts |
| v_k | `levels` | the four values, rising |
| n_k | `mass` | sum of h_j over the weights nearest to v_k |
| t_k | `total` | sum of h_j w_j over them |
"""

import ctypes
import logging
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from luq.formats.kernels import searches
from luq.formats.kernels.cpu import library
from luq.quantization.feedback import Ahead

TURNS = 12  # on Gaussian rows of 128 more turns lower the error by less than 0.03 %
# In standard deviations; the best four values of a normal distribution are +-0.453 and +-1.510
# (Max, Quantizing for minimum distortion, 1960).
START = (-1.5, -0.45, 0.45, 1.5)
TINY = 1e-30  # avoids 0 / 0 where nothing has any importance
SHORT = 3  # turns of the case by which the compiled search is checked

log = logging.getLogger(__name__)


class Fit(NamedTuple):
    """Four values for each row, rising, and each row's error sum_j h_j (w_j - nearest value)^2."""

    levels: Float[Tensor, "out 4"]
    error: Float[Tensor, " out"]


class SortedRows:
    """Rows sorted once, from which four values are fitted for any choice of their columns.

    Args:
        weight: one block of columns [out, n].
    """

    def __init__(self, weight: Float[Tensor, "out n"]) -> None:
        compiled = searches.sorted_rows(weight)
        self.values, self.order = compiled or weight.sort(dim=1, stable=True)

    def fit(self, importance: Float[Tensor, " n"], paired: bool, turns: int = TURNS) -> Fit:
        """Fit four values to every row: a local minimum of its error.

        Args:
            importance: of the columns; those of importance zero are left out.
            paired: only values c - u, c - v, c + v, c + u, which two binary terms can say.
            turns: of Lloyd's algorithm.
        """
        kernels = library()
        if kernels is not None and _compiled_agrees(kernels):
            compiled = self._compiled(importance, paired, turns)
            if compiled is not None:
                return compiled
        return self._fit(importance, paired, turns)

    def _compiled(self, importance: Float[Tensor, " n"], paired: bool, turns: int) -> Fit | None:
        start = torch.tensor(START, dtype=torch.double)
        fitted = searches.four_levels(
            self.values, self.order, importance.float(), start, paired, turns
        )
        return None if fitted is None else Fit(fitted.levels.float(), fitted.errors)

    def _fit(self, importance: Float[Tensor, " n"], paired: bool, turns: int) -> Fit:
        """As `fit`, in torch."""
        h = importance.double()[self.order]
        w = self.values.double()
        # prefix sums of h, h w and h w^2 [out, n + 1]
        masses = _prefix_sums(h)
        totals = _prefix_sums(h * w)
        squares = _prefix_sums(h * w.square())
        mass_of_row = masses[:, -1:].clamp_min(TINY)
        mean = totals[:, -1:] / mass_of_row
        variance = squares[:, -1:] / mass_of_row - mean.square()
        start = torch.tensor(START, device=mean.device, dtype=mean.dtype)
        levels = mean + variance.clamp_min(0).sqrt() * start
        sums = torch.stack([masses, totals])
        for _ in range(turns):
            mass, total = _clusters(self.values, sums, levels)
            if paired:
                levels = _best_pairs(levels, mass, total)
            else:
                # v_k = t_k / n_k; a value that is nearest to nothing stays
                levels = torch.where(mass > 0, total / mass, levels).sort(1).values
        mass, total = _clusters(self.values, sums, levels)
        # sum_j h_j (w_j - v)^2 = sum h w^2 + sum_k (n_k v_k^2 - 2 t_k v_k)
        error = squares[:, -1] + (mass * levels.square() - 2 * total * levels).sum(1)
        return Fit(levels.float(), error.clamp_min(0))


class NearestValue:
    """Rounds columns to the nearest of the four values of their row and block.

    Args:
        values: for each block, row and kind of column (salient or not).
        salient: which columns are salient.
        order: which column comes when in the sweep.
        size: columns of a block.
    """

    def __init__(
        self,
        values: Float[Tensor, "blocks out 2 4"],
        salient: Bool[Tensor, " in"],
        order: Int64[Tensor, " in"],
        size: int,
    ) -> None:
        # [blocks, kinds, 4, out]: a row's values for all rows side by side
        self.values = values.permute(0, 2, 3, 1).contiguous()
        self.kinds: list[int] = salient.int().tolist()
        self.order: list[int] = order.tolist()
        self.size = size

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """As in `Rounding`; a code is the index of a value."""
        j = self.order[index]
        values = self.values[j // self.size, self.kinds[j]]
        compiled = searches.nearest_of_four(column, values)
        if compiled is not None:
            return compiled
        code = (column - values).abs().argmin(0)
        nearest = values.gather(0, code[None])[0]
        return code.to(column), nearest


@lru_cache(maxsize=1)
def _compiled_agrees(kernels: ctypes.CDLL) -> bool:
    """Whether the fit that was compiled here is torch's on a small case; a line if not."""
    generator = torch.Generator().manual_seed(0)
    rows = SortedRows(torch.randn(3, 40, generator=generator))
    importance = torch.rand(40, generator=generator)
    for paired in (False, True):
        compiled = rows._compiled(importance, paired, SHORT)
        plain = rows._fit(importance, paired, SHORT)
        if compiled is None or not all(
            torch.allclose(mine, torchs, rtol=1e-4, atol=1e-6)
            for mine, torchs in zip(compiled, plain, strict=True)
        ):
            log.warning(
                "the compiled search of four values is not torch's: torch searches, which is slower"
            )
            return False
    return True


def _prefix_sums(x: Float[Tensor, "out n"]) -> Float[Tensor, "out n+1"]:
    """Sums of the first 0, 1, .. n numbers of each row."""
    return pad(x.cumsum(1), (1, 0))


def _clusters(
    values: Float[Tensor, "out n"],
    sums: Float[Tensor, "2 out n+1"],
    levels: Float[Tensor, "out 4"],
) -> tuple[Float[Tensor, "out 4"], Float[Tensor, "out 4"]]:
    """n_k and t_k of the weights that are nearest to each level, from prefix sums of h and h w."""
    # clusters end midway between levels
    middle = ((levels[:, 1:] + levels[:, :-1]) / 2).to(values.dtype)
    ends = torch.searchsorted(values, middle)
    edges = pad(pad(ends, (1, 0)), (0, 1), value=values.shape[1])
    mass, total = sums.gather(2, edges.expand(2, -1, -1)).diff(dim=2)
    return mass, total


def _best_pairs(
    levels: Float[Tensor, "out 4"], mass: Float[Tensor, "out 4"], total: Float[Tensor, "out 4"]
) -> Float[Tensor, "out 4"]:
    """c - u, c - v, c + v, c + u by least squares for the clusters.

    u and v are the best ones for the old c, and then c for them.
    """
    centre = (levels[:, :1] + levels[:, 3:]) / 2
    # the sums of the clusters of w - c; a distance from c is a mean over two clusters
    centred = total - mass * centre
    u = _distance(centred, mass, 0, 3)
    v = _distance(centred, mass, 1, 2)
    # both are positive, rounding apart: clusters 0 and 1 lie below the centre, 2 and 3 above it
    outer = torch.maximum(u, v).clamp_min(0)
    inner = torch.minimum(u, v).clamp_min(0)
    offset = torch.stack([-outer, -inner, inner, outer], 1)
    mass_of_row = mass.sum(1, keepdim=True).clamp_min(TINY)
    centre = (total - mass * offset).sum(1, keepdim=True) / mass_of_row
    return centre + offset


def _distance(
    centred: Float[Tensor, "out 4"], mass: Float[Tensor, "out 4"], low: int, high: int
) -> Float[Tensor, " out"]:
    """The best distance from the centre of the levels `low` below it and `high` above it."""
    both_masses = (mass[:, low] + mass[:, high]).clamp_min(TINY)
    return (centred[:, high] - centred[:, low]) / both_masses
