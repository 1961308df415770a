"""Trellis-coded quantization: 1 to 4 bits a weight and a scale per strip of rows, nothing else.

| symbol | in the code | meaning |
|---|---|---|
| T | `target` | the weight, rotated on both sides and filled up to whole tiles |
| H | `metric` | the Hessian, rotated and filled up likewise |
| U | `upper` | upper triangle with U^T U = (H + damping)^-1 |
| V | `values` | table entries that the codes stand for |
| s | `scale` | of a strip |

Weight and Hessian are rotated, so that weights look Gaussian. In each strip of 16 rows the codes of
all columns are one stream of bits; the number that a weight stands for is an entry of a fixed table
of 2^window Gaussian values, at the last `window` bits of the stream. Tiles of 16 x 16 weights are
searched by Viterbi's algorithm one after the other, each from where the one before it ended, and
GPTQ's error feedback runs between them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from luq.config import TrellisTier
from luq.formats.incoherence import rotate_
from luq.formats.kernels import searches
from luq.formats.trellis import (
    TILE,
    TrellisWeight,
    from_tiles,
    pack_stream,
    states_of,
    table,
    to_tiles,
)
from luq.quantization import hessian as hessians
from luq.quantization.hessian import Factor, HessianCache

SEED = 1  # of the rotations
# The scale of the table over the standard deviation of the weights, by bits. Found by trying gains
# on Gaussian weights without feedback (window 12), not published: each gives an error within half a
# percent of the least one.
GAIN = {1: 0.88, 2: 1.02, 3: 1.05, 4: 1.07}
# Factors on it that are tried for each weight, for feedback changes what is to be coded. Not
# published; the steps are about as wide as the minimum over the gain is flat.
TRIED = (1.0, 0.9, 1.1)
SAMPLE = 32  # strips with which they are tried, and that are worked on at a time
BLOCK = 512  # columns whose feedback reaches all later ones at once
# Least and largest spread of a strip: with GAIN and TRIED, scales stay normal fp16 numbers.
LEAST_SPREAD = 2.0**-14
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
        window = self.tier.window
        checked = hessians.checked(hessian, columns)
        target = hessians.without_dead_columns(weight, checked)
        rotate_(target, SEED)
        rotate_(target.T, SEED + 1)
        target = _padded(target, rows, columns)
        metric, factor = self.rotated.get(checked, lambda: self._rotate(checked))
        encoder = Encoder(target, metric, factor.upper, _spreads(target, rows, columns), self.tier)
        # strips know nothing of each other: of many, some choose the spread
        stride = -(-encoder.strips // SAMPLE)
        encoded = encoder.best(slice(None, None, stride))
        if stride > 1:
            encoded = encoder.encode(slice(None), encoded.factor)
        buffers = {
            "codes": pack_stream(encoded.codes.cpu(), bits).to(weight.device),
            "scales": encoded.scale.half(),
        }
        return TrellisWeight(
            buffers, (rows, columns), bits=bits, window=window, seed=SEED, damping=factor.damping
        )

    def _rotate(self, hessian: Float[Tensor, "in in"]) -> Rotated:
        """The Hessian of rotated inputs. Columns that fill up tiles have its mean diagonal."""
        columns = len(hessian)
        metric = hessian.clone()
        rotate_(metric, SEED)
        rotate_(metric.T, SEED)
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


class Encoded(NamedTuple):
    """Codes and scales of some strips, and what came of them.

    `error` is tr(D H D^T) of D = sV - T, without its part tr(T H T^T) that no code can change;
    `factor` is the factor on the gain.
    """

    error: float
    codes: UInt8[Tensor, "strips weights"]
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
        scale = self.spread[strips] * GAIN[self.tier.bits] * factor
        codes, values = encode_tiles(target, self.upper, scale, self.tier.bits, self.tier.window)
        scale, error = best_scales(target, values, self.metric, scale)
        return Encoded(error, codes, scale, factor)


def search(
    values: Float[Tensor, "sequences length"],
    states: Int[Tensor, " sequences"],
    bits: int,
    window: int,
) -> tuple[UInt8[Tensor, "sequences length"], Int[Tensor, " sequences"]]:
    """The codes of least squared error for each sequence from its state, and the last states."""
    numbers = table(window)
    compiled = searches.trellis(values, numbers, states, bits, window)
    if compiled is not None:
        return compiled
    return searches.viterbi(values, numbers, states, bits, window)


def encode_tiles(
    target: Float[Tensor, "rows columns"],
    upper: Float[Tensor, "columns columns"],
    scale: Float[Tensor, " strips"],
    bits: int,
    window: int,
) -> tuple[UInt8[Tensor, "strips weights"], Float[Tensor, "rows columns"]]:
    """Code tile by tile with error feedback: GPTQ's algorithm 1 with tiles in place of columns.

    Args:
        target: T.
        upper: U.
        scale: s, with which the table is searched.
        bits: of a code.
        window: bits of a state.

    Returns:
        Codes in the order of the stream, and the table's values V for them.
    """
    work = target.clone()  # T, compensated for the errors of the tiles before
    values = torch.empty_like(target)
    numbers = table(window).to(target.device)
    columns = target.shape[1]
    row_scale = scale.repeat_interleave(TILE)[:, None]
    states = torch.zeros(len(scale), dtype=torch.int32, device=target.device)
    code_parts = []
    for begin in range(0, columns, BLOCK):
        stop = min(begin + BLOCK, columns)
        errors = torch.empty(len(work), stop - begin, device=work.device)
        for start in range(begin, stop, TILE):
            end = start + TILE
            tile = to_tiles(work[:, start:end].contiguous())
            # The first row of the next tile is searched too, and its codes are dropped: so the
            # tile ends where the stream can go on well. This tile's feedback is not in it.
            lookahead = work[::TILE, end : end + TILE]
            if end == stop:
                # the next block lacks the feedback of this one
                factors = upper[begin:start, end : end + TILE]
                lookahead = lookahead - errors[::TILE, : start - begin] @ factors
            sequence = torch.cat([tile, lookahead], 1) / scale[:, None]
            codes, _ = search(sequence, states, bits, window)
            codes = codes[:, : TILE**2]
            path = states_of(codes, states, bits, window)
            states = path[:, -1]
            code_parts.append(codes)
            tile_values = from_tiles(numbers[path])
            values[:, start:end] = tile_values
            # E = (T - sV) U_tile^-1, for the triangle of U at this tile
            difference = work[:, start:end] - tile_values * row_scale
            triangle = upper[start:end, start:end]
            error = torch.linalg.solve_triangular(triangle, difference, upper=True, left=False)
            errors[:, start - begin : end - begin] = error
            work[:, end:stop] -= error @ upper[start:end, end:stop]
        work[:, stop:] -= errors @ upper[begin:stop, stop:]
    return torch.cat(code_parts, 1), values


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
