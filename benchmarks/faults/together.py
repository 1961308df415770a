"""Several processes at the same thing at once: nothing is made twice, nothing is torn.

What comes second waits and finds what the first has made, or says that another process is at it.
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import outputs
from benchmarks.faults.forked import Act, Done, Running, luq, must_work
from benchmarks.faults.outcome import Plan, Tally
from benchmarks.faults.outputs import QUIET, RUN, SWEEP, Snapshot, snapshot, to
from luq.store.store import Store

PROCESSES = 3
LATEST = 2.0  # seconds after which the last of them starts, at most


@dataclass(frozen=True)
class Meeting:
    """A command that several processes start."""

    name: str
    act: Callable[[Path], Act]
    is_from_scratch: bool  # or it reads the outputs of a sweep
    refusals: tuple[str, ...] = ()  # of which what comes second says one; none: it waits


def _export(folder: Path) -> Act:
    run = "clusters/profile.clusters=4"
    return luq("export", run, folder / "checkpoints" / "exported", "--outputs", folder)


MEETINGS = (
    Meeting("run", lambda folder: luq(*RUN, QUIET, "checkpoint=true", to(folder)), True),
    Meeting("sweep", lambda folder: luq(*SWEEP, QUIET, "checkpoint=true", to(folder)), True),
    # Who comes when the first has finished finds the folder.
    Meeting("export", _export, False, ("another export is writing", "exists: give another")),
    Meeting(
        "report",
        lambda folder: luq("report", "clusters", "--outputs", folder),
        False,
        ("another report is writing",),
    ),
)


def together(plan: Plan) -> Tally:
    """Start the same command in several processes."""
    tally = Tally("together", plan)
    expected: dict[str, Snapshot] = {}
    for case in plan.cases():
        meeting = MEETINGS[case % len(MEETINGS)]
        if meeting.name not in expected:
            reference = _begin(meeting, plan.swept, plan.scratch / "reference")
            must_work(meeting.act(reference))
            expected[meeting.name] = snapshot(reference)
            shutil.rmtree(reference)
        folder = _begin(meeting, plan.swept, plan.scratch / f"case{case}")
        problems = _meet(meeting, folder, plan.random(case), expected[meeting.name])
        tally.add(case, f"{meeting.name} in {PROCESSES} processes", problems)
        shutil.rmtree(folder)
    return tally


def _begin(meeting: Meeting, swept: Path, folder: Path) -> Path:
    """The outputs before the processes start."""
    if meeting.is_from_scratch:
        folder.mkdir()
        return folder
    return outputs.copy(swept, folder)


def _meet(meeting: Meeting, folder: Path, rng: random.Random, expected: Snapshot) -> list[str]:
    """What did not hold when several processes did the same."""
    running: list[Running] = []
    last_start = rng.choice([0.0, 0.1, LATEST])
    for _ in range(PROCESSES):
        running.append(Running(meeting.act(folder)))
        time.sleep(rng.uniform(0, last_start / PROCESSES))
    ends = [process.wait() for process in running]
    problems = [line for done in ends for line in _problems(meeting, done)]
    if all(done.code or done.signal for done in ends):
        problems.append("none of them succeeds")
    problems += outputs.torn(folder)
    problems += outputs.differences(expected, snapshot(folder))
    labels = Counter(f"{built.stage}/{built.key}" for built in Store(folder / "store").built())
    problems += [f"{label} was made {count} times" for label, count in labels.items() if count > 1]
    return problems


def _problems(meeting: Meeting, done: Done) -> list[str]:
    """What is wrong with how one of the processes ended."""
    if "Traceback" in done.output or done.signal:
        return [f"one ends by {done.end}"]
    is_told = any(refusal in done.output for refusal in meeting.refusals)
    if done.code == 0 or is_told:
        return []
    return [f"one ends by {done.end}"]
