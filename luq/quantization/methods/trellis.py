"""Trellis-coded quantization: 1 to 4 bits a weight and a scale per strip of rows, nothing else.

Weight and Hessian are rotated, so that weights look Gaussian. In each strip of 16 rows the codes of all columns are one stream
of bits; the number that a weight stands for is an entry of a fixed table of 2^window Gaussian values, at the last `window` bits
of the stream. Tiles of 16 x 16 weights are searched by Viterbi's algorithm one after the other, each from where the one before it
ended, and GPTQ's error feedback runs between them.
"""

import torch
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

SEED = 1  # of the rotations
GAIN = {
    1: 0.88,
    2: 1.02,
    3: 1.05,
    4: 1.07,
}  # spread of the table against that of Gaussian weights with the least error
TRIED = (1.0, 0.9, 1.1)  # factors on it: feedback changes what is to be coded
BLOCK = 512  # columns whose feedback reaches all later ones at once
SAMPLE = 32  # strips at most with which they are tried


def _pad(x: Tensor, rows: int, columns: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, -columns % TILE, 0, -rows % TILE))


def search(values: Tensor, states: Tensor, bits: int, window: int) -> tuple[Tensor, Tensor]:
    """Best codes uint8 [sequences, length] of values [sequences, length] from states int32 [sequences], and the last states."""
    found = searches.trellis(values, table(window), states, bits, window)
    return search_slowly(values, states, bits, window) if found is None else found


def search_slowly(values: Tensor, states: Tensor, bits: int, window: int) -> tuple[Tensor, Tensor]:
    """The same in torch: slower, and what the compiled search is compared with."""
    numbers, fan, stems = table(window).to(values.device), 1 << bits, 1 << (window - bits)
    cost = torch.full((len(values), fan * stems), 1e30, device=values.device)
    cost[torch.arange(len(values)), states.long()] = 0
    choices = []
    for t in range(values.shape[1]):
        least, best = cost.view(-1, fan, stems).min(1)
        choices.append(best.to(torch.uint8))
        away = values[:, t, None] - numbers
        cost = least.repeat_interleave(fan, 1) + away * away
    at = cost.argmin(1)
    last, codes = at.int(), []
    for best in reversed(choices):
        codes.append((at & (fan - 1)).to(torch.uint8))
        stem = at >> bits
        at = stem | best.gather(1, stem[:, None])[:, 0].long() << (window - bits)
    return torch.stack(codes[::-1], 1), last


class Trellis:
    """Rotate, search tile by tile with feedback, scale under the Hessian."""

    data_free = False

    def __init__(self, tier: TrellisTier):
        self.tier, self.shared = tier, hessians.Shared()

    def quantize(self, weight: Tensor, hessian: Tensor) -> TrellisWeight:
        """weight [out, in], hessian [in, in], both fp32 -> packed. Raises DataError for a Hessian that is not one."""
        (rows, columns), bits, window = weight.shape, self.tier.bits, self.tier.window
        hessians.check(hessian, columns)
        dead = torch.diagonal(hessian) <= 0
        target = torch.where(dead, 0.0, weight)
        rotate_(target, SEED)
        rotate_(target.T, SEED + 1)
        if rows % TILE or columns % TILE:
            target = _pad(target, rows, columns)
        metric, factor = self.shared.of(hessian, lambda: self._metric(hessian))
        real = torch.full((len(target) // TILE,), TILE * columns)
        real[-1] -= (len(target) - rows) * columns
        energy = target.view(len(real), -1).square().sum(1)
        spread = (energy / real.to(energy)).sqrt().clamp(2.0**-14, 2.0**15)

        def encoded(strips: slice, tried: float) -> tuple[float, Tensor, Tensor]:
            """Error (without what no code can change), codes and scales of some strips, which know nothing of each other."""
            part = target.view(len(spread), TILE, -1)[strips].flatten(0, 1)
            scale = spread[strips] * GAIN[bits] * tried
            codes, values = _encode(part, factor.upper, scale, bits, window)
            scale, error = _rescale(part, values, metric, scale)
            return error, codes, scale

        some = slice(None, None, -(-len(spread) // SAMPLE))
        best, tried = min(((encoded(some, t), t) for t in TRIED), key=lambda found: found[0][0])
        _, codes, scale = best if len(best[2]) == len(spread) else encoded(slice(None), tried)
        buffers = {
            "codes": pack_stream(codes.cpu(), bits).to(weight.device),
            "scales": scale.half(),
        }
        return TrellisWeight(
            buffers, (rows, columns), bits=bits, window=window, seed=SEED, damping=factor.damping
        )

    def _metric(self, hessian: Tensor) -> tuple[Tensor, hessians.Factor]:
        """The Hessian of rotated and padded inputs, and its factor."""
        columns = len(hessian)
        metric = hessian.clone()
        rotate_(metric, SEED)
        rotate_(metric.T, SEED)
        if columns % TILE:
            metric = _pad(metric, columns, columns)
            torch.diagonal(metric)[columns:] = torch.diagonal(metric)[:columns].mean()
        return metric, hessians.factorize(metric, self.tier.damping)


def _encode(
    target: Tensor, upper: Tensor, scale: Tensor, bits: int, window: int
) -> tuple[Tensor, Tensor]:
    """Codes [strips, weights] and unscaled values [rows, columns], tile by tile with feedback, which blocks pass on at once."""
    work, values = target.clone(), torch.empty_like(target)
    numbers, width = table(window).to(target.device), target.shape[1]
    states = torch.zeros(len(scale), dtype=torch.int32, device=target.device)
    parts = []
    for begin in range(0, width, BLOCK):
        stop = min(begin + BLOCK, width)
        steps = torch.empty(len(work), stop - begin, device=work.device)
        for start in range(begin, stop, TILE):
            end = start + TILE
            tile = to_tiles(work[:, start:end].contiguous())
            ahead = work[
                ::TILE, end : end + TILE
            ]  # before this tile's feedback: the tile should end where that can go on
            if end == stop:  # and the next block lacks this one's
                ahead = (
                    ahead - steps[::TILE, : start - begin] @ upper[begin:start, end : end + TILE]
                )
            codes, _ = search(torch.cat([tile, ahead], 1) / scale[:, None], states, bits, window)
            codes = codes[:, : TILE**2]
            passed = states_of(codes, states, bits, window)
            states = passed[:, -1]
            found = from_tiles(numbers[passed])
            parts.append(codes)
            values[:, start:end] = found
            error = work[:, start:end] - found * scale.repeat_interleave(TILE)[:, None]
            step = torch.linalg.solve_triangular(
                upper[start:end, start:end], error, upper=True, left=False
            )
            steps[:, start - begin : end - begin] = step
            work[:, end:stop] -= step @ upper[start:end, end:stop]
        work[:, stop:] -= steps @ upper[begin:stop, stop:]
    return torch.cat(parts, 1), values


def _rescale(target: Tensor, values: Tensor, metric: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """Per strip the scale with the least error under the Hessian for these codes, as it is stored; and the error with it.

    tr((T - sV) H (T - sV)^T) without its first part, tr(T H T^T).
    """
    above, below = torch.empty_like(scale), torch.empty_like(scale)
    for part in _parts(len(scale)):
        rows = slice(TILE * part.start, TILE * part.stop)
        weighted = values[rows] @ metric
        for sums, other in ((above, target), (below, values)):
            sums[part] = (weighted * other[rows]).view(part.stop - part.start, -1).sum(1)
    scale = torch.where(below > 0, above / below, scale).half().float()
    return scale, float((scale.double() * (scale * below - 2 * above)).sum())


def _parts(strips: int) -> list[slice]:
    """Some strips at a time: a wide weight has many bytes, and no copy of it should be made for nothing."""
    return [slice(start, min(start + SAMPLE, strips)) for start in range(0, strips, SAMPLE)]
