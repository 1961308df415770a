"""Trellis-coded quantization: 1 to 4 bits a weight, also fractions, and a scale per strip of rows.

| symbol | in the code | meaning |
|---|---|---|
| T | `target` | the weight, rotated on both sides and filled up to whole tiles |
| H | `metric` | the Hessian, rotated and filled up likewise |
| U | `upper` | upper triangle with U^T U = (H + damping)^-1 |
| V | `values` | numbers that the states stand for |
| s | `scale` | of a strip |

Weight and Hessian are rotated, so that weights look Gaussian. In each strip of 16 rows the codes of
all columns are one stream of bits; the number that a weight stands for is computed from the last
`window` bits of the stream, so that those of all states are nearly Gaussian. At 1.25 bits every
fourth weight shifts two new bits in and the others one; all weights have windows of the same
length, so that none is worse. Tiles of 16 x 16 weights are searched by Viterbi's algorithm one
after the other, each from where the one before it ended, and GPTQ's error feedback runs between
them.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from luq.config import TrellisTier
from luq.formats.incoherence import OVERLAPPING, overlaps, rotate_
from luq.formats.kernels import searches
from luq.formats.trellis import (
    COMPUTED,
    TILE,
    TrellisWeight,
    all_numbers,
    from_tiles,
    stream_of,
    to_tiles,
)
from luq.quantization import hessian as hessians
from luq.quantization.hessian import Factor, HessianCache

SEED = 1  # of the rotations
# The scale of the numbers over the standard deviation of the weights, at whole bits; between them
# it is interpolated. Found by `python benchmarks/trellis_codes.py`: each gives an error within half
# a percent of the least one.
GAIN = {1: 0.76, 2: 0.885, 3: 0.935, 4: 0.985}
# Factors on it that are tried for each weight, for feedback changes what is to be coded. Not
# published; the steps are about as wide as the minimum over the gain is flat.
TRIED = (1.0, 0.9, 1.1)
SAMPLE = 32  # strips with which they are tried, and that are worked on at a time
BLOCK = 512  # columns whose feedback reaches all later ones at once
# Least and largest spread of a strip: with GAIN and TRIED, scales stay normal fp16 numbers.
LEAST_SPREAD = 2.0**-13
LARGEST_SPREAD = 2.0**15


class Rotated(NamedTuple):
    """A Hessian as the rotated weight meets it, and its factor."""

    metric: Float[Tensor, "columns columns"]
    factor: Factor


class Trellis:
    """Rotate, search tile by tile with feedback, scale under the Hessian."""

    def __init__(self, tier: TrellisTier) -> None:
        self.tier = tier
        self.rotated: HessianCache[Rotated] = HessianCache()

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> TrellisWeight:
        """As in `Quantizer`."""
        rows, columns = weight.shape
        bits = self.tier.bits
        checked = hessians.checked(hessian, columns)
        target = hessians.without_dead_columns(weight, checked)
        rotate_(target, SEED, OVERLAPPING)
        rotate_(target.T, SEED + 1, OVERLAPPING)
        target = _padded(target, rows, columns)
        metric, factor = self.rotated.get(checked, lambda: self._rotate(checked))
        encoder = Encoder(target, metric, factor.upper, _spreads(target, rows, columns), self.tier)
        # strips know nothing of each other: of many, some choose the spread
        stride = -(-encoder.strips // SAMPLE)
        encoded = encoder.best(slice(None, None, stride))
        if stride > 1:
            encoded = encoder.encode(slice(None), encoded.factor)
        buffers = {
            "codes": stream_of(encoded.states, bits).to(weight.device),
            "scales": encoded.scale.half(),
        }
        # said only where it is not what it was
        meta = {"rotation": OVERLAPPING} if overlaps(rows) or overlaps(columns) else {}
        return TrellisWeight(
            buffers,
            (rows, columns),
            bits=int(bits) if bits.is_integer() else bits,
            window=self.tier.window,
            seed=SEED,
            code=COMPUTED,
            damping=factor.damping,
            **meta,
        )

    def _rotate(self, hessian: Float[Tensor, "in in"]) -> Rotated:
        """The Hessian of rotated inputs. Columns that fill up tiles have its mean diagonal."""
        columns = len(hessian)
        metric = hessian.clone()
        rotate_(metric, SEED, OVERLAPPING)
        rotate_(metric.T, SEED, OVERLAPPING)
        metric = _padded(metric, columns, columns)
        diagonal = torch.diagonal(metric)
        if len(metric) > columns:
            diagonal[columns:] = diagonal[:columns].mean()
        return Rotated(metric, hessians.factorize(metric, self.tier.damping))


def _padded(x: Float[Tensor, "rows columns"], rows: int, columns: int) -> Tensor:
    """Filled up with zeros to whole tiles."""
    if rows % TILE == 0 and columns % TILE == 0:
        return x
    return torch.nn.functional.pad(x, (0, -columns % TILE, 0, -rows % TILE))


def _spreads(
    target: Float[Tensor, "rows columns"], rows: int, columns: int
) -> Float[Tensor, " strips"]:
    """Standard deviation of each strip's weights, without those that fill it up."""
    strips = len(target) // TILE
    counts = torch.full((strips,), TILE * columns)
    counts[-1] -= (len(target) - rows) * columns
    energy = target.view(strips, -1).square().sum(1)
    return (energy / counts.to(energy)).sqrt().clamp(LEAST_SPREAD, LARGEST_SPREAD)


def gain(bits: float) -> float:
    """The scale of the numbers over the standard deviation of the weights."""
    return float(np.interp(bits, list(GAIN), list(GAIN.values())))


class Encoded(NamedTuple):
    """States and scales of some strips, and what came of them.

    `error` is tr(D H D^T) of D = sV - T, without its part tr(T H T^T) that no code can change;
    `factor` is the factor on the gain.
    """

    error: float
    states: Int32[Tensor, "strips weights"]
    scale: Float[Tensor, " strips"]
    factor: float


class Encoder:
    """Finds codes and scales for the strips of one weight.

    Args:
        target: T, whole tiles.
        metric: H.
        upper: U.
        spread: standard deviation of each strip.
        tier: bits and window.
    """

    def __init__(
        self,
        target: Float[Tensor, "rows columns"],
        metric: Float[Tensor, "columns columns"],
        upper: Float[Tensor, "columns columns"],
        spread: Float[Tensor, " strips"],
        tier: TrellisTier,
    ) -> None:
        self.target = target
        self.metric = metric
        self.upper = upper
        self.spread = spread
        self.tier = tier

    @property
    def strips(self) -> int:
        return len(self.spread)

    def best(self, strips: slice) -> Encoded:
        """Some strips with the factor on the gain that gives them the least error."""
        tried = [self.encode(strips, factor) for factor in TRIED]
        return min(tried, key=lambda encoded: encoded.error)

    def encode(self, strips: slice, factor: float) -> Encoded:
        """Some strips with one factor on the gain."""
        target = self.target.view(self.strips, TILE, -1)[strips].flatten(0, 1)
        scale = self.spread[strips] * gain(self.tier.bits) * factor
        states, values = encode_tiles(target, self.upper, scale, self.tier.bits, self.tier.window)
        scale, error = best_scales(target, values, self.metric, scale)
        return Encoded(error, states, scale, factor)


def search(
    values: Float[Tensor, "sequences length"],
    states: Int[Tensor, " sequences"],
    bits: float,
    window: int,
) -> Int32[Tensor, "sequences length"]:
    """The states of least squared error for each sequence, from the state before it."""
    numbers = all_numbers(window)
    compiled = searches.trellis(values, numbers, states, bits, window)
    if compiled is not None:
        return compiled
    return searches.viterbi(values, numbers, states, bits, window)


def encode_tiles(
    target: Float[Tensor, "rows columns"],
    upper: Float[Tensor, "columns columns"],
    scale: Float[Tensor, " strips"],
    bits: float,
    window: int,
) -> tuple[Int32[Tensor, "strips weights"], Float[Tensor, "rows columns"]]:
    """Code tile by tile with error feedback: GPTQ's algorithm 1 with tiles in place of columns.

    Args:
        target: T.
        upper: U.
        scale: s, with which the numbers are searched.
        bits: of a code.
        window: bits of a state.

    Returns:
        States in the order of the stream, and the numbers V that they stand for.
    """
    work = target.clone()  # T, compensated for the errors of the tiles before
    values = torch.empty_like(target)
    numbers = all_numbers(window).to(target.device)
    columns = target.shape[1]
    row_scale = scale.repeat_interleave(TILE)[:, None]
    states = torch.zeros(len(scale), dtype=torch.int32, device=target.device)
    state_parts = []
    for begin in range(0, columns, BLOCK):
        stop = min(begin + BLOCK, columns)
        errors = torch.empty(len(work), stop - begin, device=work.device)
        for start in range(begin, stop, TILE):
            end = start + TILE
            tile = to_tiles(work[:, start:end].contiguous())
            # The first row of the next tile is searched too, and dropped: so the
            # tile ends where the stream can go on well. This tile's feedback is not in it.
            lookahead = work[::TILE, end : end + TILE]
            if end == stop:
                # the next block lacks the feedback of this one
                factors = upper[begin:start, end : end + TILE]
                lookahead = lookahead - errors[::TILE, : start - begin] @ factors
            sequence = torch.cat([tile, lookahead], 1) / scale[:, None]
            path = search(sequence, states, bits, window)[:, : TILE**2]
            states = path[:, -1]
            state_parts.append(path)
            tile_values = from_tiles(numbers[path])
            values[:, start:end] = tile_values
            # E = (T - sV) U_tile^-1, for the triangle of U at this tile
            difference = work[:, start:end] - tile_values * row_scale
            triangle = upper[start:end, start:end]
            error = torch.linalg.solve_triangular(triangle, difference, upper=True, left=False)
            errors[:, start - begin : end - begin] = error
            work[:, end:stop] -= error @ upper[start:end, end:stop]
        work[:, stop:] -= errors @ upper[begin:stop, stop:]
    return torch.cat(state_parts, 1), values


def best_scales(
    target: Float[Tensor, "rows columns"],
    values: Float[Tensor, "rows columns"],
    metric: Float[Tensor, "columns columns"],
    scale: Float[Tensor, " strips"],
) -> tuple[Float[Tensor, " strips"], float]:
    """The scale of each strip with the least error for its codes, as it is stored; and the error.

    tr((T - sV) H (T - sV)^T) has its minimum at s = tr(V H T^T) / tr(V H V^T). Of the error the
    part tr(T H T^T) is left out. A strip of nothing keeps its `scale`.
    """
    cross = torch.empty_like(scale)  # tr(V H T^T)
    square = torch.empty_like(scale)  # tr(V H V^T)
    strips = len(scale)
    # some strips at a time: a wide weight should not be copied as a whole
    for start in range(0, strips, SAMPLE):
        stop = min(start + SAMPLE, strips)
        rows = slice(TILE * start, TILE * stop)
        weighted = values[rows] @ metric
        cross[start:stop] = (weighted * target[rows]).view(stop - start, -1).sum(1)
        square[start:stop] = (weighted * values[rows]).view(stop - start, -1).sum(1)
    scale = torch.where(square > 0, cross / square, scale).half().float()
    error = (scale.double() * (scale * square - 2 * cross)).sum()
    return scale, float(error)
