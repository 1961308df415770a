"""BiLLM (Huang et al., ICML 2024): binarization with salient columns and a bell-shaped split. Pure.

Per block of 128 columns, on GPTQ-compensated weights: choose the salient columns and store them as two
binary orders; split the rest by magnitude into two groups of one order; push the error to later blocks.
`faithful` follows the released code, which searches on the saliency matrix, approximates the remainder
with two orders while it chooses the salient columns, and uses diag(U)^2; otherwise the paper's text is
followed: saliency w^2 / [H^-1]^2, searches on the weights, the remainder at the one order it is stored with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from luq.config import TierConfig
from luq.quantization import hessian as hessians
from luq.quantization.grid import group_size
from luq.quantization.kernels import searches
from luq.quantization.packed import BinaryWeight
from luq.quantization.packing import pack_bits

CANDIDATES = 50  # salient columns tried per block: 1 .. 49
SPLITS = 81  # thresholds tried: the 10th to the 90th percentile


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


def _once(weight: Tensor, mask: Tensor) -> tuple[Order]:
    return (binarize(weight, mask),)


def salient_columns(weight: Tensor, saliency: Tensor, faithful: bool) -> Tensor:
    """Boolean [n]: the top columns by summed saliency, as many as give the least squared error."""
    target = saliency if faithful else weight
    ranked = torch.argsort(saliency.abs().sum(0), descending=True, stable=True)
    most = min(CANDIDATES, weight.shape[1]) - 1
    chosen = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
    if most:
        ordered = target[:, ranked]
        errors = searches.billm_errors(ordered, most, faithful)
        errors = salient_errors(ordered, most, faithful) if errors is None else errors
        chosen[ranked[: int(errors.argmin()) + 1]] = True
    return chosen


def salient_errors(ordered: Tensor, most: int, twice: bool) -> Tensor:
    """Squared error [most] with the first 1 .. most columns in two orders and the rest in one or `twice`."""
    errors = []
    for k in range(1, most + 1):
        salient = (torch.arange(ordered.shape[1], device=ordered.device) < k).expand_as(ordered)
        first, second = _twice(ordered, salient)
        value = first.value + second.value + sum(o.value for o in (_twice if twice else _once)(ordered, ~salient))
        errors.append((ordered - value).square().sum(dtype=torch.double))
    return torch.stack(errors)


def sparse_group(weight: Tensor, saliency: Tensor, others: Tensor, faithful: bool) -> Tensor:
    """Boolean [out, n]: which of the weights of the non-salient columns (`others` [n]) lie in the outer, sparse group."""
    target = (saliency if faithful else weight)[:, others]
    found = torch.zeros_like(weight, dtype=torch.bool)
    if target.numel() == 0:
        return found
    magnitude = target.abs()
    ranked = magnitude.flatten().sort().values
    shares = torch.linspace(0.1, 0.9, SPLITS, device=weight.device)
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


def binarize_block(weight: Tensor, saliency: Tensor, faithful: bool) -> Block:
    """Binarize one block of compensated weights [out, n]."""
    columns = salient_columns(weight, saliency, faithful)
    salient = columns.expand_as(weight)
    sparse = sparse_group(weight, saliency, ~columns, faithful)
    inner = binarize(weight, ~salient & ~sparse, stored=True)
    outer = binarize(weight, sparse, stored=True)
    first, second = _twice(weight, salient, stored=True)
    signs = torch.where(salient, first.sign, torch.where(sparse, outer.sign, inner.sign))
    parts = (inner, outer, first, second)
    scales = torch.stack([x for p in parts for x in (p.mean, p.scale)], 1)
    value = sum((p.value for p in parts), torch.zeros_like(weight))
    return Block(signs, second.sign, columns, sparse, scales, value)


class BiLLM:
    """The paper's ultra-low tier: nominally 1.08 bits, about 2.9 bits stored."""

    data_free = False

    def __init__(self, tier: TierConfig):
        self.tier = tier

    def quantize(self, weight: Tensor, hessian: Tensor) -> BinaryWeight:
        """weight [out, in], hessian [in, in], both fp32 -> packed binary weight."""
        columns = weight.shape[1]
        hessians.check(hessian, columns)
        size = group_size(columns, min(self.tier.block, columns))
        w = weight.clone()
        w[:, torch.diagonal(hessian) <= 0] = 0
        factor = hessians.factorize(hessian, self.tier.damping)
        upper = factor.upper
        diagonal = torch.diagonal(upper) if self.tier.faithful else (upper.T @ upper).diagonal()
        blocks = []
        for start in range(0, columns, size):
            part = slice(start, start + size)
            saliency = w[:, part].square() / diagonal[part].square()
            block = binarize_block(w[:, part], saliency, self.tier.faithful)
            error = (w[:, part] - block.value) / torch.diagonal(upper)[part]
            w[:, start + size :] -= error @ upper[part, start + size :]
            blocks.append(block)
        return _pack(blocks, size, factor.damping)


def _pack(blocks: list[Block], size: int, damping: float) -> BinaryWeight:
    signs, residual, flags = (torch.cat([getattr(b, name) for b in blocks], 1) for name in ("signs", "residual", "flags"))
    salient = torch.cat([b.salient for b in blocks])
    buffers = {
        "signs": pack_bits(signs),
        "salient": pack_bits(salient),
        "residual_signs": pack_bits(residual[:, salient]),
        "flags": pack_bits(flags[:, ~salient]),
        "scales": torch.stack([b.scales for b in blocks], 1).half(),
    }
    return BinaryWeight(buffers, (signs.shape[0], signs.shape[1]), block=size, damping=damping)
