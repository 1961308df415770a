"""One worker beside two: wall seconds of the same small sweep, by turns.

`python benchmarks/sweep_workers.py [pairs]`

Each sweep begins with an empty store, but for the questions, which are there. Each worker has one
thread. The ratio is wanted of idle cores: the load is printed beside it.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

out = Console(highlight=False, width=100)
SWEEP = [
    "order", "order=random,depth", "order.seed=0,1", "allocation.k=2,4", "evaluation.samples=16",
    "evaluation.fidelity=8", "tracking=none",
]  # fmt: skip


class Turn(NamedTuple):
    """One sweep."""

    seconds: float
    load: float  # of the machine, as it began


def turn(workers: int, questions: Path | None, outputs: Path) -> Turn:
    """Run the sweep once."""
    if questions is not None:
        shutil.copytree(questions, outputs / "store" / "pocket")
    load = os.getloadavg()[0]
    words = [sys.executable, "-m", "pipelines.cli", "sweep", *SWEEP]
    words += [f"paths.outputs={outputs}", "--workers", str(workers)]
    begin = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
    return Turn(time.perf_counter() - begin, load)


def main(pairs: int) -> None:
    """Run the pairs, and print the median ratio."""
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        turn(2, None, root / "questions")
        questions = root / "questions" / "store" / "pocket"
        for pair in range(pairs):
            single = turn(1, questions, root / f"{pair}-1")
            double = turn(2, questions, root / f"{pair}-2")
            ratios.append(single.seconds / double.seconds)
            out.print(
                f"one worker {single.seconds:.1f} s (load {single.load:.1f}), two "
                f"{double.seconds:.1f} s (load {double.load:.1f}): {ratios[-1]:.2f}"
            )
    out.print(
        f"median {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}], n={pairs}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
