"""GPTQ's error feedback on the grids of llama.cpp's blocks.

The numbers of all blocks are searched before the sweep (`luq.quantization.block_grid` and
`codebook_grid`), with the errors of columns weighed by the Hessian's diagonal, by its root, and,
where each column has a code of its own, all alike; each row takes what has the least error under
the whole Hessian.

Points of a codebook are of eight columns, which are swept together. There the error of column j
counts 1 / U_jj^2: what of it later columns cannot make up for. That the first of the eight change
the others is left out in the choice; with it the error is up to 1.3 percent less.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from luq.config import GgufTier
from luq.errors import DataError
from luq.formats.gguf import KINDS, GgufWeight
from luq.formats.gguf_codebooks import UNIT, CodebookType
from luq.quantization import hessian as hessians
from luq.quantization.block_grid import fit
from luq.quantization.codebook_grid import CodebookGrid, UnitRounding, fit_codebook
from luq.quantization.coder import Coder, SweptRows
from luq.quantization.hessian import HessianCache, UnitFactor


class Gguf:
    """Blocks of llama.cpp, with error feedback."""

    def __init__(self, tier: GgufTier) -> None:
        self.tier = tier
        self.factors: HessianCache[UnitFactor] = HessianCache()

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
        kind = KINDS[name]
        hessian = hessians.checked(hessian, columns)
        target = hessians.without_dead_columns(weight, hessian)
        importance = torch.diagonal(hessian).clamp_min(0)
        order = self._order(importance, UNIT if isinstance(kind, CodebookType) else 1)
        factor = self.factors.get(hessian, lambda: hessians.decompose(hessian, tier.damping, order))
        coder = Coder(target, hessian, factor, order, kind.group, tier.block, tier.descent)
        weighings = [importance]
        if tier.clip_steps > 0:
            weighings.append(importance.sqrt())
        if isinstance(kind, CodebookType):
            points = (_points(coder, kind, each, tier.clip_steps) for each in weighings)
            best_points = coder.coded(points)
            return best_points.grid.pack(best_points.codes, factor.damping)
        if tier.clip_steps > 0:
            weighings.append(torch.ones_like(importance))
        rows = (coder.swept(fit(kind, target, each, tier.clip_steps)) for each in weighings)
        best = coder.coded(rows)
        return best.grid.pack(best.codes, factor.damping)

    def _order(self, importance: Float[Tensor, " in"], together: int) -> Int64[Tensor, " in"]:
        """Of columns in the sweep, so many of which stay side by side."""
        units = importance.view(-1, together)
        order = torch.arange(len(units), device=importance.device)
        if self.tier.act_order:
            order = torch.argsort(units.sum(1), descending=True, stable=True)
        within = torch.arange(together, device=importance.device)
        return (together * order[:, None] + within).flatten()


def _points(
    coder: Coder, kind: CodebookType, importance: Float[Tensor, " in"], steps: int
) -> SweptRows[CodebookGrid]:
    """All rows on the grid of a codebook that is fitted to them."""
    grid = fit_codebook(kind, coder.target, importance, steps)
    return coder.swept_by(UnitRounding(grid, coder.group[coder.order], coder.factor.unmended))
