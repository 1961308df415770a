"""The grid of a GGUF type, of whichever kind it is."""

import torch
from jaxtyping import Float
from torch import Tensor

from luq.formats.gguf import GgufWeight
from luq.formats.gguf_blocks import BlockType
from luq.formats.gguf_codebooks import CodebookType
from luq.quantization.block_grid import BlockGrid, fit
from luq.quantization.codebook_grid import CodebookGrid, fit_codebook


def fitted_grid(
    kind: BlockType | CodebookType,
    weight: Float[Tensor, "out in"],
    importance: Float[Tensor, " in"],
    steps: int,
) -> BlockGrid | CodebookGrid:
    """Fit the numbers of all blocks of a weight, as `fit` and `fit_codebook` do."""
    if isinstance(kind, CodebookType):
        return fit_codebook(kind, weight, importance, steps)
    return fit(kind, weight, importance, steps)


def nearest(
    kind: BlockType | CodebookType, weight: Float[Tensor, "out in"], steps: int
) -> GgufWeight:
    """A weight in the nearest codes, for inputs that are all alike."""
    columns = weight.shape[1]
    grid = fitted_grid(kind, weight, torch.ones(columns, device=weight.device), steps)
    group = torch.arange(columns, device=weight.device) // kind.group
    return grid.pack(grid.encode(weight, group), 0.0)
