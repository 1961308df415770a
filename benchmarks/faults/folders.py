"""Mutated exported folders, as a stranger may hand them over: an error of ours, or an answer.

What is changed, and how, is in `tests.luq.export.fuzz`. Each folder has a seed of its own, which
`python -m tests.luq.export.fuzz FOLDER SCRATCH SEED 1` takes, too.
"""

import shutil
from functools import partial
from pathlib import Path

from benchmarks.faults import forked
from benchmarks.faults.forked import luq, must_work
from benchmarks.faults.outcome import Plan, Tally
from tests.luq.export.fuzz import campaign

TOGETHER = 25  # folders of one process
SEEDS = 1_000_000  # more than there are folders


def folders(plan: Plan) -> Tally:
    """Mutate an exported folder again and again."""
    tally = Tally("folders", plan)
    folder = plan.scratch / "exported"
    must_work(luq("export", "clusters/profile.clusters=4", folder, "--outputs", plan.swept))
    answered = plan.scratch / "answered"  # a line for each folder of a process that is done
    waiting = list(plan.cases())
    while waiting:
        batch = waiting[:TOGETHER]
        answered.write_text("")
        done = forked.run(partial(_batch, folder, plan, batch, answered))
        count = len(answered.read_text().splitlines())
        for case in batch[:count]:
            tally.add(case, "mutated folder", [])
        if count < len(batch):
            seed = plan.seed * SEEDS + batch[count]
            tally.add(batch[count], f"mutated folder, seed {seed}", [f"it ends by {done.end}"])
            count += 1
        waiting = waiting[count:]
    return tally


def _batch(folder: Path, plan: Plan, batch: list[int], answered: Path) -> int:
    """Mutate and load one folder after the other."""
    scratch = plan.scratch / "mutated"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with answered.open("a") as file:
        for case in batch:
            campaign(folder, scratch, plan.seed * SEEDS + case, 1)
            file.write(f"{case}\n")
            file.flush()
    return 0
