"""Compiled searches: Viterbi's for trellis codes, the errors of BiLLM's candidates, its values.

None where there is no compiler, and then the methods search in torch.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64, Integer
from torch import Tensor

from luq.formats.kernels.cpu import address, library, library_for, longs, quarters
from luq.formats.packing import code_widths

log = logging.getLogger(__name__)
WIDEST_BLOCK = 1024  # columns, for which cpu.c has room
SMALLEST_STEMS = 4  # bits of a window beyond a code's: cpu.c takes sixteen stems at a time
FAR = 1e30  # cost of a state in which no path begins
Path = Int32[Tensor, "sequences length"]


class FourLevels(NamedTuple):
    """Four values for each row, rising, and each row's error."""

    levels: Float64[Tensor, "out 4"]
    errors: Float64[Tensor, " out"]


class SortedValues(NamedTuple):
    """Rows in rising order, and the column that each value came from."""

    values: Float32[Tensor, "out n"]
    order: Int64[Tensor, "out n"]


@lru_cache(maxsize=1)
def has_triton() -> bool:
    return find_spec("triton") is not None


def viterbi(
    values: Float32[Tensor, "sequences length"],
    numbers: Float32[Tensor, " states"],
    states: Integer[Tensor, " sequences"],
    bits: float,
    window: int,
) -> Path:
    """The best path, in torch: slow, and what the compiled searches are compared with.

    Args:
        values: What is coded; the first one is at the beginning of a tile.
        numbers: What the 2^window states stand for.
        states: In which each sequence begins.
        bits: Bits of a code.
        window: Bits of a state.

    Returns:
        The states [sequences, length] with the least squared error.
    """
    numbers = numbers.to(values.device)
    widths = code_widths(values.shape[1], bits).tolist()
    cost = torch.full((len(values), 1 << window), FAR, device=values.device)
    cost[torch.arange(len(values)), states.long()] = 0
    choices = []
    for t, width in enumerate(widths):
        fan = 1 << width  # predecessors of a state, and successors
        stems = 1 << (window - width)  # a stem is what predecessors of a state have in common
        least, best = cost.view(-1, fan, stems).min(1)
        choices.append(best.to(torch.uint8))
        error = values[:, t, None] - numbers
        cost = least.repeat_interleave(fan, 1) + error * error
    state = cost.argmin(1)
    path = []
    for best, width in zip(reversed(choices), reversed(widths), strict=True):
        path.append(state.int())
        stem = state >> width
        predecessor = best.gather(1, stem[:, None])[:, 0].long()
        state = stem | predecessor << (window - width)
    return torch.stack(path[::-1], 1)


@lru_cache(maxsize=32)
def _gpu_agrees(bits: float, window: int, device: torch.device) -> bool:
    """Whether the GPU's search runs and agrees: a driver or a card may not like the kernel."""
    from triton.errors import TritonError

    from luq.formats.kernels import gpu  # imports triton, which is optional

    try:
        return _agrees(gpu.search, bits, window, device)
    except (RuntimeError, ValueError, TritonError) as error:
        log.warning(
            "the GPU's search of trellis codes does not run here: torch searches, which is"
            " slower (%s)",
            error,
        )
        return False


@lru_cache(maxsize=32)
def _cpu_agrees(kernels: ctypes.CDLL, bits: float, window: int) -> bool:
    """Whether the search that was compiled here agrees: a compiler may err."""
    return _agrees(partial(_cpu_search, kernels), bits, window, torch.device("cpu"))


def _agrees(
    compiled_search: Callable[[Tensor, Tensor, Tensor, float, int], Tensor],
    bits: float,
    window: int,
    device: torch.device,
) -> bool:
    """Whether a search finds paths as good as torch's on a small case; a line if not."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 40, generator=generator).to(device)
    numbers = torch.randn(1 << window, generator=generator).to(device)
    states = torch.arange(4, dtype=torch.int32, device=device)
    fast_path = compiled_search(values, numbers, states, bits, window)
    slow_path = viterbi(values, numbers, states, bits, window)
    same = _is_path(fast_path, states, bits, window)
    if same:
        fast_error = (values - numbers[fast_path.long()]).square().sum(1)
        slow_error = (values - numbers[slow_path.long()]).square().sum(1)
        same = torch.allclose(fast_error, slow_error, rtol=1e-4)
    if not same:
        log.warning(
            "the compiled search of trellis codes (%s) gives other paths than torch's: torch"
            " searches, which is slower",
            device,
        )
    return same


def _is_path(path: Tensor, states: Tensor, bits: float, window: int) -> bool:
    """Whether each state follows from the one before it."""
    previous = torch.cat([states[:, None], path[:, :-1]], 1)
    shifts = code_widths(path.shape[1], bits).to(path.device)
    is_state = (path >= 0) & (path < 1 << window)
    # A code moves the window on: the state's bits before the code were the last ones of the
    # state before it.
    moved = previous << shifts & ((1 << window) - 1)
    follows = path >> shifts == moved >> shifts
    return bool((is_state & follows).all())


def trellis(
    values: Float32[Tensor, "sequences length"],
    numbers: Float32[Tensor, " states"],
    states: Integer[Tensor, " sequences"],
    bits: float,
    window: int,
) -> Path | None:
    """As `viterbi`, compiled; None where nothing compiled can do it.

    Raises:
        MemoryError: The search has no room for its choices.
    """
    if values.device.type == "cuda" and has_triton() and os.environ.get("LUQ_KERNELS") != "0":
        if not _gpu_agrees(bits, window, values.device):
            return None
        from luq.formats.kernels import gpu  # imports triton, which is optional

        return gpu.search(values, numbers.to(values.device), states, bits, window)
    fits = values.device.type == "cpu" and window >= bits + SMALLEST_STEMS
    kernels = library() if fits else None
    if kernels is None or not _cpu_agrees(kernels, bits, window):
        return None
    return _cpu_search(kernels, values, numbers, states, bits, window)


def _cpu_search(
    kernels: ctypes.CDLL, values: Tensor, numbers: Tensor, states: Tensor, bits: float, window: int
) -> Path:
    values = values.contiguous()
    path = torch.empty(values.shape, dtype=torch.int32)
    states = states.int().contiguous()
    pointers = [address(tensor) for tensor in (values, numbers, states, path)]
    sizes = longs(*values.shape, quarters(bits), window)
    if kernels.luq_trellis_encode(*pointers, *sizes):
        raise MemoryError("no memory for the search of a trellis: choose a smaller tier.window")
    return path


def billm_errors(
    target: Float32[Tensor, "out n"], tried: Float[Tensor, " tried"] | int
) -> Float64[Tensor, " candidates"] | None:
    """Summed squared errors of BiLLM's candidates.

    Args:
        target: The weights [out, n] of a block.
        tried: Rising thresholds: of splits by magnitude. A number: of 1 .. so many leading columns
            as the salient ones, they and the others stored twice.
    """
    kernels = _library_for_rows(target)
    if kernels is None or not _billm_agrees(kernels):
        return None
    return _compiled_errors(kernels, target, tried)


def sorted_rows(values: Float32[Tensor, "out n"]) -> SortedValues | None:
    """Rows in rising order, equal values as they stood, compiled; None where that cannot be."""
    kernels = _library_for_rows(values)
    if kernels is None or not _comparisons_agree(kernels):
        return None
    return _compiled_order(kernels, values)


def _compiled_order(kernels: ctypes.CDLL, values: Float32[Tensor, "out n"]) -> SortedValues:
    values = values.contiguous()
    ordered = torch.empty(values.shape)
    order = torch.empty(values.shape, dtype=torch.int64)
    pointers = [address(tensor) for tensor in (values, ordered, order)]
    kernels.luq_sort_rows(*pointers, *longs(*values.shape))
    return SortedValues(ordered, order)


def nearest_of_four(
    column: Float32[Tensor, " out"], values: Float32[Tensor, "4 out"]
) -> tuple[Float32[Tensor, " out"], Float32[Tensor, " out"]] | None:
    """The index of the nearest value of each row, and that value, compiled; or None.

    Of equally near ones the first.
    """
    kernels = library_for(column, values)
    if kernels is None or not _comparisons_agree(kernels):
        return None
    return _compiled_nearest(kernels, column, values)


def _compiled_nearest(
    kernels: ctypes.CDLL, column: Float32[Tensor, " out"], values: Float32[Tensor, "4 out"]
) -> tuple[Float32[Tensor, " out"], Float32[Tensor, " out"]]:
    codes = torch.empty(column.shape)
    nearest = torch.empty(column.shape)
    pointers = [address(tensor) for tensor in (column, values, codes, nearest)]
    kernels.luq_nearest_of_four(*pointers, *longs(len(column)))
    return codes, nearest


@lru_cache(maxsize=1)
def _comparisons_agree(kernels: ctypes.CDLL) -> bool:
    """Whether rows are sorted and nearest values found as torch does it; a line if not."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-4, 5, (4, 37), generator=generator).float()  # many are equal
    column = torch.randn(37, generator=generator)
    nearest_codes = (column - values).abs().argmin(0)
    compiled = (
        *_compiled_order(kernels, values),
        *_compiled_nearest(kernels, column, values),
    )
    plain = (
        *values.sort(dim=1, stable=True),
        nearest_codes.float(),
        values.gather(0, nearest_codes[None])[0],
    )
    if all(torch.equal(mine, torchs) for mine, torchs in zip(compiled, plain, strict=True)):
        return True
    log.warning(
        "the compiled sorting of rows or search of nearest values is not torch's: torch does both,"
        " which is slower"
    )
    return False


def four_levels(
    values: Float32[Tensor, "out n"],
    order: Int64[Tensor, "out n"],
    importance: Float32[Tensor, " n"],
    start: Float64[Tensor, " 4"],
    paired: bool,
    turns: int,
) -> FourLevels | None:
    """As `luq.quantization.lloyd.SortedRows.fit`, compiled; None where nothing compiled can do it.

    Args:
        values: Rows in rising order.
        order: The column of each value.
        importance: Of the columns.
        start: Where the four levels begin, in standard deviations.
        paired: Whether they are c - u, c - v, c + v, c + u.
        turns: Of Lloyd's algorithm.
    """
    kernels = _library_for_rows(values)
    if kernels is None:
        return None
    rows, columns = values.shape
    levels = torch.empty(rows, len(start), dtype=torch.double)
    errors = torch.empty(rows, dtype=torch.double)
    inputs = [tensor.contiguous() for tensor in (values, order, importance, start)]
    pointers = [address(tensor) for tensor in (*inputs, levels, errors)]
    kernels.luq_four_levels(*pointers, *longs(rows, columns, int(paired), turns))
    return FourLevels(levels, errors)


def _library_for_rows(values: Tensor) -> ctypes.CDLL | None:
    """The compiled kernels, if they have room for these rows of a block."""
    fits = values.device.type == "cpu" and values.shape[1] <= WIDEST_BLOCK
    return library() if fits else None


def _compiled_errors(
    kernels: ctypes.CDLL, target: Float32[Tensor, "out n"], tried: Float[Tensor, " tried"] | int
) -> Float64[Tensor, " candidates"]:
    rows, columns = target.shape
    target = target.contiguous()
    if isinstance(tried, int):
        errors = torch.empty(rows, tried, dtype=torch.double)
        kernels.luq_billm_salient(address(target), address(errors), *longs(rows, columns, tried))
        return errors.sum(0)
    thresholds = tried.contiguous()
    errors = torch.empty(rows, len(thresholds), dtype=torch.double)
    pointers = [address(tensor) for tensor in (target, thresholds, errors)]
    kernels.luq_billm_split(*pointers, *longs(rows, columns, len(thresholds)))
    return errors.sum(0)


@lru_cache(maxsize=1)
def _billm_agrees(kernels: ctypes.CDLL) -> bool:
    """Whether the compiled errors of both kinds are torch's on a small case; a line if not."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 37, generator=generator)
    thresholds = target.abs().flatten().quantile(torch.linspace(0.1, 0.9, 5))
    for tried in (thresholds, 20):
        compiled = _compiled_errors(kernels, target, tried)
        if not torch.allclose(compiled, _plain_errors(target, tried), rtol=1e-3):
            log.warning(
                "the compiled errors of BiLLM's candidates are other ones than torch's: torch"
                " computes them, which is slower"
            )
            return False
    return True


def _plain_errors(
    target: Float32[Tensor, "out n"], tried: Float[Tensor, " tried"] | int
) -> Float64[Tensor, " candidates"]:
    """As `billm_errors`, a row and a candidate at a time."""
    columns = torch.arange(target.shape[1])
    if isinstance(tried, int):
        groups = [columns < count for count in range(1, tried + 1)]
        masks = [group.expand_as(target) for group in groups]
    else:
        masks = [target.abs() <= threshold for threshold in tried]
    errors = torch.zeros(len(masks), dtype=torch.double)
    for candidate, mask in enumerate(masks):
        for row, chosen in zip(target.double(), mask, strict=True):
            for part in (row[chosen], row[~chosen]):
                residual = _binarization_error(part)
                if isinstance(tried, int):  # stored twice
                    residual = _binarization_error(residual)
                errors[candidate] += residual.square().sum()
    return errors


def _binarization_error(values: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """w - (mean + scale * sign(w - mean)), with scale = mean |w - mean|."""
    if not len(values):
        return values
    centred = values - values.mean()
    scale = centred.abs().mean()
    return torch.where(centred >= 0, centred - scale, centred + scale)
