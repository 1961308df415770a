"""BiLLM (Huang et al., ICML 2024): binarization, with salient columns in two terms.

| symbol | in the code | meaning |
|---|---|---|
| W | `weight` | one block of columns [out, n], compensated for the errors before it |
| S | `saliency` | W^2 / diag(U)^2, elementwise |
| U | `factor.upper` | upper triangle with U^T U = (H + damping)^-1 |
| B | `sign` | signs of a binary term |
| mu, alpha | `mean`, `scale` | of a binary term mu + alpha B, per row |

`faithful` follows the released code. In each block of 128 columns it searches the salient columns
and a split of the other weights by magnitude, both on S where the paper says W; it takes what is
not salient in two terms there, of which one is stored; and it feeds errors only to later blocks.

Otherwise what is stored decides. A flag and a sign, or two signs, name any of four values per row
and block, so four values are fitted to the weights under the Hessian's diagonal (Lloyd's
algorithm). As many columns are salient as give the least error when so stored, the numbers are
quantized to 8 bits, and GPTQ's sweep feeds errors on within a block, too.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from luq.config import BillmTier
from luq.config.quantizer.base import columns_per_group
from luq.formats.binary import BinaryWeight
from luq.formats.kernels import searches
from luq.formats.packing import pack_bits
from luq.quantization import hessian as hessians
from luq.quantization.feedback import sweep_columns
from luq.quantization.hessian import Factor, HessianCache, UnitFactor
from luq.quantization.lloyd import TURNS, NearestValue, SortedRows

# The released code's: salient columns that are tried per block, 1 to 49, and thresholds of the
# split, the 10th to the 90th percentile of magnitudes.
CANDIDATES = 50
SPLITS = 81
FIRST_SPLIT = 0.1
LAST_SPLIT = 0.9

# Numbers of salient columns that are tried where values are fitted: dense where a column more
# changes much. They are tried on a sample of the rows and with few turns: the choice hardly
# differs, and the time is that of one fit of all rows.
COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
SAMPLE_ROWS = 512
SAMPLE_TURNS = 4

# Added to the importance of every column, whose mean is one: large weights of a column that hardly
# any token used then still count. Small enough to be lost beside other columns; not published.
LEAST_IMPORTANCE = 1e-6
TINY = 1e-30  # avoids 0 / 0 where no token was seen


class Billm:
    """The paper's ultra-low tier: nominally 1.08 bits, 2.5 stored, or 3.0 if faithful."""

    def __init__(self, tier: BillmTier) -> None:
        self.tier = tier
        self.factors: HessianCache[Factor] = HessianCache()  # as the released code needs them
        self.unit_factors: HessianCache[UnitFactor] = HessianCache()

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> BinaryWeight:
        """As in `Quantizer`."""
        columns = weight.shape[1]
        hessian = hessians.checked(hessian, columns)
        size = columns_per_group(columns, self.tier.block)
        target = hessians.without_dead_columns(weight, hessian)
        if self.tier.faithful:
            return self._faithful(target, hessian, size)
        return self._fitted(target, hessian, size)

    def _faithful(
        self, weight: Float[Tensor, "out in"], hessian: Float[Tensor, "in in"], size: int
    ) -> BinaryWeight:
        """As the released code does it. Works in `weight`."""
        damping = self.tier.damping
        factor = self.factors.get(hessian, lambda: hessians.factorize(hessian, damping))
        upper = factor.upper
        diagonal = torch.diagonal(upper)
        blocks = []
        for start in range(0, weight.shape[1], size):
            end = start + size
            part = weight[:, start:end]
            saliency = part.square() / diagonal[start:end].square()
            block = binarize_block(part, saliency)
            # only later blocks make up for the errors
            error = (part - block.value) / diagonal[start:end]
            weight[:, end:] -= error @ upper[start:end, end:]
            blocks.append(block)
        masks = Masks(
            signs=torch.cat([block.signs for block in blocks], 1),
            residual_signs=torch.cat([block.residual_signs for block in blocks], 1),
            flags=torch.cat([block.flags for block in blocks], 1),
            salient=torch.cat([block.salient for block in blocks]),
        )
        numbers = torch.stack([block.numbers for block in blocks], 1)
        return _pack(masks, {"scales": numbers.half()}, size, factor.damping)

    def _fitted(
        self, weight: Float[Tensor, "out in"], hessian: Float[Tensor, "in in"], size: int
    ) -> BinaryWeight:
        """With four values fitted to each row and block."""
        columns = weight.shape[1]
        damping = self.tier.damping
        importance = torch.diagonal(hessian).clamp_min(0)
        importance = importance / importance.mean().clamp_min(TINY) + LEAST_IMPORTANCE
        blocks = []
        for start in range(0, columns, size):
            part = slice(start, start + size)
            blocks.append(four_values(weight[:, part], importance[part]))
        salient = torch.cat([block.salient for block in blocks])
        buffers = BinaryWeight.quantize_numbers(torch.stack([block.numbers for block in blocks], 1))
        order = torch.arange(columns, device=weight.device)
        if self.tier.act_order:
            order = torch.argsort(importance, descending=True, stable=True)
        factor = self.unit_factors.get(hessian, lambda: hessians.decompose(hessian, damping, order))
        values = _stored_values(BinaryWeight.decode_numbers(buffers))
        rounding = NearestValue(values, salient, order, size)
        in_order = weight.T.contiguous()[order]  # a column is a row here, which is copied fast
        swept = sweep_columns(in_order, factor, self.tier.block, rounding).codes.byte()
        codes = torch.empty_like(swept)
        codes[order] = swept
        codes = codes.T.contiguous()
        high_bit = codes >= 2
        low_bit = codes % 2 > 0
        masks = Masks(
            signs=torch.where(salient, high_bit, low_bit),
            residual_signs=low_bit,
            flags=high_bit,
            salient=salient,
        )
        return _pack(masks, buffers, size, factor.damping)


# What both ways store


class Masks(NamedTuple):
    """The bits of a weight. Residual signs count in salient columns, flags in the others."""

    signs: Bool[Tensor, "out in"]
    residual_signs: Bool[Tensor, "out in"]
    flags: Bool[Tensor, "out in"]
    salient: Bool[Tensor, " in"]


def _pack(masks: Masks, numbers: dict[str, Tensor], block: int, damping: float) -> BinaryWeight:
    """The packed weight; `numbers` are the buffers that hold means and scales."""
    rows, columns = masks.signs.shape
    buffers = {
        "signs": pack_bits(masks.signs),
        "salient": pack_bits(masks.salient),
        "residual_signs": pack_bits(masks.residual_signs[:, masks.salient]),
        "flags": pack_bits(masks.flags[:, ~masks.salient]),
        **numbers,
    }
    return BinaryWeight(buffers, (rows, columns), block=block, damping=damping)


# As the released code does it


class BinaryTerm(NamedTuple):
    """mu + alpha B over the weights of a mask, and zero elsewhere."""

    mean: Float[Tensor, " out"]
    scale: Float[Tensor, " out"]
    sign: Bool[Tensor, "out n"]
    value: Float[Tensor, "out n"]


def binarize(
    weight: Float[Tensor, "out n"], mask: Bool[Tensor, "out n"], stored: bool = False
) -> BinaryTerm:
    """The binary term with the least squared error, in closed form (BiLLM, equations 2-3).

    mu is the mean of the weights, B the signs of W - mu, alpha the mean of |W - mu|.

    Args:
        weight: W.
        mask: the weights that count.
        stored: round mu and alpha to the fp16 that they are written in.
    """
    count = mask.sum(1).clamp_min(1)
    mean = (weight * mask).sum(1) / count
    if stored:
        mean = mean.half().float()
    centred = (weight - mean[:, None]) * mask
    scale = centred.abs().sum(1) / count
    if stored:
        scale = scale.half().float()
    sign = centred >= 0
    value = (mean[:, None] + scale[:, None] * (sign.float() * 2 - 1)) * mask
    return BinaryTerm(mean, scale, sign, value)


def binarize_twice(
    weight: Float[Tensor, "out n"], mask: Bool[Tensor, "out n"], stored: bool = False
) -> tuple[BinaryTerm, BinaryTerm]:
    """A binary term of the weights, and one of what it leaves."""
    first = binarize(weight, mask, stored)
    second = binarize(weight - first.value, mask, stored)
    return first, second


def salient_columns(saliency: Float[Tensor, "out n"]) -> Bool[Tensor, " n"]:
    """The columns of the largest summed saliency, as many as give S the least squared error."""
    columns = saliency.shape[1]
    ranked = torch.argsort(saliency.abs().sum(0), descending=True, stable=True)
    most = min(CANDIDATES, columns) - 1
    salient = torch.zeros(columns, dtype=torch.bool, device=saliency.device)
    if most == 0:
        return salient
    ordered = saliency[:, ranked]
    errors = searches.billm_errors(ordered, most)
    if errors is None:
        errors = salient_errors(ordered, most)
    # the first error is that of one salient column
    count = int(errors.argmin()) + 1
    salient[ranked[:count]] = True
    return salient


def salient_errors(ordered: Float[Tensor, "out n"], most: int) -> Float[Tensor, " most"]:
    """Squared error with the first 1 .. most columns as the salient ones, all in two terms."""
    place = torch.arange(ordered.shape[1], device=ordered.device)
    errors = []
    for count in range(1, most + 1):
        salient = (place < count).expand_as(ordered)
        value = torch.zeros_like(ordered)
        for mask in (salient, ~salient):
            first, second = binarize_twice(ordered, mask)
            value = value + first.value + second.value
        errors.append((ordered - value).square().sum(dtype=torch.double))
    return torch.stack(errors)


def sparse_group(
    saliency: Float[Tensor, "out n"], plain: Bool[Tensor, " n"]
) -> Bool[Tensor, "out n"]:
    """Which weights of the columns that are not salient (`plain`) lie in the outer, sparse group.

    It holds the largest of them, above the threshold with the least squared error of S (BiLLM's
    bell-shaped split).
    """
    target = saliency[:, plain]
    sparse = torch.zeros_like(saliency, dtype=torch.bool)
    if target.numel() == 0:
        return sparse
    magnitude = target.abs()
    ranked = magnitude.flatten().sort().values
    shares = torch.linspace(FIRST_SPLIT, LAST_SPLIT, SPLITS, device=saliency.device)
    thresholds = ranked[(shares * (len(ranked) - 1)).long()]
    errors = searches.billm_errors(target, thresholds)
    if errors is None:
        errors = split_errors(target, thresholds)
    sparse[:, plain] = magnitude > thresholds[int(errors.argmin())]
    return sparse


def split_errors(
    target: Float[Tensor, "out n"], thresholds: Float[Tensor, " tried"]
) -> Float[Tensor, " tried"]:
    """Squared error of binarizing the weights above each threshold, and the others, separately."""
    errors = []
    for threshold in thresholds:
        sparse = target.abs() > threshold
        value = binarize(target, sparse).value + binarize(target, ~sparse).value
        errors.append((target - value).square().sum(dtype=torch.double))
    return torch.stack(errors)


@dataclass(frozen=True)
class Block:
    """What one block stores, and the values that it means.

    `numbers` are (mean, scale) of the concentrated, the sparse, the salient and the residual part.
    """

    signs: Bool[Tensor, "out n"]
    residual_signs: Bool[Tensor, "out n"]
    flags: Bool[Tensor, "out n"]
    salient: Bool[Tensor, " n"]
    numbers: Float[Tensor, "out 8"]
    value: Float[Tensor, "out n"]


def binarize_block(weight: Float[Tensor, "out n"], saliency: Float[Tensor, "out n"]) -> Block:
    """Binarize one block of compensated weights, with the masks that its saliency gives."""
    columns = salient_columns(saliency)
    salient = columns.expand_as(weight)
    sparse = sparse_group(saliency, ~columns)
    inner = binarize(weight, ~salient & ~sparse, stored=True)
    outer = binarize(weight, sparse, stored=True)
    first, second = binarize_twice(weight, salient, stored=True)
    plain_sign = torch.where(sparse, outer.sign, inner.sign)
    numbers = []
    value = torch.zeros_like(weight)
    for term in (inner, outer, first, second):
        numbers += [term.mean, term.scale]
        value = value + term.value
    return Block(
        signs=torch.where(salient, first.sign, plain_sign),
        residual_signs=second.sign,
        flags=sparse,
        salient=columns,
        numbers=torch.stack(numbers, 1),
        value=value,
    )


# With fitted values


class FittedBlock(NamedTuple):
    """Salient columns, and (mean, scale) of the four parts, as in `Block`."""

    salient: Bool[Tensor, " n"]
    numbers: Float[Tensor, "out 8"]


class Choice(NamedTuple):
    """Four values of the columns that are not salient and of the salient ones; the whole error."""

    plain: Float[Tensor, "out 4"]
    double: Float[Tensor, "out 4"]
    error: Float[Tensor, ""]


def four_values(weight: Float[Tensor, "out n"], importance: Float[Tensor, " n"]) -> FittedBlock:
    """Fit the values of one block to its weights.

    The columns with the largest sum_i importance_j w_ij^2 are salient, as many as give the block
    the least error.

    Args:
        weight: W.
        importance: what the squared error of a column counts.
    """
    columns = weight.shape[1]
    energy = (weight.square() * importance).sum(0)
    ranked = torch.argsort(energy, descending=True, stable=True)
    stride = -(-len(weight) // SAMPLE_ROWS)
    sample = SortedRows(weight[::stride])
    counts = [count for count in COUNTS if count < columns]
    errors = []
    for count in counts:
        salient = _first_of(ranked, count)
        errors.append(_fit_choice(sample, salient, importance, SAMPLE_TURNS).error)
    best_count = counts[int(torch.stack(errors).argmin())]
    salient = _first_of(ranked, best_count)
    choice = _fit_choice(SortedRows(weight), salient, importance, TURNS)
    return FittedBlock(salient, numbers_of(choice.plain, choice.double))


def _first_of(ranked: Int64[Tensor, " n"], count: int) -> Bool[Tensor, " n"]:
    """A mask of the first columns of a ranking."""
    mask = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
    mask[ranked[:count]] = True
    return mask


def _fit_choice(
    rows: SortedRows, salient: Bool[Tensor, " n"], importance: Float[Tensor, " n"], turns: int
) -> Choice:
    """Values for one choice of salient columns. Two signs only say values that are two pairs."""
    plain = rows.fit(importance * ~salient, paired=False, turns=turns)
    double = rows.fit(importance * salient, paired=True, turns=turns)
    return Choice(plain.levels, double.levels, plain.error.sum() + double.error.sum())


def numbers_of(plain: Float[Tensor, "out 4"], double: Float[Tensor, "out 4"]) -> Tensor:
    """(mean, scale) of the four parts [out, 8] that say these values.

    Args:
        plain: a < b < c < d of columns that are not salient. Two share a flag: b and c are the
            concentrated part, a and d the sparse one. A pair p < q is mean - scale, mean + scale.
        double: v0 < v1 < v2 < v3 of salient columns: centre +- first +- second, with
            first >= second >= 0.
    """
    a, b, c, d = plain.unbind(1)
    inner_mean, inner_scale = _pair(b, c)
    outer_mean, outer_scale = _pair(a, d)
    v0, v1, v2, v3 = double.unbind(1)
    centre = (v0 + v3) / 2
    first = (v3 - v0 + v2 - v1) / 2 / 2
    second = (v3 - v0 - v2 + v1) / 2 / 2
    residual_mean = torch.zeros_like(centre)
    parts = (inner_mean, inner_scale, outer_mean, outer_scale, centre, first, residual_mean, second)
    return torch.stack(parts, 1)


def _pair(
    p: Float[Tensor, " out"], q: Float[Tensor, " out"]
) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
    """Mean and scale of p = mean - scale and q = mean + scale."""
    return (p + q) / 2, (q - p) / 2


def _stored_values(numbers: Float[Tensor, "out blocks 8"]) -> Float[Tensor, "blocks out 2 4"]:
    """The four values of each row and block: of columns that are not salient, and of salient ones.

    By the very sums of `BinaryWeight.dequantize`. The index of a value is its code: 2 * flag + sign
    in columns that are not salient, 2 * sign + residual sign in salient ones.
    """
    by_block = numbers.transpose(0, 1)
    mean = by_block[:, :, 0::2, None]  # [blocks, out, part, 1]
    scale = by_block[:, :, 1::2, None]
    sign = torch.tensor([-1.0, 1.0], device=numbers.device)
    terms = mean + scale * sign  # [blocks, out, part, sign]
    plain = terms[:, :, :2].flatten(2)
    residual = scale[:, :, 3, None] * sign
    double = (terms[:, :, 2, :, None] + residual).flatten(2)
    return torch.stack([plain, double], 2)
