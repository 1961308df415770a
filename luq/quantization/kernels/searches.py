"""Compiled searches: Viterbi's for trellis codes, and the errors of BiLLM's candidates. None where there is no compiler."""

import torch
from torch import Tensor

from luq.quantization.kernels.cpu import address, library, longs


def trellis(values: Tensor, table: Tensor, states: Tensor, bits: int, window: int) -> tuple[Tensor, Tensor] | None:
    """Viterbi search of values [sequences, length] from states [sequences]: codes uint8, last states int32."""
    kernels = library() if values.device.type == "cpu" and window >= bits + 4 else None
    if kernels is None:
        return None
    values, last = values.contiguous(), states.int().clone()
    codes = torch.empty(values.shape, dtype=torch.uint8)
    sizes = longs(*values.shape, bits, window)
    if kernels.luq_trellis_encode(address(values), address(table), address(last), address(codes), *sizes):
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
        target = target.sort(1).values
        kernels.luq_billm_split(address(target), address(what), address(errors), *longs(rows, columns, len(what)))
    return errors.sum(0)
