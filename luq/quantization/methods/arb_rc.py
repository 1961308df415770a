"""ARB-RC (ARB-LLM, ICLR 2025): signs with row scales and column scales, refined in turns, and a second sign where it matters.

In each block of columns W is near r c^T * B with signs B, and in the salient columns a second such term is added. Against the
released method: scales are fitted under the weights that the Hessian gives to columns, GPTQ's error feedback also runs inside a
block, and no bitmap of groups is stored. Stored bits: 1 + salient share + 32 / block.
"""

import torch
from torch import Tensor

from luq.config import ArbRcTier
from luq.formats.packing import pack_bits
from luq.formats.row_column import RowColumnWeight
from luq.quantization import hessian as hessians
from luq.quantization.feedback import Ahead, sweep
from luq.quantization.grid import group_size

SALIENT = 1 / 16  # of a block's columns have a second sign
TURNS = 15  # of refinement, as published


def fit(weight: Tensor, importance: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """One turn of row scales [out] and column scales [in] for r c^T * sign(W), each the best one given the other.

    Minimizes sum_ij importance_j (W_ij - r_i c_j sign(W_ij))^2; columns of importance zero count nothing.
    """
    size = weight.abs()
    row = (size * (importance * column)).sum(1) / (importance * column.square()).sum().clamp_min(
        1e-30
    )
    column = (size * row[:, None]).sum(0) / row.square().sum().clamp_min(1e-30)
    return row, column


def binarize(
    weight: Tensor, importance: Tensor, salient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and column scales of both terms for one block: r [out], c [in], r2 [out], c2 [salient columns], refined in turns."""
    row, column = weight.abs().mean(1), torch.ones_like(weight[0])
    again, beside = torch.zeros_like(row), torch.ones_like(weight[0, salient])
    left = weight.clone()
    for _ in range(TURNS):
        row, column = fit(left, importance, row, column)
        if not bool(salient.any()):
            continue
        rest = weight[:, salient] - row[:, None] * column[salient] * _sign(left[:, salient])
        again, beside = fit(rest, importance[salient], again, beside)
        left[:, salient] = weight[:, salient] - again[:, None] * beside * _sign(rest)
    return row, column, again, beside


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0)


def _balanced(row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """The same products with column scales around one, as they are stored: both fit into fp16 then."""
    factor = column.mean().clamp_min(1e-20)
    return (row * factor).half().float(), (column / factor).half().float()


class ArbRc:
    """Alternating refined binarization with row and column scales, and GPTQ's error feedback."""

    data_free = False

    def __init__(self, tier: ArbRcTier):
        self.tier, self.shared = tier, hessians.Shared()

    def quantize(self, weight: Tensor, hessian: Tensor) -> RowColumnWeight:
        """weight [out, in], hessian [in, in], both fp32 -> packed."""
        (rows, columns), device = weight.shape, weight.device
        hessians.check(hessian, columns)
        size = group_size(columns, min(self.tier.block, columns))
        w = weight.clone()
        w[:, torch.diagonal(hessian) <= 0] = 0
        factor = self.shared.of(hessian, lambda: hessians.factorize(hessian, self.tier.damping))
        importance = torch.diagonal(factor.upper).square().reciprocal()
        salient = torch.zeros(columns, dtype=torch.bool, device=device)
        by_row, by_column = (
            torch.zeros(rows, columns // size, 2, device=device),
            torch.zeros(columns, device=device),
        )
        beside = torch.zeros(columns, device=device)

        def nearest(i: int, values: Tensor, ahead: Ahead) -> tuple[Tensor, Tensor]:
            block, part = i // size, slice(i, i + size)
            if i % size == 0:
                here = ahead(size)
                score = (here.square() * importance[part]).sum(0)
                salient[i + score.topk(round(SALIENT * size)).indices] = True
                row, column, again, second = binarize(here, importance[part], salient[part])
                row, by_column[part] = _balanced(row, column)
                if len(second):
                    again, second = _balanced(again, second)
                beside[part][salient[part]] = second
                by_row[:, block] = torch.stack([row, again], 1)
            row, again = by_row[:, block].unbind(1)
            if not bool(salient[i]):  # the feedback has made the column another one
                by_column[i] = (
                    ((values.abs() * row).sum() / row.square().sum().clamp_min(1e-20))
                    .half()
                    .float()
                )
            first, other, sign = row * by_column[i], again * beside[i], _sign(values)
            residual = _sign((values - first * sign) * other)
            value = first * sign + (other * residual if bool(salient[i]) else 0.0)
            return (sign > 0) + 2.0 * (residual > 0), value

        codes = sweep(w, factor.upper, size, nearest)
        buffers = {
            "signs": pack_bits(codes % 2 > 0),
            "salient": pack_bits(salient),
            "residual_signs": pack_bits(codes[:, salient] >= 2),
            "row_scales": by_row.half(),
            "column_scales": by_column.half(),
            "residual_scales": beside[salient].half(),
        }
        return RowColumnWeight(buffers, (rows, columns), block=size, damping=factor.damping)
