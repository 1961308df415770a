"""The C kernels of packed linears: compiled once per machine with the system's compiler, and not used where there is none.

`linear` answers straight from the stored bits; `unpack` gives the weights that `dequantize` gives, bit for bit, only faster.
Both return None for what they cannot do, and then torch does it.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from luq.quantization.incoherence import block_of, signs
from luq.quantization.packed import BinaryWeight, IntegerWeight, PackedWeight

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("cpu.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-fPIC")
VECTORS = 4  # inputs at a time up to which the stored bits are read once for each; beyond, unpacking once is faster
CHUNK = 1 << 22  # weights unpacked in fp32 at a time, where another type is wanted


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, from the user's cache; None, and a line in the log, without a compiler or with LUQ_KERNELS=0."""
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if os.environ.get("LUQ_KERNELS") == "0" or compiler is None or os.name != "posix":
        log.info("no compiled kernels for packed linears: they are unpacked by torch, which is slower")
        return None
    processor = next((line for line in _lines("/proc/cpuinfo") if line.startswith(("flags", "Features"))), platform.processor())
    name = hashlib.sha256(f"{SOURCE.read_text()}{FLAGS}{compiler}{processor}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luq"
    target = cache / f"cpu-{name}.so"
    try:
        if not target.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                made = Path(scratch) / "cpu.o", Path(scratch) / "cpu.so"
                # linked without OpenMP's library: torch's own copy is taken, since two would fight over the cores
                for command in ([*FLAGS, "-c", str(SOURCE), "-o", str(made[0])], ["-shared", str(made[0]), "-o", str(made[1])]):
                    subprocess.run([compiler, *command], check=True, capture_output=True, text=True)
                os.replace(made[1], target)
        return ctypes.CDLL(str(target), mode=os.RTLD_NOW)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or error
        log.warning("the kernels for packed linears cannot be compiled: torch unpacks them, which is slower (%s)", told)
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _buffers(weight: PackedWeight) -> tuple[list[ctypes.c_void_p | None], list[int]] | None:
    """Addresses of the stored buffers and the sizes that follow rows and columns; None for a layout the kernels do not know."""
    names = (
        ("codes", "scales", "zeros")
        if isinstance(weight, IntegerWeight)
        else ("signs", "salient", "flags", "residual_signs", "scales")
    )
    buffers = [weight.buffers.get(name) for name in names]
    if any(b is not None and (b.device.type != "cpu" or not b.is_contiguous()) for b in buffers):
        return None
    pointers = [None if b is None else ctypes.c_void_p(b.data_ptr()) for b in buffers]
    rows, columns = weight.shape
    if isinstance(weight, IntegerWeight):
        groups = weight.buffers["scales"].shape[1]
        fits = columns % groups == 0 and (columns // groups) % 16 == 0
        return (pointers, [groups, weight.buffers["codes"].shape[0]]) if fits else None
    if isinstance(weight, BinaryWeight):
        if rows < 8:
            return None
        count = 8 * weight.buffers["residual_signs"].numel() // rows  # of salient columns: the last byte is not full
        return pointers, [int(weight.meta["block"]), count]
    return None


def _longs(*values: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(v) for v in values]


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor | None:
    """The weight [out, in] in `dtype`."""
    if weight.format == "trellis":
        found = _turned_back(weight)
        return None if found is None else found.to(dtype)
    known = _buffers(weight) if isinstance(weight, IntegerWeight | BinaryWeight) else None
    kernels = library() if known else None
    if known is None or kernels is None:
        return None
    (pointers, sizes), (rows, columns) = known, weight.shape
    run = kernels.luq_integer_unpack if isinstance(weight, IntegerWeight) else kernels.luq_binary_unpack
    found = torch.empty(rows, columns, dtype=dtype)
    step = rows if dtype == torch.float32 else max(1, CHUNK // columns)
    part = found if dtype == torch.float32 else torch.empty(min(step, rows), columns)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        run(*pointers, _address(part), *_longs(first, last, rows, columns, *sizes))
        if part is not found:
            found[first:last] = part[: last - first]
    return found


def linear(x: Tensor, weight: PackedWeight) -> Tensor | None:
    """x W^T for up to VECTORS inputs [..., in], summed in fp32."""
    rows, columns = weight.shape
    if x.device.type != "cpu" or x.numel() > VECTORS * columns:
        return None
    inputs = x.reshape(-1, columns).float().contiguous()
    if weight.format == "trellis":
        found = _coded(inputs, weight)
    elif isinstance(weight, IntegerWeight | BinaryWeight):
        found = _bits(inputs, weight)
    else:
        return None
    return None if found is None else found.view(*x.shape[:-1], rows).to(x.dtype)


def _bits(inputs: Tensor, weight: PackedWeight) -> Tensor | None:
    """inputs [tokens, in] times a weight of bit planes, [tokens, out]."""
    rows, columns = weight.shape
    known = _buffers(weight)
    kernels = library() if known else None
    if known is None or kernels is None:
        return None
    pointers, sizes = known
    found = torch.empty(len(inputs), rows)
    if isinstance(weight, IntegerWeight):
        run, sums = kernels.luq_integer_matvec, torch.empty(sizes[0])
    elif sizes[0] % 64 == 0 and columns % 16 == 0:
        run, sums = kernels.luq_binary_matvec, torch.empty(2 * -(-columns // sizes[0]))
    else:
        return None
    for one, out in zip(inputs, found, strict=True):
        run(*pointers, _address(one), _address(sums), _address(out), *_longs(rows, columns, *sizes))
    return found


@lru_cache(maxsize=64)
def _rotation(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor, list[int]]:
    """Signs of columns and rows, the factors of both transforms, and their blocks."""
    blocks = [block_of(columns), block_of(rows)]
    both = torch.cat([signs(columns, seed), signs(rows, seed + 1)])
    return both, torch.tensor([block**-0.5 for block in blocks]), blocks


def _coded(inputs: Tensor, weight: PackedWeight) -> Tensor | None:
    """inputs [tokens, in] times a trellis-coded weight, [tokens, out]."""
    kernels = library() if weight.buffers["codes"].device.type == "cpu" else None
    if kernels is None:
        return None
    (rows, columns), width, found = weight.shape, -(-weight.shape[1] // 16) * 16, torch.empty(len(inputs), weight.shape[0])
    turn, factors, blocks = _rotation(rows, columns, int(weight.meta["seed"]))
    numbers, bits, window, work = weight.table, int(weight.meta["bits"]), int(weight.meta["window"]), torch.empty(width)  # type: ignore[attr-defined]
    fixed = [_address(t) for t in (weight.buffers["codes"], weight.buffers["scales"], numbers, turn)]
    for one, out in zip(inputs, found, strict=True):
        sizes = _longs(rows, columns, width, bits, window, *blocks)
        kernels.luq_trellis_matvec(*fixed, _address(one), _address(work), _address(out), *sizes, _address(factors))
    return found


def _turned_back(weight: PackedWeight) -> Tensor | None:
    """A trellis-coded weight in fp32, its rotations undone."""
    kernels = library() if weight.buffers["codes"].device.type == "cpu" else None
    if kernels is None:
        return None
    (rows, columns), width = weight.shape, -(-weight.shape[1] // 16) * 16
    turn, factors, blocks = _rotation(rows, columns, int(weight.meta["seed"]))
    found = torch.empty(rows, columns)
    fixed = [_address(t) for t in (weight.buffers["codes"], weight.buffers["scales"], weight.table, turn, found)]  # type: ignore[attr-defined]
    sizes = _longs(rows, columns, width, int(weight.meta["bits"]), int(weight.meta["window"]), *blocks)
    kernels.luq_trellis_unpack(*fixed, *sizes, _address(factors))
    return found


def trellis(values: Tensor, table: Tensor, states: Tensor, bits: int, window: int) -> tuple[Tensor, Tensor] | None:
    """Viterbi search of values [sequences, length] from states [sequences]: codes uint8, last states int32."""
    kernels = library() if values.device.type == "cpu" and window >= bits + 4 else None
    if kernels is None:
        return None
    values, last = values.contiguous(), states.int().clone()
    codes = torch.empty(values.shape, dtype=torch.uint8)
    sizes = _longs(*values.shape, bits, window)
    if kernels.luq_trellis_encode(_address(values), _address(table), _address(last), _address(codes), *sizes):
        raise MemoryError("no memory for the search of a trellis: choose a smaller tier.window")
    return codes, last


def billm_errors(target: Tensor, what: Tensor | int, twice: bool = False) -> Tensor | None:
    """Summed squared errors of BiLLM's candidates for target [out, n].

    `what` rising thresholds [tried]: of splits by magnitude. `what` a number: of 1 .. so many leading columns as the salient
    ones, stored twice, and the rest once or `twice`.
    """
    rows, columns = target.shape
    kernels = library() if target.device.type == "cpu" and columns <= 1024 else None
    if kernels is None:
        return None
    target = target.contiguous()
    if isinstance(what, int):
        errors = torch.empty(rows, what)
        kernels.luq_billm_salient(_address(target), _address(errors), *_longs(rows, columns, what, twice))
    else:
        errors, what = torch.empty(rows, len(what)), what.contiguous()
        target = target.gather(1, target.abs().argsort(1))
        kernels.luq_billm_split(_address(target), _address(what), _address(errors), *_longs(rows, columns, len(what)))
    return errors.double().sum(0)
