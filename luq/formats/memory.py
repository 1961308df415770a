"""Four memory numbers with four names, and the ledger.

nominal bits: code bits per weight, the paper's convention. Stored bits: 8 * bytes of the packed files /
weights, everything in. Resident bytes: what the packed buffers take in memory. Peak bytes: the process's
largest memory (CPU: resident set; CUDA: allocated) up to now.
"""

import contextlib
import resource
from pathlib import Path

import torch

from luq.formats.sizes import LayerSize, Memory
from luq.models.families import part_of
from luq.models.vlm import VLM


def reset_peak() -> None:
    """Start the peak anew, so that a job of a sweep does not report that of the one before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(
        OSError
    ):  # Linux only; elsewhere the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The peak memory since the last reset: allocated on CUDA, resident on CPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rest_ledger(vlm: VLM) -> dict[str, int]:
    """16-bit bytes of everything that is not a decoder linear, by part; tied weights count once."""
    inside = {
        id(p) for layer in vlm.originals for linear in layer.values() for p in linear.parameters()
    }
    tied = set(
        getattr(vlm.model, "all_tied_weights_keys", None) or ()
    )  # of a streamed model they are parameters of their own
    parts: dict[str, int] = {}
    for name, parameter in vlm.model.named_parameters():
        if id(parameter) in inside or name in tied:
            continue
        part = part_of(name)
        parts[part] = parts.get(part, 0) + 2 * parameter.numel()
    return parts


def measure(vlm: VLM, sizes: list[LayerSize]) -> Memory:
    """The memory numbers of an allocation from its layers' files."""
    ledger: dict[str, int] = {}
    for size in sizes:
        for name, count in size.ledger.items():
            ledger[name] = ledger.get(name, 0) + count
    weights, stored = sum(s.weights for s in sizes), sum(s.bytes for s in sizes)
    rest = rest_ledger(vlm)
    return Memory(
        weights=weights,
        nominal_bits=sum(s.nominal_bits * s.weights for s in sizes) / weights,
        stored_bits=8 * stored / weights,
        stored_bytes=stored,
        rest_bytes=sum(rest.values()),
        checkpoint_bytes=stored + sum(rest.values()),
        resident_bytes=stored - ledger["header"],
        peak_bytes=peak_bytes(),
        ledger=ledger | rest,
    )
