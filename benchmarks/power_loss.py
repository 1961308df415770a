"""What it costs that artefacts and records are on the disk before they count.

`python benchmarks/power_loss.py [repetitions]`

The same small run of pocket_llava into new outputs folders, in one process, alternating: as it is,
and with an fsync that does nothing. Prints the seconds that a run spends in fsync, their share, and
the ratio of the medians.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from statistics import median

from rich.console import Console

from pipelines.cli import main

out = Console(highlight=False, width=120)
REPEATS = 5
RUN = [
    "run", "allocation.k=4", "calibration.tokens=2048", "profile.tokens=512",
    "profile.clusters=20", "evaluation.samples=4", "evaluation.fidelity=2",
    "evaluation.text_tokens=1024", "tracking=none",
]  # fmt: skip
FSYNC = os.fsync


class Timed:
    """An fsync that is timed, or none."""

    def __init__(self, is_real: bool):
        self.is_real = is_real
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, descriptor: int) -> None:
        begin = time.perf_counter()
        if self.is_real:
            FSYNC(descriptor)
        self.seconds += time.perf_counter() - begin
        self.calls += 1


def run(fsync: Timed) -> float:
    """Seconds of one run into a new folder."""
    os.fsync = fsync
    try:
        with tempfile.TemporaryDirectory(prefix="luq-") as outputs:
            begin = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                code = main([*RUN, f"paths.outputs={outputs}"])
            if code:
                raise SystemExit(code)
            return time.perf_counter() - begin
    finally:
        os.fsync = FSYNC


def measure(repeats: int) -> None:
    """Print what syncing costs."""
    run(Timed(is_real=True))  # loads the model and lm-eval
    seconds: dict[bool, list[float]] = {True: [], False: []}
    in_fsync: list[float] = []
    calls = 0
    for _ in range(repeats):
        for is_real in (True, False):
            fsync = Timed(is_real)
            seconds[is_real].append(run(fsync))
            if is_real:
                in_fsync.append(fsync.seconds)
                calls = fsync.calls
    with_sync, without = median(seconds[True]), median(seconds[False])
    out.print(
        f"{calls} fsyncs take {median(in_fsync):.2f} s of {with_sync:.2f} s "
        f"({100 * median(in_fsync) / with_sync:.1f} %); with / without {with_sync / without:.3f} "
        f"(medians of {repeats})"
    )


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS)
