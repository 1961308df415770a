"""GPTQ's error feedback on the grids of llama.cpp's blocks.

The numbers of all blocks are searched before the sweep (`luq.quantization.block_grid`), with the
errors of columns weighed by the Hessian's diagonal, by its root, and all alike; each row takes
what has the least error under the whole Hessian.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from luq.config import GgufTier
from luq.errors import DataError
from luq.formats.gguf import GgufWeight
from luq.formats.gguf_blocks import BLOCK_TYPES
from luq.quantization import hessian as hessians
from luq.quantization.block_grid import BlockGrid, fit
from luq.quantization.coder import CodedRows, Coder
from luq.quantization.hessian import Factor, HessianCache


class Gguf:
    """Blocks of llama.cpp, with error feedback."""

    def __init__(self, tier: GgufTier) -> None:
        self.tier = tier
        self.factors: HessianCache[Factor] = HessianCache()

    def quantize(self, weight: Float[Tensor, "out in"], hessian: Tensor | None) -> GgufWeight:
        """As in `Quantizer`.

        Raises:
            DataError: the Hessian is none, or rows are not whole blocks.
        """
        tier = self.tier
        columns = weight.shape[1]
        name = tier.type_of_rows(columns)
        if name is None:
            raise DataError(f"it {tier.refusal(columns)}")
        kind = BLOCK_TYPES[name]
        hessian = hessians.checked(hessian, columns)
        target = hessians.without_dead_columns(weight, hessian)
        importance = torch.diagonal(hessian).clamp_min(0)
        order = torch.arange(columns, device=weight.device)
        if tier.act_order:
            order = torch.argsort(importance, descending=True, stable=True)
        factor = self.factors.get(hessian, lambda: hessians.factorize(hessian, tier.damping, order))
        coder = Coder(target, hessian, factor.upper, order, kind.group, tier.block, tier.descent)

        def coded(weights: Float[Tensor, " in"]) -> CodedRows[BlockGrid]:
            return coder.coded(fit(kind, target, weights, tier.clip_steps))

        rows = coded(importance)
        if tier.clip_steps > 0:
            rows = coder.better(rows, coded(importance.sqrt()))
            rows = coder.better(rows, coded(torch.ones_like(importance)))
        return rows.grid.pack(rows.codes, factor.damping)
