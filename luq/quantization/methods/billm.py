"""BiLLM (Huang et al., ICML 2024): binarization with salient columns in two orders and two groups of the others. Pure.

`faithful` follows the released code. Per block of 128 columns, on compensated weights, it searches the salient columns and a
split by magnitude on the saliency matrix w^2 / diag(U)^2, takes the remainder in two orders, of which one is stored, and feeds
errors only to later blocks. Otherwise what is stored decides. A flag per weight and two binary orders allow any four values per
row and block, so these are fitted to the weights under the Hessian's diagonal (Lloyd); as many columns are salient as give the
least error when so stored; the numbers are quantized to 8 bits; GPTQ's sweep feeds errors on within a block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from luq.config import BillmTier
from luq.formats.binary import BinaryWeight
from luq.formats.kernels import searches
from luq.formats.packing import pack_bits
from luq.quantization import hessian as hessians
from luq.quantization.feedback import Ahead, sweep
from luq.quantization.grid import group_size
from luq.quantization.lloyd import TURNS, Levels

CANDIDATES = 50  # salient columns tried per block, faithful: 1 .. 49
SPLITS = 81  # thresholds tried: the 10th to the 90th percentile
COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # of salient columns tried, not faithful
SAMPLE, TRIAL = 512, 4  # rows and turns with which they are tried


@dataclass(frozen=True)
class Order:
    """One binary order over the weights of `mask`: mean + scale * sign; mean, scale [out]."""

    mean: Tensor
    scale: Tensor
    sign: Tensor
    value: Tensor


def binarize(weight: Tensor, mask: Tensor, stored: bool = False) -> Order:
    """Closed-form binarization of weight [out, n] where mask [out, n]; zero elsewhere (BiLLM, equations 2-3).

    With `stored` the mean and the scale are rounded to the fp16 they will be written in.
    """
    count = mask.sum(1).clamp_min(1)
    mean = (weight * mask).sum(1) / count
    mean = mean.half().float() if stored else mean
    centred = (weight - mean[:, None]) * mask
    scale = centred.abs().sum(1) / count
    scale = scale.half().float() if stored else scale
    sign = centred >= 0
    value = (mean[:, None] + scale[:, None] * (sign.float() * 2 - 1)) * mask
    return Order(mean, scale, sign, value)


def _twice(weight: Tensor, mask: Tensor, stored: bool = False) -> tuple[Order, Order]:
    first = binarize(weight, mask, stored)
    return first, binarize(weight - first.value, mask, stored)


def salient_columns(saliency: Tensor) -> Tensor:
    """Boolean [n]: the top columns by summed saliency [out, n], as many as give it the least squared error."""
    ranked = torch.argsort(saliency.abs().sum(0), descending=True, stable=True)
    most = min(CANDIDATES, saliency.shape[1]) - 1
    chosen = torch.zeros(saliency.shape[1], dtype=torch.bool, device=saliency.device)
    if most:
        ordered = saliency[:, ranked]
        errors = searches.billm_errors(ordered, most)
        errors = salient_errors(ordered, most) if errors is None else errors
        chosen[ranked[: int(errors.argmin()) + 1]] = True
    return chosen


def salient_errors(ordered: Tensor, most: int) -> Tensor:
    """Squared error [most] with the first 1 .. most columns, and with the rest, in two orders."""
    errors = []
    for k in range(1, most + 1):
        salient = (torch.arange(ordered.shape[1], device=ordered.device) < k).expand_as(ordered)
        value = sum(
            (o.value for mask in (salient, ~salient) for o in _twice(ordered, mask)),
            torch.zeros_like(ordered),
        )
        errors.append((ordered - value).square().sum(dtype=torch.double))
    return torch.stack(errors)


def sparse_group(saliency: Tensor, others: Tensor) -> Tensor:
    """Boolean [out, n]: which of the weights of the non-salient columns (`others` [n]) lie in the outer, sparse group."""
    target = saliency[:, others]
    found = torch.zeros_like(saliency, dtype=torch.bool)
    if target.numel() == 0:
        return found
    magnitude = target.abs()
    ranked = magnitude.flatten().sort().values
    shares = torch.linspace(0.1, 0.9, SPLITS, device=saliency.device)
    thresholds = ranked[(shares * (len(ranked) - 1)).long()]
    errors = searches.billm_errors(target, thresholds)
    errors = split_errors(target, thresholds) if errors is None else errors
    found[:, others] = magnitude > thresholds[int(errors.argmin())]
    return found


def split_errors(target: Tensor, thresholds: Tensor) -> Tensor:
    """Squared error of binarizing the weights above each threshold, and the others, for themselves."""
    errors = []
    for threshold in thresholds:
        sparse = target.abs() > threshold
        value = binarize(target, sparse).value + binarize(target, ~sparse).value
        errors.append((target - value).square().sum(dtype=torch.double))
    return torch.stack(errors)


@dataclass(frozen=True)
class Block:
    """What one block stores; `value` [out, n] is what the stored parts mean."""

    signs: Tensor
    residual: Tensor
    salient: Tensor
    flags: Tensor
    scales: Tensor
    value: Tensor


def binarize_block(weight: Tensor, saliency: Tensor) -> Block:
    """Binarize one block of compensated weights [out, n]."""
    columns = salient_columns(saliency)
    salient = columns.expand_as(weight)
    sparse = sparse_group(saliency, ~columns)
    inner = binarize(weight, ~salient & ~sparse, stored=True)
    outer = binarize(weight, sparse, stored=True)
    first, second = _twice(weight, salient, stored=True)
    signs = torch.where(salient, first.sign, torch.where(sparse, outer.sign, inner.sign))
    parts = (inner, outer, first, second)
    scales = torch.stack([x for p in parts for x in (p.mean, p.scale)], 1)
    value = sum((p.value for p in parts), torch.zeros_like(weight))
    return Block(signs, second.sign, columns, sparse, scales, value)


def four_values(weight: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Salient columns [n] and (mean, scale) of the four parts [out, 8] for weight [out, n] under importance [n].

    The most important columns, by their weights' squares, are salient if that makes the error of the block smaller.
    """
    ranked = torch.argsort((weight.square() * importance).sum(0), descending=True, stable=True)
    sample, rows = Levels(weight[:: -(-len(weight) // SAMPLE)]), Levels(weight)
    tried = [k for k in COUNTS if k < len(ranked)]

    def parts(k: int, levels: Levels, turns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Salient columns, and the values of the others and of them, if they are the first k; and the whole error."""
        salient = torch.zeros(len(ranked), dtype=torch.bool, device=weight.device)
        salient[ranked[:k]] = True
        (plain, error), (double, other) = (
            levels.fit(importance * ~salient, False, turns),
            levels.fit(importance * salient, True, turns),
        )
        return salient, plain, double, error.sum() + other.sum()

    errors = torch.stack([parts(k, sample, TRIAL)[3] for k in tried])
    salient, plain, double, _ = parts(tried[int(errors.argmin())], rows, TURNS)
    (a, b, c, d), (low, less, more, high) = plain.unbind(1), double.unbind(1)
    numbers = [
        b + c,
        c - b,
        a + d,
        d - a,
        low + high,
        (high - low + more - less) / 2,
        0 * low,
        (high - low - more + less) / 2,
    ]
    return salient, torch.stack(numbers, 1) / 2


class Billm:
    """The paper's ultra-low tier: nominally 1.08 bits, 2.5 stored, or 3.0 if faithful."""

    data_free = False

    def __init__(self, tier: BillmTier):
        self.tier, self.shared = tier, hessians.Shared()

    def quantize(self, weight: Tensor, hessian: Tensor) -> BinaryWeight:
        """weight [out, in], hessian [in, in], both fp32 -> packed binary weight."""
        columns = weight.shape[1]
        hessians.check(hessian, columns)
        size = group_size(columns, min(self.tier.block, columns))
        w = weight.clone()
        w[:, torch.diagonal(hessian) <= 0] = 0
        return (self._faithful if self.tier.faithful else self._fitted)(w, hessian, size)

    def _faithful(self, w: Tensor, hessian: Tensor, size: int) -> BinaryWeight:
        factor = self.shared.of(hessian, lambda: hessians.factorize(hessian, self.tier.damping))
        diagonal, blocks = torch.diagonal(factor.upper), []
        for start in range(0, w.shape[1], size):
            part = slice(start, start + size)
            block = binarize_block(w[:, part], w[:, part].square() / diagonal[part].square())
            error = (w[:, part] - block.value) / diagonal[part]
            w[:, start + size :] -= error @ factor.upper[part, start + size :]
            blocks.append(block)
        signs, residual, flags = (
            torch.cat([getattr(b, name) for b in blocks], 1)
            for name in ("signs", "residual", "flags")
        )
        scales = {"scales": torch.stack([b.scales for b in blocks], 1).half()}
        return _pack(
            signs,
            residual,
            flags,
            torch.cat([b.salient for b in blocks]),
            scales,
            size,
            factor.damping,
        )

    def _fitted(self, w: Tensor, hessian: Tensor, size: int) -> BinaryWeight:
        columns, importance = w.shape[1], torch.diagonal(hessian).clamp_min(0)
        importance = importance / importance.mean().clamp_min(1e-30) + 1e-6
        blocks = [
            four_values(w[:, i : i + size], importance[i : i + size])
            for i in range(0, columns, size)
        ]
        salient, scales = (
            torch.cat([b[0] for b in blocks]),
            BinaryWeight.quantize_numbers(torch.stack([b[1] for b in blocks], 1)),
        )
        # fp32 [block, out, salient or not, four values], by the very sums of BinaryWeight.dequantize
        mean, scale = (
            BinaryWeight.decode_numbers(scales).transpose(0, 1).unflatten(2, (4, 2)).unbind(3)
        )
        sign = torch.tensor([-1.0, 1.0], device=w.device)
        once = mean[..., None] + scale[..., None] * sign
        twice = once[:, :, 2, :, None] + scale[:, :, 3, None, None] * sign
        values = torch.stack([once[:, :, :2].flatten(2), twice.flatten(2)], 2)
        order = torch.arange(columns, device=w.device)
        if self.tier.act_order:
            order = torch.argsort(importance, descending=True, stable=True)
        factor = self.shared.of(
            hessian, lambda: hessians.factorize(hessian, self.tier.damping, order)
        )

        def nearest(i: int, column: Tensor, _: Ahead) -> tuple[Tensor, Tensor]:
            at = int(order[i])
            known = values[at // size, :, int(salient[at])]
            code = (column[:, None] - known).abs().argmin(1)
            return code, known.gather(1, code[:, None])[:, 0]

        codes = torch.empty_like(w)
        codes[:, order] = sweep(w[:, order], factor.upper, self.tier.block, nearest)
        high, low = (
            codes >= 2,
            codes % 2 > 0,
        )  # salient: sign and residual sign; others: flag and sign
        return _pack(
            torch.where(salient, high, low), low, high, salient, scales, size, factor.damping
        )


def _pack(
    signs: Tensor,
    residual: Tensor,
    flags: Tensor,
    salient: Tensor,
    scales: dict[str, Tensor],
    size: int,
    damping: float,
) -> BinaryWeight:
    """signs, residual, flags [out, in], salient [in]: booleans."""
    buffers = {
        "signs": pack_bits(signs),
        "salient": pack_bits(salient),
        "residual_signs": pack_bits(residual[:, salient]),
        "flags": pack_bits(flags[:, ~salient]),
        **scales,
    }
    return BinaryWeight(buffers, (signs.shape[0], signs.shape[1]), block=size, damping=damping)
