"""Named sweeps: `luq sweep NAME`. A grid of runs, of which what is missing or failed is launched.

Hydra's launchers run them: one after the other in this process, in local processes (joblib), or on
a cluster (Slurm, Ray). With `--workers` or `--scheduler` workers of dask make their artefacts
(`cluster.py`).
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from rich.text import Text

from luq.config import RunConfig
from luq.errors import ConfigError, LuqError, StoreError
from luq.store.store import Store
from pipelines import console, run, runs_folder
from pipelines.composing import Composer
from pipelines.conf_folder import CONF
from pipelines.follow import MIRROR, Lack, lacks
from pipelines.grid import Grid
from pipelines.next_steps import after_runs
from pipelines.record import RunRecord
from pipelines.schema import composition_error, to_config

DONE = "done"
RUNNING = "running"
FAILED = "failed"
MISSING = "missing"
STATES = (DONE, RUNNING, FAILED, MISSING)


class State(NamedTuple):
    """One of STATES, and the reason of a failure in one line."""

    name: str
    reason: str = ""


class Found(NamedTuple):
    """What there is of a run: its state, and its record if it has one."""

    state: State
    record: RunRecord | None = None
    is_complete: bool = False  # nothing is missing that its config asks for beside the record


@dataclass(frozen=True)
class ImpossibleJob:
    """A run of a sweep whose settings do not fit together."""

    name: str
    overrides: list[str]
    error: str

    def look(self) -> Found:
        """It has failed before it began."""
        return Found(State(FAILED, self.error))


@dataclass(frozen=True)
class Job:
    """A run of a sweep: its overrides, and the config that they make."""

    name: str
    overrides: list[str]
    config: RunConfig

    @property
    def outputs(self) -> Path:
        """Where its record goes."""
        return Path(self.config.paths.outputs)

    @property
    def log_file(self) -> Path:
        """Where its log goes."""
        return self.outputs / "logs" / f"{self.key}.log"

    @cached_property
    def key(self) -> str:
        """Of its lock, its log and its failure."""
        return run.config_key(self.config)

    def busy(self) -> bool:
        """Whether a process is at it."""
        return Store(self.outputs / "store").is_locked(f"run-{self.key}")

    def look(self) -> Found:
        """What became of it up to now."""
        record = run.done(self.config)
        lacking = [] if record is None else lacks(record, self.config, self.outputs)
        is_complete = record is not None and not lacking
        return Found(self._state(record, lacking), record, is_complete)

    def _state(self, record: RunRecord | None, lacking: list[Lack]) -> State:
        if record is not None and not lacking:
            return State(DONE)
        if self.busy():
            return State(RUNNING)
        try:
            failure = runs_folder.failure(self.outputs, self.key)
        except StoreError as error:  # the note of one run must not hide the others
            return State(FAILED, str(error))
        if failure is None:
            return _without_failure(record, lacking)
        first_line = failure.message.partition("\n")[0]
        return State(FAILED, f"{failure.error}: {first_line}")


AnyJob = Job | ImpossibleJob
Makers = Callable[[Sequence[Job]], None]


def _without_failure(record: RunRecord | None, lacking: list[Lack]) -> State:
    """The state of a run that nobody is at and that did not fail."""
    if record is None:
        return State(MISSING)
    names = " and ".join(lack.name for lack in lacking)
    reasons = "; ".join(lack.reason for lack in lacking if lack.reason)
    ending = f" ({reasons})" if reasons else ""
    reason = f"its record is there without its {names}{ending}"
    # A mirror that fails never fails a run: the next start tries again.
    is_failed_mirror = [lack.name for lack in lacking] == [MIRROR] and reasons != ""
    return State(DONE if is_failed_mirror else MISSING, reason)


class Sweep(Grid):
    """A grid whose runs have states, and that can be run."""

    @cached_property
    def jobs(self) -> list[AnyJob]:
        """All runs, in the order in which they start."""
        jobs: list[AnyJob] = []
        with initialize_config_dir(str(CONF), version_base=None):
            composer = Composer(self.search_path)
            for overrides in self.combinations():
                name = run.job_name([o for o in overrides if o not in self.base])
                try:
                    config = to_config(composer.compose(overrides), self.base)
                    jobs.append(Job(name, overrides, config))
                except HydraException as error:
                    reason = str(composition_error(error))
                    jobs.append(ImpossibleJob(name, overrides, reason))
                except LuqError as error:
                    jobs.append(ImpossibleJob(name, overrides, str(error).splitlines()[0]))
        return jobs

    @property
    def possible(self) -> list[Job]:
        """The runs whose settings fit together."""
        return [job for job in self.jobs if isinstance(job, Job)]

    def launch(self, jobs: Sequence[Job], wait: bool) -> None:
        """Run the jobs with the launcher that the command line chose."""
        task = partial(run.job, "run", base=tuple(self.base), once=True, wait=wait)
        of_hydra = [o for o in self.overrides if o not in self.task]
        places = [o for o in self.task if o.startswith("paths.")]
        with initialize_config_dir(str(CONF), version_base=None, job_name="luq"):
            hydra = GlobalHydra.instance().hydra
            if hydra is None:  # initialize_config_dir has just made it
                raise ConfigError("Hydra could not be started")
            try:
                config = hydra.compose_config(
                    "run",
                    [*of_hydra, *places, *self.search_path],
                    run_mode=RunMode.MULTIRUN,
                    with_log_configuration=False,
                )
            except HydraException as error:
                raise _launcher_error(error) from error
            # a launcher wants callbacks, and only this class of Hydra's own makes them
            context = HydraContext(hydra.config_loader, Callbacks(config))
            launcher = Plugins.instance().instantiate_launcher(context, task, config)
            launcher.launch([job.overrides for job in jobs], initial_job_idx=0)

    def look(self) -> list[Found]:
        """What there is of each run, in the order of `jobs`."""
        return [job.look() for job in self.jobs]

    def run(self, crew: Makers | None = None) -> bool:
        """Run what is missing or failed; true if all of it is done in the end.

        Args:
            crew: who makes the runs' artefacts and writes their records; None: each run its own,
                with the launcher that the command line chose.
        """
        outcomes = self.look()
        todo: list[Job] = []
        for job, before in zip(self.jobs, outcomes, strict=True):
            if isinstance(job, ImpossibleJob):
                continue
            if before.record is not None:
                lock = Store(job.outputs / "store").lock(f"run-{job.key}", "")
                with lock.acquire():
                    runs_folder.note(job.outputs, self.definition.name, before.record.key, job.name)
            if not before.is_complete:
                todo.append(job)
        console.out.print(
            f"sweep {self.definition.name}: {len(self.jobs)} runs, "
            f"{len(self.jobs) - len(todo)} done or impossible"
        )
        if todo:
            self._run_all(todo, crew)
            outcomes = self.look()
        records: dict[str, RunRecord] = {}
        for job, after in zip(self.jobs, outcomes, strict=True):
            if after.record is not None:
                records[job.name] = after.record
        console.out.print(console.sweep_table(records))
        for line in failure_lines(self.jobs, outcomes):
            console.out.print(line, soft_wrap=True)
        if records:
            console.show_next(after_runs(list(records.values())))
        return all(after.state.name == DONE for after in outcomes)

    def _run_all(self, todo: Sequence[Job], crew: Makers | None) -> None:
        """Launch runs that are not complete."""
        for job in todo:
            runs_folder.clear_failure(job.outputs, job.key)
        if crew is not None:
            crew(todo)
        # first what no other process is at and mirrors that failed, then what others have left
        for wait, states in ((False, (MISSING, RUNNING, DONE)), (True, (MISSING, RUNNING))):
            remaining_jobs: list[Job] = []
            for job in todo:
                now = job.look()
                if not now.is_complete and now.state.name in states:
                    remaining_jobs.append(job)
            if remaining_jobs:
                self.launch(remaining_jobs, wait)


def _launcher_error(error: HydraException) -> ConfigError:
    first_line = str(error).splitlines()[0].rstrip(".")
    if "hydra/launcher" not in first_line:
        return ConfigError(first_line)
    extras = "Launchers are extras: pip install 'luq[parallel]' or 'luq[slurm]'"
    return ConfigError(f"{first_line}. {extras}")


def failure_lines(jobs: Sequence[AnyJob], outcomes: Sequence[Found]) -> list[Text]:
    """One line per run of which there is something to say: its name, the reason, its log."""
    lines: list[Text] = []
    for job, (state, _, _) in zip(jobs, outcomes, strict=True):
        if state.name == FAILED:
            log = f"  ({job.log_file})" if isinstance(job, Job) else ""
            lines.append(console.failure_line(job.name, state.reason, log))
        elif state.reason:
            lines.append(console.note_line(job.name, state.reason))
    return lines


def show_status(sweep: Sweep) -> list[Found]:
    """Print the state of every run.

    Returns:
        What there is of each, in the order of its jobs.

    Raises:
        OSError: the outputs are no folder.
    """
    for outputs in {job.outputs for job in sweep.possible}:
        # A file, or what lies below one, is said: its runs would only seem to be missing.
        with contextlib.suppress(FileNotFoundError):
            os.listdir(outputs)
    outcomes = sweep.look()
    states: dict[str, str] = {}
    for job, (state, _, _) in zip(sweep.jobs, outcomes, strict=True):
        states[job.name] = state.name
    console.out.print(console.status_table(sweep.definition.name, states))
    for line in failure_lines(sweep.jobs, outcomes):
        console.out.print(line, soft_wrap=True)
    counts = [f"{list(states.values()).count(state)} {state}" for state in STATES]
    console.out.print(", ".join(counts))
    return outcomes
