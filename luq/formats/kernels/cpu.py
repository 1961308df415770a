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
from torch.utils.weak import WeakIdKeyDictionary

from luq.formats.base import PackedWeight
from luq.formats.binary import BinaryWeight
from luq.formats.incoherence import block_of, signs
from luq.formats.integer import IntegerWeight
from luq.formats.packing import unpack_bits, unpack_trits

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("cpu.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-fPIC")
VECTORS = 4  # inputs at a time up to which the stored bits are read once for each; beyond, unpacking once is faster
PLACES = WeakIdKeyDictionary()  # of set bits; goes with the buffer
CHUNK = 1 << 22  # weights unpacked in fp32 at a time, where another type is wanted


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, from the user's cache; None, and a line in the log, without a compiler or with LUQ_KERNELS=0."""
    compiler = next(
        (c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None
    )
    if os.environ.get("LUQ_KERNELS") == "0" or compiler is None or os.name != "posix":
        log.info(
            "no compiled kernels for packed linears: they are unpacked by torch, which is slower"
        )
        return None
    processor = next(
        (line for line in _lines("/proc/cpuinfo") if line.startswith(("flags", "Features"))),
        platform.processor(),
    )
    name = hashlib.sha256(f"{SOURCE.read_text()}{FLAGS}{compiler}{processor}".encode()).hexdigest()[
        :16
    ]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luq"
    target = cache / f"cpu-{name}.so"
    try:
        if not target.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                made = Path(scratch) / "cpu.o", Path(scratch) / "cpu.so"
                # linked without OpenMP's library: torch's own copy is taken, since two would fight over the cores
                for command in (
                    [*FLAGS, "-c", str(SOURCE), "-o", str(made[0])],
                    ["-shared", str(made[0]), "-o", str(made[1])],
                ):
                    subprocess.run([compiler, *command], check=True, capture_output=True, text=True)
                os.replace(made[1], target)
        return ctypes.CDLL(str(target), mode=os.RTLD_NOW)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or error
        log.warning(
            "the kernels for packed linears cannot be compiled: torch unpacks them, which is slower (%s)",
            told,
        )
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
        else ("signs", "salient", "flags", "residual_signs", "scales", "tops")
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
        count = (
            8 * weight.buffers["residual_signs"].numel() // rows
        )  # of salient columns: the last byte is not full
        return pointers, [int(weight.meta["block"]), count]
    return None


def longs(*values: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(v) for v in values]


def address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor | None:
    """The weight [out, in] in `dtype`."""
    if weight.format in WHOLE:
        found = WHOLE[weight.format](None, weight)
        return None if found is None else found.to(dtype)
    known = _buffers(weight) if isinstance(weight, IntegerWeight | BinaryWeight) else None
    kernels = library() if known else None
    if known is None or kernels is None:
        return None
    (pointers, sizes), (rows, columns) = known, weight.shape
    run = (
        kernels.luq_integer_unpack
        if isinstance(weight, IntegerWeight)
        else kernels.luq_binary_unpack
    )
    found = torch.empty(rows, columns, dtype=dtype)
    step = rows if dtype == torch.float32 else max(1, CHUNK // columns)
    part = found if dtype == torch.float32 else torch.empty(min(step, rows), columns)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        run(*pointers, address(part), *longs(first, last, rows, columns, *sizes))
        if part is not found:
            found[first:last] = part[: last - first]
    return found


def linear(x: Tensor, weight: PackedWeight) -> Tensor | None:
    """x W^T for up to VECTORS inputs [..., in], summed in fp32."""
    rows, columns = weight.shape
    if x.device.type != "cpu" or x.numel() > VECTORS * columns:
        return None
    inputs = x.reshape(-1, columns).float().contiguous()
    if weight.format in WHOLE:
        found = WHOLE[weight.format](inputs, weight)
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
        run(*pointers, address(one), address(sums), address(out), *longs(rows, columns, *sizes))
    return found


@lru_cache(maxsize=64)
def _rotation(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor, list[int]]:
    """Signs of columns and rows, the factors of both transforms, and their blocks."""
    blocks = [block_of(columns), block_of(rows)]
    both = torch.cat([signs(columns, seed), signs(rows, seed + 1)])
    return both, torch.tensor([block**-0.5 for block in blocks]), blocks


def _coded(inputs: Tensor | None, weight: PackedWeight) -> Tensor | None:
    """inputs [tokens, in] times a trellis-coded weight, [tokens, out]; without inputs the weight in fp32, rotations undone."""
    kernels = _ready(weight)
    if kernels is None:
        return None
    (rows, columns), width, meta = weight.shape, -(-weight.shape[1] // 16) * 16, weight.meta
    turn, factors, blocks = _rotation(rows, columns, int(meta["seed"]))
    numbers: Tensor = weight.table  # type: ignore[attr-defined]
    fixed = [address(t) for t in (weight.buffers["codes"], weight.buffers["scales"], numbers, turn)]
    sizes = longs(rows, columns, width, int(meta["bits"]), int(meta["window"]), *blocks)
    if inputs is None:
        found = torch.empty(rows, columns)
        kernels.luq_trellis_unpack(*fixed, address(found), *sizes, address(factors))
        return found
    found, work = torch.empty(len(inputs), rows), torch.empty(width)
    for one, out in zip(inputs, found, strict=True):
        kernels.luq_trellis_matvec(
            *fixed, address(one), address(work), address(out), *sizes, address(factors)
        )
    return found


@lru_cache(maxsize=1)
def _digits() -> Tensor:
    """What each byte of ternary codes holds: [256, 8], five of them used."""
    digits = unpack_trits(torch.arange(256, dtype=torch.uint8), (256, 5)).float() - 1
    return torch.nn.functional.pad(digits, (0, 3)).contiguous()


def _ternary(inputs: Tensor | None, weight: PackedWeight) -> Tensor | None:
    """As `_coded`, of a ternary weight."""
    kernels = _ready(weight)
    if kernels is None:
        return None
    (rows, columns), scales = weight.shape, weight.buffers["scales"]
    found = torch.empty(rows, columns) if inputs is None else torch.empty(len(inputs), rows)
    fixed, sizes = (
        [address(t) for t in (weight.buffers["codes"], scales, _digits())],
        longs(rows, columns, scales.shape[1]),
    )
    for one, out in [(None, found)] if inputs is None else zip(inputs, found, strict=True):
        if kernels.luq_ternary(*fixed, None if one is None else address(one), address(out), *sizes):
            raise MemoryError("no memory to unpack a row of ternary weights")
    return found


def _row_column(inputs: Tensor | None, weight: PackedWeight) -> Tensor | None:
    """As `_coded`, of signs with row and column scales."""
    kernels, block = _ready(weight), int(weight.meta["block"])
    if kernels is None:
        return None
    (rows, columns), b = weight.shape, weight.buffers
    by_column, beside = b["column_scales"].float(), b["residual_scales"].float()
    if b["salient"] not in PLACES:
        PLACES[b["salient"]] = unpack_bits(b["salient"], (columns,)).nonzero()[:, 0].int()
    places: Tensor = PLACES[b["salient"]]
    work = torch.empty(columns + len(places) + 2 * -(-columns // block) + 16)
    fixed = [
        address(t)
        for t in (b["signs"], b["residual_signs"], b["row_scales"], by_column, beside, places)
    ]
    found = torch.empty(rows, columns) if inputs is None else torch.empty(len(inputs), rows)
    for one, out in [(None, found)] if inputs is None else zip(inputs, found, strict=True):
        x = None if one is None else address(one)
        kernels.luq_row_column(
            *fixed, x, address(work), address(out), *longs(rows, columns, block, len(places))
        )
    return found


def _ready(weight: PackedWeight) -> ctypes.CDLL | None:
    """The kernels, if the weight's buffers are where they can be read."""
    fine = all(
        buffer.device.type == "cpu" and buffer.is_contiguous() for buffer in weight.buffers.values()
    )
    return library() if fine else None


WHOLE = {
    "trellis": _coded,
    "ternary": _ternary,
    "row_column": _row_column,
}  # formats whose linears are done in one call
