"""Fast ways from stored bits to products and weights. What no kernel knows comes back as None, and torch does it."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from luq.formats.base import PackedWeight
from luq.formats.kernels import cpu
from luq.formats.kernels.searches import has_triton

log = logging.getLogger(__name__)
Kind = tuple[object, ...]
TRUSTED: dict[
    Kind, bool
] = {}  # what a GPU's kernels are compiled for -> whether they gave what torch gave, the first time
NEAR = {torch.float32: 1e-3}  # relative; other types: 1e-2


def linear(x: Tensor, weight: PackedWeight) -> Tensor | None:
    """x W^T [..., out] of a few tokens straight from the stored bits, summed in fp32."""
    if x.device.type == "cpu":
        return cpu.linear(x, weight)
    if x.device.type == "cuda" and has_triton():
        from luq.formats.kernels import gpu

        stored = next(iter(weight.buffers.values()))
        kind = weight.format, weight.shape, tuple(stored.shape), x.dtype, x.device
        return checked(
            kind,
            lambda: gpu.linear(x, weight),
            lambda: torch.nn.functional.linear(x, weight.dequantize(x.dtype)),
        )
    return None


def checked(
    kind: Kind, run: Callable[[], Tensor | None], wanted: Callable[[], Tensor]
) -> Tensor | None:
    """What a kernel gives; None, from then on too, if it does not run here or its first answer is not `wanted`'s."""
    if TRUSTED.get(kind):
        return run()
    if kind in TRUSTED:
        return None
    try:
        found = run()
    except Exception as error:  # noqa: BLE001  # compilers and drivers raise what they like, and torch can do it
        TRUSTED[kind] = False
        log.warning(
            "the GPU's kernel for %s does not run here: torch unpacks, which is slower (%s)",
            kind[0],
            error,
        )
        return None
    if found is None:
        return None
    other = wanted()
    TRUSTED[kind] = bool(
        (found.float() - other.float()).norm() <= NEAR.get(found.dtype, 1e-2) * other.float().norm()
    )
    if not TRUSTED[kind]:
        log.warning(
            "the GPU's kernel for %s gives other numbers than torch: torch unpacks, which is slower",
            kind[0],
        )
    return found if TRUSTED[kind] else None


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] that `dequantize` gives, bit for bit."""
    found = cpu.unpack(weight, dtype)
    return weight.dequantize(dtype) if found is None else found
