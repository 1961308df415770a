"""What a process takes in memory, and what a model keeps in 16 bit."""

import contextlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from luq.models.devices import has_cuda
from luq.models.families import part_of

if TYPE_CHECKING:
    from luq.models.vlm import VLM

KIB = 1024
BYTES_16_BIT = 2
RESET_PEAK = "5"  # what proc(5) takes for "set VmHWM to the current value"


def reset_peak() -> None:
    """Start the peak anew, so that a job of a sweep does not report that of the one before it."""
    if has_cuda():
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    # Linux only: without this file the peak is that of the process since its start
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="utf-8")


def peak_bytes() -> int:
    """The peak memory since the last reset: allocated on CUDA, resident on CPU.

    psutil knows what is resident now, but no peak, and cannot start one anew.
    """
    if has_cuda():
        import torch

        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def resident_bytes() -> int:
    """What the process has in memory now; where the system does not say it, the most it had."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def rest_ledger(vlm: "VLM") -> dict[str, int]:
    """16-bit bytes of all but the decoder linears' weights, by part; tied weights count once.

    Biases of decoder linears are among the norms.

    Args:
        vlm: a model with its 16-bit parts.
    """
    in_linears: set[int] = set()
    for layer in vlm.originals:
        in_linears.update(id(linear.weight) for linear in layer.values())
    # in a streamed model tied weights are parameters of their own
    tied = set(getattr(vlm.model, "all_tied_weights_keys", None) or ())
    parts: dict[str, int] = {}
    for name, parameter in vlm.model.named_parameters():
        if id(parameter) in in_linears or name in tied:
            continue
        part = part_of(name)
        parts[part] = parts.get(part, 0) + BYTES_16_BIT * parameter.numel()
    return parts


def linear_weights(vlm: "VLM") -> int:
    """Weights of the decoder linears."""
    count = 0
    for layer in range(len(vlm.layers)):
        count += sum(weight.numel() for weight in vlm.original(layer).values())
    return count
