"""Seconds of work on a device: on CUDA a call returns before its work is done."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

TURNS = 3  # of work that is timed again and again
ENOUGH = 0.1  # seconds after which work is not timed again
SHORTEST = 0.05  # of the longest seconds: what took less counts no more in a fit
LEAST_SECONDS = 1e-6


@dataclass
class Timed:
    """What some work took, once it is done."""

    seconds: float = 0.0


@contextmanager
def timed(device: torch.device) -> Iterator[Timed]:
    """Times what is done within."""
    result = Timed()
    wait_for(device)
    begin = time.perf_counter()
    yield result
    wait_for(device)
    result.seconds = time.perf_counter() - begin


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def least_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of a few turns; of long work one turn."""
    least = float("inf")
    for _ in range(TURNS):
        with timed(device) as timing:
            work()
        least = min(least, timing.seconds)
        if timing.seconds > ENOUGH:
            break
    return least


def fitted(terms: Sequence[tuple[float, ...]], seconds: Sequence[float]) -> tuple[float, ...]:
    """Coefficients of at least zero, with the least errors relative to the seconds.

    Args:
        terms: of each measurement, what the coefficients are multiplied with.
        seconds: of each measurement.
    """
    from scipy.optimize import nnls  # late: it takes a second

    weights = 1 / np.maximum(seconds, SHORTEST * max(*seconds, LEAST_SECONDS))
    matrix = np.array(terms, dtype=float) * weights[:, None]
    scale = matrix.max(0)
    coefficients, _ = nnls(matrix / scale, np.array(seconds) * weights)
    return tuple(float(number) for number in coefficients / scale)
