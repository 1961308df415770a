"""What a tier takes for linears of any shape, from slices that are really quantized.

| symbol | in the code | meaning |
|---|---|---|
| r | `rows` | rows of a linear (its outputs) |
| c | `columns` | its columns (its inputs) |
| F(c) | `factor_seconds` | seconds for what linears of one Hessian share: its factor above all |
| T(r, c) | `seconds` | seconds for all else |
| S(r, c) | `bytes` | bytes of its packed buffers |

F = f2 c^2 + f3 c^3: reading a matrix, and factorizing it. T = t1 c + t2 r c + t3 r c^2: columns are
rounded one after the other (a launch or more for each), and the error of each goes to those that
come. S = s1 r + s2 c + s3 r c: scales of rows; masks of columns; codes and scales of groups. The
coefficients are those that fit three slices, two heights of one width and another width; none of a
time is below zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from luq.config import TierConfig
from luq.formats import kernels
from luq.formats.base import PackedWeight
from luq.formats.layer_file import layer_content
from luq.models.stopwatch import fitted, least_seconds, timed
from luq.quantization.methods import make_quantizer

# Heights and widths of slices, at most. Some methods try things out on 512 rows at first.
ROWS = 512, 1536
COLUMNS = 512, 2048
TOKENS = 256  # behind the Hessian of a slice: damping has to cope with few, as on real layers
STD = 0.02
LINEAR = "mlp.up_proj"  # a linear's name, as long as others
SPREAD = -1.0  # log10 of the scale of the least column of inputs; that of the largest is 0

Shape = tuple[int, int]  # out, in


class Slice(NamedTuple):
    """What one slice took."""

    rows: int
    columns: int
    seconds: float
    unpack_seconds: float
    bytes: int
    header_bytes: int


@dataclass(frozen=True)
class TierCost:
    """A tier's time and size for linears of any shape."""

    time: tuple[float, ...]  # t1 .. t3
    factor: tuple[float, ...]  # f2, f3
    size: tuple[float, ...]  # s1 .. s3
    unpack_seconds: float  # per weight
    header_bytes: int  # of a file, for each linear

    def seconds(self, rows: int, columns: int) -> float:
        """T(r, c)."""
        return float(np.dot(self.time, _time_terms(rows, columns)))

    def factor_seconds(self, columns: int) -> float:
        """F(c)."""
        return float(np.dot(self.factor, _factor_terms(columns)))

    def bytes(self, rows: int, columns: int) -> float:
        """S(r, c)."""
        return float(np.dot(self.size, _size_terms(rows, columns)))


def _time_terms(rows: int, columns: int) -> tuple[float, ...]:
    return (float(columns), float(rows * columns), float(rows * columns**2))


def _factor_terms(columns: int) -> tuple[float, ...]:
    return (float(columns**2), float(columns**3))


def _size_terms(rows: int, columns: int) -> tuple[float, ...]:
    return (float(rows), float(columns), float(rows * columns))


def tier_cost(tier: TierConfig, shapes: Sequence[Shape], device: torch.device) -> TierCost:
    """Quantize slices of a tier, and say what it takes for any shape.

    Args:
        tier: that is asked about.
        shapes: of the linears; slices are no larger than these.
        device: where linears are quantized.
    """
    low, high = _sizes([rows for rows, _ in shapes], ROWS)
    narrow, wide = _sizes([columns for _, columns in shapes], COLUMNS)
    if tier.refusal(narrow) is not None:  # a half of what it takes
        narrow = wide
    slices: list[Slice] = []
    factor_seconds: dict[int, float] = {}
    for columns, heights in ((narrow, (low, high)), (wide, (low,))):
        bench = _Bench(tier, columns, device)
        slices += [bench.slice(rows) for rows in heights]
        factor_seconds[columns] = bench.factor_seconds
    widths = list(factor_seconds)
    unpacked = slices[1]
    return TierCost(
        fitted([_time_terms(*part[:2]) for part in slices], [part.seconds for part in slices]),
        fitted([_factor_terms(width) for width in widths], list(factor_seconds.values())),
        _size(slices),
        unpacked.unpack_seconds / (unpacked.rows * unpacked.columns),
        slices[-1].header_bytes,
    )


def _sizes(sizes: Sequence[int], most: tuple[int, int]) -> tuple[int, int]:
    """A small and a large size of slices, of linears of these sizes; halves where all are alike."""
    small = min(*sizes, most[0])
    large = min(max(sizes), most[1])
    return (small, large) if small < large else (large // 2, large)


class _Bench:
    """Quantizes slices of one width, with one Hessian.

    Args:
        tier: the tier.
        columns: of the slices.
        device: where they are quantized.
    """

    def __init__(self, tier: TierConfig, columns: int, device: torch.device) -> None:
        self.columns = columns
        self.device = device
        self.factor_seconds = 0.0
        self._quantizer = make_quantizer(tier)
        self._hessian = None if tier.data_free else _hessian(columns, device)
        self._is_factorized = tier.data_free

    def slice(self, rows: int) -> Slice:
        """Quantize a slice; the first one twice, to tell what the Hessian's factor took."""
        generator = torch.Generator().manual_seed(1)
        weight = (torch.randn(rows, self.columns, generator=generator) * STD).to(self.device)
        if not self._is_factorized:
            _, first_seconds = self._quantized(weight)
        packed, seconds = self._quantized(weight)
        if not self._is_factorized:
            self.factor_seconds = max(0.0, first_seconds - seconds)
            self._is_factorized = True
        unpacking = least_seconds(lambda: kernels.unpack(packed, torch.float32), self.device)
        size = sum(packed.ledger().values())
        header_bytes = len(layer_content({LINEAR: packed})) - size
        return Slice(rows, self.columns, seconds, unpacking, size, header_bytes)

    def _quantized(self, weight: Tensor) -> tuple[PackedWeight, float]:
        with timed(self.device) as spent:
            packed = self._quantizer.quantize(weight, self._hessian)
        return packed, spent.seconds


def _hessian(columns: int, device: torch.device) -> Float[Tensor, "in in"]:
    """H = 2 X^T X / tokens of random inputs, some columns of which are larger than others."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, SPREAD, columns)
    inputs = (torch.randn(TOKENS, columns, generator=generator) * scales).to(device)
    return 2 * inputs.T @ inputs / TOKENS


def _size(slices: Sequence[Slice]) -> tuple[float, ...]:
    """s1 .. s3."""
    matrix = np.array([_size_terms(part.rows, part.columns) for part in slices], dtype=float)
    scale = matrix.max(0)
    sizes = np.array([part.bytes for part in slices])
    solved = np.linalg.lstsq(matrix / scale, sizes, rcond=None)[0] / scale
    return tuple(float(number) for number in solved)
