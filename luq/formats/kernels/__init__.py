"""Fast ways from stored bits to products and weights.

Each format says which kernel answers for it. What no kernel can do comes back as None, and torch
does it.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from luq.formats import cpu_kernel
from luq.formats.base import PackedWeight
from luq.formats.cpu_kernel import CpuKernel
from luq.formats.kernels.searches import has_triton

log = logging.getLogger(__name__)
Kind = tuple[object, ...]
FEW_TOKENS = 4  # for which a GPU reads the stored bits once each; beyond, unpacking is faster
# What kernels are compiled for -> whether they gave what torch gave, the first time.
TRUSTED: dict[Kind, bool] = {}
FP32_TOLERANCE = 1e-3  # relative, of products against torch's
TOLERANCE = 1e-2  # the same, of 16-bit types


def linear(
    x: Float[Tensor, "*batch in"], weight: PackedWeight, in_eight_bits: bool = False
) -> Float[Tensor, "*batch out"] | None:
    """x W^T without the whole weight in memory, summed in fp32.

    Args:
        x: The inputs.
        weight: W.
        in_eight_bits: Whether inputs are rounded to 8 bits where there is code for that.
    """
    rows, columns = weight.shape
    inputs = x.reshape(-1, columns)
    outputs: Tensor | None = None
    if x.device.type == "cpu":
        kernel = weight.cpu_kernel()
        if kernel is not None and len(inputs):
            if in_eight_bits:
                outputs = _in_eight_bits(inputs, weight, kernel)
            if outputs is None:
                outputs = _on_cpu(inputs, weight, kernel)
    elif x.device.type == "cuda" and has_triton() and len(inputs) <= FEW_TOKENS:
        stored = next(iter(weight.buffers.values()))
        shapes = (weight.shape, tuple(stored.shape))
        kind = (weight.format, *weight.kernel_kind, *shapes, x.dtype, x.device)
        outputs = checked(
            kind,
            lambda: weight.gpu_linear(inputs.contiguous()),
            lambda: torch.nn.functional.linear(inputs, weight.dequantize(x.dtype)),
        )
    return None if outputs is None else outputs.view(*x.shape[:-1], rows).to(x.dtype)


def _in_eight_bits(
    inputs: Float[Tensor, "tokens in"], weight: PackedWeight, kernel: CpuKernel
) -> Float32[Tensor, "tokens out"] | None:
    """The product with rounded inputs, in integers."""
    plain = inputs.float().contiguous()

    def reference() -> Tensor:
        rounded_inputs = weight.eight_bit_inputs(plain)
        unpacked_weight = unpack(weight, torch.float32)
        factor = plain if rounded_inputs is None else rounded_inputs
        return torch.nn.functional.linear(factor, unpacked_weight)

    answer = "8 bits, one" if len(inputs) == 1 else "8 bits, many"
    return checked(_cpu_kind(weight, answer), lambda: kernel.eight_bits(plain), reference)


def _on_cpu(
    inputs: Float[Tensor, "tokens in"], weight: PackedWeight, kernel: CpuKernel
) -> Float[Tensor, "tokens out"] | None:
    """Few tokens straight from the stored bits, many by tiles of decoded rows."""
    # torch decodes a large weight for seconds: once is enough for all answers
    if len(inputs) <= kernel.few_tokens:
        plain = inputs.float().contiguous()
        return checked(
            _cpu_kind(weight, "products"),
            lambda: kernel.linear(plain),
            lambda: torch.nn.functional.linear(plain, unpack(weight, torch.float32)),
        )
    if weight.shape[0] * weight.shape[1] <= cpu_kernel.TILE:
        return None  # unpacked whole it fits into the cache, and the answer is a plain linear's
    dtype = _product_type(inputs.dtype)
    return checked(
        (*_cpu_kind(weight, "tiles"), dtype),
        lambda: kernel.tiled(inputs, dtype),
        lambda: torch.nn.functional.linear(inputs.to(dtype), unpack(weight, dtype)),
    )


@lru_cache(maxsize=8)
def _product_type(dtype: torch.dtype) -> torch.dtype:
    """The type itself where the processor multiplies in it, else fp32, which is faster then."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # of torch
        return torch.float32
    multiplies = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    is_fast = dtype in multiplies and multiplies[dtype]()
    return dtype if is_fast else torch.float32


def _cpu_kind(weight: PackedWeight, answer: str) -> Kind:
    """Of the C function that gives this answer: numbers of bits, the planes, have their own."""
    stored = next(iter(weight.buffers.values()))
    return (weight.format, *weight.kernel_kind, "cpu", answer, tuple(stored.shape[:-1]))


def checked(
    kind: Kind, run: Callable[[], Tensor | None], reference: Callable[[], Tensor]
) -> Tensor | None:
    """What a kernel gives, if it can be trusted.

    Args:
        kind: What the kernel is compiled for.
        run: The kernel; None for a layout that it does not know.
        reference: What its first answer is compared with.

    Returns:
        The answer; None, from then on too, if the kernel does not run or gives other numbers.
        None for once where the reference is not finite, which says nothing about the kernel.
    """
    if kind in TRUSTED:
        return run() if TRUSTED[kind] else None
    try:
        answer = run()
    except Exception as error:  # noqa: BLE001  # compilers and drivers raise what they like
        TRUSTED[kind] = False
        log.warning(
            "the kernel for %s does not run here: torch unpacks, which is slower (%s)",
            _words(kind),
            error,
        )
        return None
    if answer is None:
        return None
    expected = reference()
    if not expected.isfinite().all():
        return None
    tolerance = FP32_TOLERANCE if expected.dtype == torch.float32 else TOLERANCE
    difference = (answer.float() - expected.float()).norm()
    TRUSTED[kind] = bool(difference <= tolerance * expected.float().norm())
    if TRUSTED[kind]:
        return answer
    log.warning(
        "the kernel for %s gives other numbers than torch: torch unpacks, which is slower",
        _words(kind),
    )
    return None


def _words(kind: Kind) -> str:
    return " ".join(str(part) for part in kind)


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Float[Tensor, "out in"]:
    """The weight [out, in] that `dequantize` gives, bit for bit."""
    kernel = weight.cpu_kernel()
    if kernel is None:
        return weight.dequantize(dtype)
    unpacked = checked(
        _cpu_kind(weight, "weights"),
        lambda: kernel.unpack(dtype),
        lambda: weight.dequantize(dtype),
    )
    return weight.dequantize(dtype) if unpacked is None else unpacked
