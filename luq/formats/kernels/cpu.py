"""The compiled C kernels: made once per machine, and not used without a compiler."""

import ctypes
import logging
import os
import subprocess
import textwrap
from functools import lru_cache

from torch import Tensor

from luq.formats.kernels.cache import installed_compiler, open_library

log = logging.getLogger(__name__)
REASON_CHARACTERS = 300  # of a compiler's complaint, in one line of the log


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels.

    None, with a line in the log, with LUQ_KERNELS=0 or where they cannot be had.
    """
    if os.environ.get("LUQ_KERNELS") == "0":
        log.info("LUQ_KERNELS=0: packed linears are unpacked by torch, which is slower")
        return None
    compiler = installed_compiler() if os.name == "posix" else None
    if compiler is None:
        log.warning(
            "no C compiler for the kernels of packed linears (cc, gcc, clang, or CC): torch unpacks"
            " them, which is slower"
        )
        return None
    try:
        return open_library(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        log.warning(
            "the kernels for packed linears cannot be compiled: torch unpacks them, which is"
            " slower (%s)",
            textwrap.shorten(reason, REASON_CHARACTERS),
        )
        return None


def library_for(*buffers: Tensor | None) -> ctypes.CDLL | None:
    """The compiled kernels, if these buffers are where they can be read."""
    for buffer in buffers:
        if buffer is not None and (buffer.device.type != "cpu" or not buffer.is_contiguous()):
            return None
    return library()


def address(tensor: Tensor | None) -> ctypes.c_void_p | None:
    """Where a tensor's numbers lie, for C; NULL for None."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def longs(*values: int) -> list[ctypes.c_int64]:
    """Sizes, for C."""
    return [ctypes.c_int64(value) for value in values]


def quarters(bits: float) -> int:
    """Bits of a trellis code in quarters, as the C files count them."""
    return round(4 * bits)


def has_memory(failed: int) -> None:
    """Stop where a kernel had no memory for its rows.

    Raises:
        MemoryError: It returned 1.
    """
    if failed:
        raise MemoryError("no memory to decode rows of a packed linear")
