"""Compiled searches: Viterbi's for trellis codes, and the errors of BiLLM's candidates. None where there is no compiler."""

import logging
import os
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from luq.formats.kernels.cpu import address, library, longs

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def has_triton() -> bool:
    return find_spec("triton") is not None


@lru_cache(maxsize=32)
def _gpu_agrees(bits: int, window: int, device: torch.device) -> bool:
    """Whether the GPU's search finds paths as good as torch's on a small case: a driver or a card may not like the kernel."""
    from triton.errors import TritonError

    from luq.formats.kernels import gpu
    from luq.quantization.methods import trellis as reference

    values = torch.randn(4, 40, generator=torch.Generator().manual_seed(0)).to(device)
    states, numbers = (
        torch.arange(4, dtype=torch.int32, device=device),
        reference.table(window).to(device),
    )
    try:
        found = gpu.search(values, numbers, states, bits, window)
    except (RuntimeError, ValueError, TritonError) as error:
        log.warning(
            "the GPU's search of trellis codes does not run here: torch searches, which is slower (%s)",
            error,
        )
        return False
    both = [found, reference.search_slowly(values, states, bits, window)]
    paths = [reference.states_of(codes, states, bits, window) for codes, _ in both]
    one, two = ((values - numbers[path]).square().sum(1) for path in paths)
    same = torch.allclose(one, two, rtol=1e-4) and torch.equal(paths[0][:, -1].int(), found[1])
    if not same:
        log.warning(
            "the GPU's search of trellis codes gives other paths than torch's: torch searches, which is slower"
        )
    return same


def trellis(
    values: Tensor, table: Tensor, states: Tensor, bits: int, window: int
) -> tuple[Tensor, Tensor] | None:
    """Viterbi search of values [sequences, length] from states [sequences]: codes uint8, last states int32."""
    if values.device.type == "cuda" and has_triton() and os.environ.get("LUQ_KERNELS") != "0":
        if not _gpu_agrees(bits, window, values.device):
            return None
        from luq.formats.kernels import gpu

        return gpu.search(values, table.to(values.device), states, bits, window)
    kernels = library() if values.device.type == "cpu" and window >= bits + 4 else None
    if kernels is None:
        return None
    values, last = values.contiguous(), states.int().clone()
    codes = torch.empty(values.shape, dtype=torch.uint8)
    sizes = longs(*values.shape, bits, window)
    if kernels.luq_trellis_encode(
        address(values), address(table), address(last), address(codes), *sizes
    ):
        raise MemoryError("no memory for the search of a trellis: choose a smaller tier.window")
    return codes, last


def billm_errors(target: Tensor, what: Tensor | int) -> Tensor | None:
    """Summed squared errors of BiLLM's candidates for target [out, n].

    `what` rising thresholds [tried]: of splits by magnitude. `what` a number: of 1 .. so many leading columns as the salient
    ones, they and the rest stored twice.
    """
    rows, columns = target.shape
    kernels = library() if target.device.type == "cpu" and columns <= 1024 else None
    if kernels is None:
        return None
    target = target.contiguous()
    if isinstance(what, int):
        errors = torch.empty(rows, what, dtype=torch.double)
        kernels.luq_billm_salient(address(target), address(errors), *longs(rows, columns, what))
    else:
        errors, what = torch.empty(rows, len(what), dtype=torch.double), what.contiguous()
        kernels.luq_billm_split(
            address(target), address(what), address(errors), *longs(rows, columns, len(what))
        )
    return errors.sum(0)
