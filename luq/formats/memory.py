"""Four memory numbers with four names, and the ledger.

Nominal bits: code bits per weight, the paper's convention. Stored bits: 8 * bytes of the packed
files / weights, everything in. Resident bytes: what the packed buffers take in memory. Peak bytes:
the process's largest memory (CPU: resident set; CUDA: allocated) up to now.
"""

import contextlib
import resource
from pathlib import Path

import torch

from luq.formats.sizes import LayerSize, Memory
from luq.models.families import part_of
from luq.models.vlm import VLM

KIB = 1024
BYTES_16_BIT = 2
RESET_PEAK = "5"  # what proc(5) takes for "set VmHWM to the current value"


def reset_peak() -> None:
    """Start the peak anew, so that a job of a sweep does not report that of the one before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    # Linux only: without this file the peak is that of the process since its start
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)


def peak_bytes() -> int:
    """The peak memory since the last reset: allocated on CUDA, resident on CPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def rest_ledger(vlm: VLM) -> dict[str, int]:
    """16-bit bytes of everything that is not a decoder linear, by part; tied weights count once."""
    in_linears: set[int] = set()
    for layer in vlm.originals:
        for linear in layer.values():
            in_linears.update(id(parameter) for parameter in linear.parameters())
    # in a streamed model tied weights are parameters of their own
    tied = set(getattr(vlm.model, "all_tied_weights_keys", None) or ())
    parts: dict[str, int] = {}
    for name, parameter in vlm.model.named_parameters():
        if id(parameter) in in_linears or name in tied:
            continue
        part = part_of(name)
        parts[part] = parts.get(part, 0) + BYTES_16_BIT * parameter.numel()
    return parts


def measure(vlm: VLM, sizes: list[LayerSize]) -> Memory:
    """The memory numbers of an allocation from its layers' files."""
    ledger: dict[str, int] = {}
    for size in sizes:
        for name, count in size.ledger.items():
            ledger[name] = ledger.get(name, 0) + count
    weights = sum(size.weights for size in sizes)
    stored = sum(size.bytes for size in sizes)
    rest = rest_ledger(vlm)
    rest_bytes = sum(rest.values())
    return Memory(
        weights=weights,
        nominal_bits=sum(size.nominal_bits * size.weights for size in sizes) / weights,
        stored_bits=8 * stored / weights,
        stored_bytes=stored,
        rest_bytes=rest_bytes,
        checkpoint_bytes=stored + rest_bytes,
        resident_bytes=stored - ledger["header"],
        peak_bytes=peak_bytes(),
        ledger=ledger | rest,
    )
