"""Packed linears as plain 16-bit weights, for tools that know nothing of LUQ.

The folder is a checkpoint like the source: what it says is what the packed model says, up to the
rounding of its weights to the source's type. It has the source's size.
"""

from typing import Any

import torch

from luq.errors import ModelError
from luq.export.folder import Layout, PackedModel, Tensors
from luq.formats.base import PackedWeight

DEQUANTIZED = "dequantized"


def no_quantization(model: PackedModel) -> dict[str, Any]:
    """Nothing: the folder's config says of no linear that it is packed."""
    return {}


def dequantized(dtype: torch.dtype) -> Layout:
    """The layout whose linears are numbers of a floating type.

    Args:
        dtype: The source's, in which the rest of the folder is.
    """

    def tensors(weight: PackedWeight) -> Tensors:
        values = weight.dequantize(torch.float32).to(dtype)
        if not bool(values.isfinite().all()):
            raise ModelError(
                f"a packed weight holds values that are infinite in {dtype}: the source must be "
                "stored in bfloat16 or float32 for --format dequantized"
            )
        return {"weight": (values.contiguous(), "weights")}

    return Layout(DEQUANTIZED, no_quantization, tensors)
