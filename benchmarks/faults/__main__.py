"""`python -m benchmarks.faults [PART ...]`: the reliability campaign.

Parts: kills, damage, inputs, folders, together; all by default. Prints one table, and each case
that did not hold; `PART --seed S --case N` tries a single one again.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not outlive a fork
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from benchmarks.faults.switch import is_here, start_again

COUNTS = {"kills": 200, "damage": 300, "inputs": 1000, "folders": 1000, "together": 12}


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(COUNTS))
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--case", type=int, help="only this case of each part")
    for part, count in COUNTS.items():
        parser.add_argument(f"--{part}", type=int, default=count, metavar="N", help=f"({count})")
    chosen = parser.parse_args()
    for part in chosen.parts:
        if part not in COUNTS:
            parser.error(f"there is no part {part!r}: {', '.join(COUNTS)}")
    return chosen


def campaign(chosen: argparse.Namespace, scratch: Path) -> bool:
    """Try all parts; whether everything held."""
    from benchmarks.faults import forked, outcome, outputs
    from benchmarks.faults.damage import damages
    from benchmarks.faults.folders import folders
    from benchmarks.faults.inputs import inputs
    from benchmarks.faults.kills import kills
    from benchmarks.faults.together import together

    parts: dict[str, Callable[[outcome.Plan], outcome.Tally]] = {
        "kills": kills,
        "damage": damages,
        "inputs": inputs,
        "folders": folders,
        "together": together,
    }
    forked.import_all()
    forked.must_work(forked.luq("pocket", "data", scratch / "questions"))
    swept = _enter(scratch / "swept")
    forked.must_work(forked.luq(*outputs.SWEEP, outputs.QUIET, outputs.to(swept)))
    tallies = []
    for name in chosen.parts or COUNTS:
        folder = _enter(scratch / name)
        plan = outcome.Plan(chosen.seed, getattr(chosen, name), folder, swept, chosen.case)
        tallies.append(parts[name](plan))
    return outcome.show(tallies, chosen.seed)


def _enter(folder: Path) -> Path:
    """Make a folder and go there, beside the questions that runs find as `../questions`."""
    folder.mkdir()
    os.chdir(folder)
    return folder


def main() -> int:
    """The exit code: 1 if anything did not hold."""
    chosen = arguments()
    if not is_here():
        return start_again()
    with tempfile.TemporaryDirectory(prefix="luq-faults-") as scratch:
        return 0 if campaign(chosen, Path(scratch)) else 1


if __name__ == "__main__":
    sys.exit(main())
