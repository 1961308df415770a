"""Kills at random changes to files, and what is there afterwards and after a new start.

Each case is one command into a folder of its own. It is killed at a random change, often killed
again on the way, and then left to finish. Nothing that is there may be torn after a kill; in the
end all must be what a run without a kill made, and nothing may be left behind.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from benchmarks.faults import forked, outputs
from benchmarks.faults.forked import Act, luq, must_work
from benchmarks.faults.outcome import Plan, Tally
from benchmarks.faults.outputs import GGUF, QUIET, RUN, SWEEP, Snapshot, snapshot, to
from benchmarks.faults.training import train_act
from luq.store.store import Store
from pipelines import runs_folder

AGAIN = 0.35  # share of starts after a kill that are killed, too
LONGEST = 6  # kills of a case


@dataclass(frozen=True)
class Scenario:
    """A command that is killed."""

    name: str
    share: int  # of a hundred cases
    act: Callable[[Path], Act]  # by the folder that it works in
    torn: Callable[[Path], list[str]] = outputs.torn
    prepare: Callable[[Path], object] = Path.mkdir


@dataclass(frozen=True)
class Measured:
    """What a scenario does without a kill."""

    changes: int
    result: Snapshot


def _run(*settings: str) -> Callable[[Path], Act]:
    return lambda folder: luq(*RUN, to(folder), *settings)


def _sweep(folder: Path) -> Act:
    return luq(*SWEEP, QUIET, "checkpoint=true", to(folder))


def _export(*options: str) -> Callable[[Path], Act]:
    def act(folder: Path) -> Act:
        key = next(folder.glob("runs/*")).name
        # among the folders that are checked, as those of `checkpoint=true`
        target = folder / "checkpoints" / "exported"
        return luq("export", key, target, *options, "--outputs", folder)

    return act


def _report(folder: Path) -> Act:
    return luq("report", "clusters", "--outputs", folder)


def _rescore(folder: Path) -> Act:
    return luq("rescore", "--outputs", folder)


def _torn_training(folder: Path) -> list[str]:
    """Which states of a training cannot be read."""
    lines: list[str] = []
    for file in folder.glob("*.pt"):
        try:
            torch.load(file, weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            lines.append(f"{file} is torn: {error}")
    return lines


def scenarios(swept: Path, reported: Path) -> list[Scenario]:
    """The commands, of which some begin with the outputs of a sweep.

    Args:
        swept: The outputs of `SWEEP`.
        reported: Where a copy of them with a report is made when it is needed.
    """

    def finished(folder: Path) -> None:
        outputs.copy(swept, folder)

    def with_report(folder: Path) -> None:
        """Every file of the report is there from an earlier one."""
        if not reported.exists():
            must_work(_report(outputs.copy(swept, reported)))
        finished(folder)
        for file in (reported / "report").rglob("*"):
            old = folder / file.relative_to(reported)
            if file.is_file():
                old.parent.mkdir(parents=True, exist_ok=True)
                old.write_bytes(outputs.OLD)

    def misscored(folder: Path) -> None:
        """All scores are those of another version."""
        finished(folder)
        for record in list(runs_folder.iterate(folder)):
            runs_folder.write(folder, replace(record, scorer_version=0, mean_score=1.0))

    return [
        Scenario("run", 28, _run(QUIET)),
        Scenario("run checkpoint=true", 16, _run(QUIET, "checkpoint=true")),
        Scenario("run tracking=wandb_offline", 3, _run()),
        Scenario("sweep", 25, _sweep),
        Scenario("export", 8, _export(), prepare=finished),
        Scenario("export --format gguf", 8, _export(*GGUF), prepare=finished),
        Scenario("report", 4, _report, prepare=finished),
        Scenario("report over a report", 4, _report, prepare=with_report),
        Scenario("rescore", 6, _rescore, prepare=misscored),
        Scenario("pocket train", 6, train_act, _torn_training),
    ]


def kills(plan: Plan) -> Tally:
    """Kill commands until as many kills as asked for have happened."""
    tally = Tally("kills", plan)
    choices = scenarios(plan.swept, plan.scratch / "reported")
    measured: dict[str, Measured] = {}
    case = plan.case or 0
    while tally.tried < plan.count:
        rng = plan.random(case)
        scenario = rng.choices(choices, [choice.share for choice in choices])[0]
        if scenario.name not in measured:
            measured[scenario.name] = _measured(scenario, plan.scratch / "reference")
        folder = plan.scratch / f"case{case}"
        story = _case(scenario, measured[scenario.name], folder, rng)
        what = f"{scenario.name} killed at {story.places}"
        tally.add(case, what, story.problems, len(story.places))
        shutil.rmtree(folder)
        if plan.case is not None:
            break
        case += 1
    return tally


def _measured(scenario: Scenario, folder: Path) -> Measured:
    """What a scenario does without a kill."""
    scenario.prepare(folder)
    done = must_work(scenario.act(folder), folder)
    result = snapshot(folder)
    shutil.rmtree(folder)
    return Measured(done.changes, result)


@dataclass
class Story:
    """A case: the changes at which it was killed, and what did not hold."""

    places: list[int]
    problems: list[str]


def _case(scenario: Scenario, measured: Measured, folder: Path, rng: Random) -> Story:
    """Kill a command, start it again until it ends, and compare."""
    story = Story([], [])
    scenario.prepare(folder)
    act = scenario.act(folder)
    is_killed = True
    while is_killed:
        kill_at = rng.randint(1, measured.changes)
        if story.places and (len(story.places) >= LONGEST or rng.random() > AGAIN):
            kill_at = 0
        done = forked.run(act, folder, kill_at)
        is_killed = done.was_killed
        if is_killed:
            story.places.append(kill_at)
            place = f"after the kill at {kill_at} of {measured.changes}"
            torn = scenario.torn(folder) + outputs.torn_files(folder, measured.result)
            story.problems += [f"{place}: {line}" for line in torn]
    if done.code or done.signal:
        story.problems.append(f"the start after the kills ends by {done.end}")
        return story
    story.problems += outputs.differences(measured.result, snapshot(folder))
    story.problems += _damage(folder)
    return story


def _damage(folder: Path) -> list[str]:
    """What `luq store verify` finds in the end."""
    if not (folder / "store").exists():
        return []
    done = forked.run(luq("store", "verify", "--outputs", folder))
    unfinished = [
        f"{stage}/{key} is a leftover" for stage, key in Store(folder / "store").leftovers()
    ]
    return unfinished + ([] if done.code == 0 else [f"luq store verify ends by {done.end}"])
