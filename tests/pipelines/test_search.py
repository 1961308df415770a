"""A search with optuna: what is asked, what is told, and how a killed one goes on."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luq.errors import ConfigError, StoreError
from pipelines import runs_folder
from pipelines.objectives import READERS, objective_values
from pipelines.search import SearchSettings, Space, search
from tests.pipelines.command import luq_to
from tests.pipelines.test_tracking import golden_record

optuna = pytest.importorskip("optuna", reason="needs optuna: pip install 'luq[optuna]'")

OVERRIDES = ["model=pocket_llava", "group=hunt", "allocation.k=range(1,9)", "order=lim,kl"]
TWO = ["retention", "checkpoint_bytes"]


def settings(outputs: Path, **changes: Any) -> SearchSettings:
    values: dict[str, Any] = {
        "n_trials": 6, "n_jobs": 1, "sampler": "tpe", "seed": 0, "study_name": "hunt",
        "storage": None, "outputs": outputs, "objective": TWO, "direction": None,
    }  # fmt: skip
    return SearchSettings.of(values | changes)


def worth(job: Sequence[str]) -> list[float]:
    """More low layers: fewer bytes, less retention."""
    (k,) = (int(word.partition("=")[2]) for word in job if word.startswith("allocation.k"))
    return [1 - k / 10, 1000.0 - k]


class Launcher:
    """Remembers the jobs that it was given, and gives them their worth."""

    def __init__(self, die_at: int | None = None):
        self.jobs: list[list[str]] = []
        self.batches: list[int] = []
        self.die_at = die_at

    def __call__(self, jobs: Sequence[Sequence[str]], first: int) -> list[Any]:
        self.batches.append(len(jobs))
        for job in jobs:
            self.jobs.append(list(job))
            if len(self.jobs) == self.die_at:
                raise KeyboardInterrupt  # the trial stays under way, as after a kill
        return [worth(job) for job in jobs]


def study_of(outputs: Path, name: str = "hunt") -> Any:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{outputs}/optuna/{name}.db")


def test_the_space_is_written_in_hydras_grammar() -> None:
    space = Space.of(
        [
            "a=1,2", "b=choice(x,y)", "c=range(2,9,3)", "d=range(0,1,0.5)", "e=interval(0,1)",
            "f=int(interval(1,8))", "g=tag(log,interval(0.1,10))", "h=3", "i=[1,2],[3]",
        ]
    )  # fmt: skip
    kinds = optuna.distributions
    assert space.fixed == ["h=3"]
    assert space.distributions == {
        "a": kinds.CategoricalDistribution(["1", "2"]),
        "b": kinds.CategoricalDistribution(["x", "y"]),
        "c": kinds.IntDistribution(2, 8, step=3),
        "d": kinds.CategoricalDistribution(["0.0", "0.5"]),
        "e": kinds.FloatDistribution(0.0, 1.0),
        "f": kinds.IntDistribution(1, 8),
        "g": kinds.FloatDistribution(0.1, 10.0, log=True),
        "i": kinds.CategoricalDistribution(["[1,2]", "[3]"]),
    }
    assert space.overrides({"a": "2", "f": 3}) == ["h=3", "a=2", "f=3"]


def test_two_objectives_give_a_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Launcher()
    search(settings(tmp_path), OVERRIDES, launcher)
    assert len(launcher.jobs) == 6
    assert all(job[:2] == OVERRIDES[:2] for job in launcher.jobs)
    study = study_of(tmp_path)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    ks = {trial.params["allocation.k"] for trial in study.trials}
    assert {trial.params["allocation.k"] for trial in study.best_trials} == ks
    assert "trials that no other beats, of 6" in capsys.readouterr().out


def test_a_killed_search_goes_on_with_the_trial_that_it_was_at(tmp_path: Path) -> None:
    first = Launcher(die_at=3)
    with pytest.raises(KeyboardInterrupt):
        search(settings(tmp_path), OVERRIDES, first)
    second = Launcher()
    search(settings(tmp_path), OVERRIDES, second)
    assert second.jobs[0] == first.jobs[2]
    assert len(second.jobs) == 6 - 2
    states = [trial.state.name for trial in study_of(tmp_path).trials]
    assert states.count("COMPLETE") == 6
    assert states.count("RUNNING") == 0
    search(settings(tmp_path), OVERRIDES, third := Launcher())
    assert third.jobs == []
    search(settings(tmp_path, n_trials=8), OVERRIDES, more := Launcher())
    assert len(more.jobs) == 2


def test_resuming_does_not_ask_for_the_same_random_numbers(tmp_path: Path) -> None:
    wide = [*OVERRIDES[:2], "allocation.k=range(1,1000)"]
    launcher = Launcher()
    for trials in (3, 6):
        search(settings(tmp_path, sampler="random", n_trials=trials), wide, launcher)
    assert len({tuple(job) for job in launcher.jobs}) == 6


def test_trials_are_launched_together(tmp_path: Path) -> None:
    launcher = Launcher()
    search(settings(tmp_path, n_jobs=4), OVERRIDES, launcher)
    assert launcher.batches == [4, 2]


def test_a_failed_run_is_a_trial_and_ends_no_search(tmp_path: Path) -> None:
    def failing(jobs: Sequence[Sequence[str]], first: int) -> list[Any]:
        return [[math.nan, math.nan] if first == 1 else worth(job) for job in jobs]

    search(settings(tmp_path, n_trials=3), OVERRIDES, failing)
    search(settings(tmp_path, n_trials=3), OVERRIDES, again := Launcher())
    assert again.jobs == []
    states = [trial.state.name for trial in study_of(tmp_path).trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ([*OVERRIDES, "seed=1"], {}),
        ([*OVERRIDES[:3], "order=lim"], {}),
        (OVERRIDES, {"objective": ["kl", "checkpoint_bytes"]}),
    ],
)
def test_a_study_of_something_else_is_not_gone_on_with(
    tmp_path: Path, overrides: list[str], changes: dict[str, Any]
) -> None:
    search(settings(tmp_path, n_trials=1), OVERRIDES, Launcher())
    with pytest.raises(ConfigError, match="begun with other settings"):
        search(settings(tmp_path, **changes), overrides, Launcher())
    search(settings(tmp_path, n_trials=1), [*OVERRIDES, "tracking=none"], Launcher())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trials": 0}, "n_trials"),
        ({"sampler": "tpee"}, "did you mean tpe"),
        ({"study_name": "a/b"}, "study_name"),
        ({"direction": "up"}, "direction"),
        ({"direction": ["maximize"]}, "direction"),
    ],
)
def test_settings_that_do_not_work_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **changes)


def test_a_search_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to search"):
        search(settings(tmp_path), ["allocation.k=2"], Launcher())


def test_a_damaged_study_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "optuna" / "hunt.db"
    file.parent.mkdir()
    file.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        search(settings(tmp_path), OVERRIDES, Launcher())


def test_every_objective_reads_a_record() -> None:
    record = golden_record()
    for name in READERS:
        assert isinstance(objective_values([name], record), float)
    values = objective_values(TWO, record)
    assert values == [record.mean_retention, record.memory.checkpoint_bytes]
    assert all(math.isnan(value) for value in objective_values(TWO, None))  # type: ignore[union-attr]


CHEAP = [
    "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "objective=[retention,checkpoint_bytes]",
    "allocation=uniform", "quantizer.high=rtn4,float16", "evaluation.samples=2", "evaluation.fidelity=0",
    "evaluation.text_tokens=0", "evaluation.benchmarks=[gqa]", "tracking=none", "group=hunt",
]  # fmt: skip


def test_a_command_that_was_killed_goes_on(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        "-m",
        *CHEAP,
        f"paths.outputs={tmp_path}",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=dict(os.environ))
    for _ in range(1200):
        if list((tmp_path / "runs").glob("*/result.json")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = luq_to(tmp_path, "run", "-m", *CHEAP)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = study_of(tmp_path).trials
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(complete) == 3
    by_name = {record.config.quantizer.high: record for record in runs_folder.iterate(tmp_path)}
    for trial in complete:
        record = by_name[trial.params["quantizer.high"]]
        assert trial.values == [record.mean_retention, record.memory.checkpoint_bytes]
    assert "luq report hunt" in done.stdout
