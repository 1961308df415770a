"""ARB-RC (ARB-LLM, ICLR 2025): signs with row scales and column scales, refined in turns.

| symbol | in the code | meaning |
|---|---|---|
| W | `weight` | one block of columns [out, n], compensated for the errors before it |
| h | `importance` | 1 / diag(U)^2: what the squared error of a column counts |
| r, c | `row`, `column` | scales of the rows and columns of a block |
| B | `sign` | signs of W |
| r2, c2, B2 | `residual_row`, `residual_column`, `residual` | of salient columns' second term |

W_ij is near r_i c_j B_ij, and in salient columns near r_i c_j B_ij + r2_i c2_j B2_ij. Unlike in the
released method, scales are fitted under the weights that the Hessian gives to columns, GPTQ's error
feedback also runs inside a block, and no bitmap of groups is stored. Stored bits: 1 + salient share
+ 32 / block.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from luq.config import ArbRcTier
from luq.config.quantizer.base import columns_per_group
from luq.formats.packing import pack_bits
from luq.formats.row_column import RowColumnWeight
from luq.quantization import hessian as hessians
from luq.quantization.feedback import Ahead, sweep
from luq.quantization.hessian import HessianCache, UnitFactor

SALIENT_SHARE = 1 / 16  # of a block's columns have a second sign: nominally 1.06 bits; not tuned
TURNS = 15  # of refinement, as published
# Sums of squares below these are sums of nothing: they avoid 0 / 0.
TINY = 1e-30
TINY_SCALE = 1e-20


class ArbRc:
    """Alternating refined binarization with row and column scales, and GPTQ's error feedback."""

    def __init__(self, tier: ArbRcTier) -> None:
        self.tier = tier
        self.factors: HessianCache[UnitFactor] = HessianCache()

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> RowColumnWeight:
        """As in `Quantizer`."""
        rows, columns = weight.shape
        hessian = hessians.checked(hessian, columns)
        size = columns_per_group(columns, self.tier.block)
        target = hessians.without_dead_columns(weight, hessian)
        damping = self.tier.damping
        factor = self.factors.get(hessian, lambda: hessians.decompose(hessian, damping))
        rounding = RowColumnRounding(rows, size, factor.unmended)
        codes = sweep(target, factor, size, rounding)
        salient = rounding.salient
        buffers = {
            "signs": pack_bits(codes % 2 > 0),
            "salient": pack_bits(salient),
            "residual_signs": pack_bits(codes[:, salient] >= 2),
            "row_scales": rounding.row_scales.half(),
            "column_scales": rounding.column_scales.half(),
            "residual_scales": rounding.residual_scales[salient].half(),
        }
        return RowColumnWeight(buffers, (rows, columns), block=size, damping=factor.damping)


class RowColumnRounding:
    """Rounds columns to signs times scales that are fitted when the sweep reaches a block.

    A code is sign + 2 * residual sign, each 0 or 1. Scales are rounded to fp16 as they are stored.

    Args:
        rows: of the weight.
        size: columns of a block; the last one may have fewer.
        importance: h.
    """

    def __init__(self, rows: int, size: int, importance: Float[Tensor, " in"]) -> None:
        columns = len(importance)
        device = importance.device
        self.size = size
        self.importance = importance
        self.salient = torch.zeros(columns, dtype=torch.bool, device=device)
        blocks = -(-columns // size)
        self.row_scales = torch.zeros(rows, blocks, 2, device=device)  # r, r2
        self.kinds: list[bool] = []  # of the columns of the block that is swept: whether salient
        self.column_scales = torch.zeros(columns, device=device)  # c
        self.residual_scales = torch.zeros(columns, device=device)  # c2, zero where not salient

    def round(
        self, index: int, column: Float[Tensor, " out"], ahead: Ahead
    ) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
        """As in `Rounding`."""
        if index % self.size == 0:
            self._begin_block(index, ahead(self.size))
        row, residual_row = self.row_scales[:, index // self.size].unbind(1)
        is_salient = self.kinds[index % self.size]
        if not is_salient:
            # feedback has changed the column since its block began: its scale follows
            scale = (column.abs() * row).sum() / row.square().sum().clamp_min(TINY_SCALE)
            self.column_scales[index] = scale.half().float()
        sign = _sign(column)
        value = row * self.column_scales[index] * sign
        code = (sign > 0).float()
        if is_salient:
            size_of_residual = residual_row * self.residual_scales[index]
            residual = _sign((column - value) * size_of_residual)
            value = value + size_of_residual * residual
            code = code + 2.0 * (residual > 0)
        return code, value

    def _begin_block(self, start: int, weight: Float[Tensor, "out n"]) -> None:
        """Choose the salient columns of a block, and fit its scales."""
        part = slice(start, start + self.size)
        importance = self.importance[part]
        score = (weight.square() * importance).sum(0)
        count = round(SALIENT_SHARE * len(score))
        self.salient[start + score.topk(count).indices] = True
        salient = self.salient[part]
        self.kinds = salient.tolist()
        scales = binarize(weight, importance, salient)
        row, self.column_scales[part] = _balanced(scales.row, scales.column)
        residual_row = scales.residual_row
        if count:
            residual_row, residual_column = _balanced(residual_row, scales.residual_column)
            self.residual_scales[part][salient] = residual_column
        self.row_scales[:, start // self.size] = torch.stack([row, residual_row], 1)


class Scales(NamedTuple):
    """Row and column scales of both terms of one block."""

    row: Float[Tensor, " out"]
    column: Float[Tensor, " n"]
    residual_row: Float[Tensor, " out"]
    residual_column: Float[Tensor, " salient"]


def binarize(
    weight: Float[Tensor, "out n"], importance: Float[Tensor, " n"], salient: Bool[Tensor, " n"]
) -> Scales:
    """Scales of one block, refined in turns.

    Args:
        weight: W.
        importance: h.
        salient: columns with a second term.
    """
    row = weight.abs().mean(1)
    column = torch.ones_like(weight[0])
    residual_row = torch.zeros_like(row)
    places = salient.nonzero()[:, 0]
    residual_column = torch.ones_like(weight[0, places])
    # W without the second term, which is what the first one has to say
    first_target = weight.clone()
    for _ in range(TURNS):
        row, column = fit(first_target, importance, row, column)
        if len(places) == 0:
            continue
        first_value = row[:, None] * column[places] * _sign(first_target[:, places])
        residual = weight[:, places] - first_value
        residual_row, residual_column = fit(
            residual, importance[places], residual_row, residual_column
        )
        second_value = residual_row[:, None] * residual_column * _sign(residual)
        first_target[:, places] = weight[:, places] - second_value
    return Scales(row, column, residual_row, residual_column)


def fit(
    weight: Float[Tensor, "out n"],
    importance: Float[Tensor, " n"],
    row: Float[Tensor, " out"],
    column: Float[Tensor, " n"],
) -> tuple[Float[Tensor, " out"], Float[Tensor, " n"]]:
    """One turn of row and column scales for B = sign(W), each the best one given the other.

    They minimize sum_ij h_j (W_ij - r_i c_j B_ij)^2 = sum_ij h_j (|W_ij| - r_i c_j)^2:
    r_i = sum_j h_j c_j |W_ij| / sum_j h_j c_j^2 and c_j = sum_i r_i |W_ij| / sum_i r_i^2.
    """
    magnitude = weight.abs()
    norm = (importance * column.square()).sum().clamp_min(TINY)
    row = (magnitude * (importance * column)).sum(1) / norm
    column = (magnitude * row[:, None]).sum(0) / row.square().sum().clamp_min(TINY)
    return row, column


def _sign(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 or -1; of zero 1."""
    return torch.where(x < 0, -1.0, 1.0)


def _balanced(
    row: Float[Tensor, " out"], column: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " out"], Float[Tensor, " n"]]:
    """The same products with column scales around one, as fp16 stores them: both fit then."""
    factor = column.mean().clamp_min(TINY_SCALE)
    return (row * factor).half().float(), (column / factor).half().float()
