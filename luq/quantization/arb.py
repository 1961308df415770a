"""ARB-RC (ARB-LLM, ICLR 2025): signs with row scales and column scales, refined in turns, and a second sign where it matters.

In each block of columns W is near r c^T * B with signs B, and in the salient columns a second such term is added. Against the
released method: scales are fitted under the weights that the Hessian gives to columns, GPTQ's error feedback also runs inside a
block, and no bitmap of groups is stored. Stored bits: 1 + salient share + 32 / block.
"""

from typing import ClassVar

import torch
from torch import Tensor

from luq.config import TierConfig
from luq.quantization import hessian as hessians
from luq.quantization.grid import group_size
from luq.quantization.packed import PackedWeight
from luq.quantization.packing import pack_bits, unpack_bits

SALIENT = 1 / 16  # of a block's columns have a second sign
TURNS = 15  # of refinement, as published


class RowColumnWeight(PackedWeight):
    """Signs with a row scale per block and a column scale; in salient columns two of each.

    Buffers, bits packed: signs [out, in], salient [in], residual_signs [out, salient columns]; fp16: row_scales [out, blocks, 2],
    column_scales [in], residual_scales [salient columns].
    """

    format = "row_column"
    classes: ClassVar = {
        "signs": "codes",
        "residual_signs": "codes",
        "salient": "masks",
        "row_scales": "scales",
        "column_scales": "scales",
        "residual_scales": "scales",
    }

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, columns = self.shape
        salient = unpack_bits(self.buffers["salient"], (columns,))
        block = torch.arange(columns, device=salient.device) // int(self.meta["block"])
        by_row, by_column = self.buffers["row_scales"].float(), self.buffers["column_scales"].float()
        signs = unpack_bits(self.buffers["signs"], (rows, columns)).float() * 2 - 1
        found = by_row[:, block, 0] * by_column * signs
        count = int(salient.sum())
        again = unpack_bits(self.buffers["residual_signs"], (rows, count)).float() * 2 - 1
        found[:, salient] += by_row[:, block[salient], 1] * self.buffers["residual_scales"].float() * again
        return found.to(dtype)

    @property
    def nominal_bits(self) -> float:
        """1 + share of columns with a second sign."""
        columns = self.shape[1]
        return 1.0 + int(unpack_bits(self.buffers["salient"], (columns,)).sum()) / columns


def fit(weight: Tensor, importance: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """One turn of row scales [out] and column scales [in] for r c^T * sign(W), each the best one given the other.

    Minimizes sum_ij importance_j (W_ij - r_i c_j sign(W_ij))^2; columns of importance zero count nothing.
    """
    size = weight.abs()
    row = (size * (importance * column)).sum(1) / (importance * column.square()).sum().clamp_min(1e-30)
    column = (size * row[:, None]).sum(0) / row.square().sum().clamp_min(1e-30)
    return row, column


def binarize(weight: Tensor, importance: Tensor, salient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


class ArbRC:
    """Alternating refined binarization with row and column scales, and GPTQ's error feedback."""

    data_free = False

    def __init__(self, tier: TierConfig):
        self.tier = tier

    def quantize(self, weight: Tensor, hessian: Tensor) -> RowColumnWeight:
        """weight [out, in], hessian [in, in], both fp32 -> packed."""
        (rows, columns), device = weight.shape, weight.device
        hessians.check(hessian, columns)
        size = group_size(columns, min(self.tier.block, columns))
        w = weight.clone()
        w[:, torch.diagonal(hessian) <= 0] = 0
        factor = hessians.factorize(hessian, self.tier.damping)
        importance = torch.diagonal(factor.upper).square().reciprocal()
        signs, again_signs = torch.empty(rows, columns, device=device), torch.empty(rows, columns, device=device)
        salient = torch.zeros(columns, dtype=torch.bool, device=device)
        by_row, by_column, beside = [], [], []
        for start in range(0, columns, size):
            part = slice(start, start + size)
            block = w[:, part].clone()
            score = (block.square() * importance[part]).sum(0)
            chosen = torch.zeros(size, dtype=torch.bool, device=device)
            chosen[score.topk(round(SALIENT * size)).indices] = True
            row, column, again, second = binarize(block, importance[part], chosen)
            (row, column), (again, second) = _balanced(row, column), _balanced(again, second) if len(second) else (again, second)
            spread = torch.zeros(size, device=device)
            spread[chosen] = second
            errors = torch.empty_like(block)
            weighed = row.square().sum().clamp_min(1e-20)
            for j in range(size):
                if not bool(chosen[j]):  # the feedback has made the column another one
                    column[j] = ((block[:, j].abs() * row).sum() / weighed).half().float()
                first, other = row * column[j], again * spread[j]
                sign = _sign(block[:, j])
                rest = block[:, j] - first * sign
                residual = _sign(rest * other)
                value = first * sign + (other * residual if bool(chosen[j]) else 0.0)
                signs[:, start + j], again_signs[:, start + j] = sign, residual
                error = (block[:, j] - value) / factor.upper[start + j, start + j]
                errors[:, j] = error
                block[:, j + 1 :].addr_(error, factor.upper[start + j, start + j + 1 : start + size], alpha=-1)
            w[:, start + size :] -= errors @ factor.upper[part, start + size :]
            salient[part] = chosen
            by_row.append(torch.stack([row, again], 1))
            by_column.append(column)
            beside.append(second)
        buffers = {
            "signs": pack_bits(signs > 0),
            "salient": pack_bits(salient),
            "residual_signs": pack_bits(again_signs[:, salient] > 0),
            "row_scales": torch.stack(by_row, 1).half(),
            "column_scales": torch.cat(by_column).half(),
            "residual_scales": torch.cat(beside).half(),
        }
        return RowColumnWeight(buffers, (rows, columns), block=size, damping=factor.damping)
