"""Inputs rounded to 8 bits, in torch: slow, and what the compiled products are compared with."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

SEGMENT = 128  # columns that share a step, at most: SEGMENT in kernels/eight.h
LARGEST = 127  # of 8 bits with a sign


def rounded_inputs(x: Float[Tensor, "tokens in"], group_size: int) -> Float32[Tensor, "tokens in"]:
    """Each group of columns, in segments of at most 128: d * round(x / d), d = max |x| / 127.

    Args:
        x: The inputs.
        group_size: Columns of a group; the last one may have fewer.
    """
    segments = []
    for group in torch.split(x.float(), group_size, 1):
        for segment in torch.split(group, SEGMENT, 1):
            largest = segment.abs().amax(1, keepdim=True)
            inverse = torch.where(largest > 0, LARGEST / largest, 0.0)
            segments.append((segment * inverse).round() * (largest / LARGEST))
    return torch.cat(segments, 1)
