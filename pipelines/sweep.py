"""Named sweeps: `luq sweep NAME`. A grid of runs, of which exactly what is missing or failed is launched.

Hydra's launchers run them: one after the other in this process, in local processes (joblib), or on a cluster (Slurm, Ray).
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from filelock import Timeout
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from rich.markup import escape
from rich.table import Table

from luq.config import RunConfig
from luq.errors import ConfigError, LuqError
from luq.store import keys
from luq.store.store import Store
from pipelines import console, results, run
from pipelines.grid import Grid, names, read
from pipelines.schema import CONF, to_config

STATES = ("done", "running", "failed", "missing")


@dataclass(frozen=True)
class Job:
    """One run of a sweep: all its overrides, and its config or why it has none."""

    name: str
    overrides: list[str]
    config: RunConfig | None = None
    error: str = ""

    @property
    def outputs(self) -> Path:
        assert self.config is not None
        return Path(self.config.paths.outputs)

    @cached_property
    def key(self) -> str:
        return keys.key(self.config)

    def record(self) -> results.Record | None:
        return run.done(self.config) if self.config else None

    def busy(self) -> bool:
        """Whether a process is at it."""
        try:
            with Store(self.outputs / "store").lock(f"run-{self.key}", "").acquire(timeout=0):
                return False
        except Timeout:
            return True

    def state(self) -> tuple[str, str]:
        """One of STATES, and the reason of a failure in one line."""
        if self.config is None:
            return "failed", self.error
        if self.record():
            return "done", ""
        if self.busy():
            return "running", ""
        failed = results.failure(self.outputs, self.key)
        if failed:
            return (
                "failed",
                f"{failed['error']}: {failed['message'].splitlines()[0] if failed['message'] else ''}",
            )
        return "missing", ""


class Sweep(Grid):
    """A grid whose runs have states, and that can be run."""

    @cached_property
    def jobs(self) -> list[Job]:
        """All runs, in the order in which they start."""
        jobs = []
        with initialize_config_dir(str(CONF), version_base=None):
            from hydra import compose

            for overrides in self.combinations():
                shown = [
                    o for o in overrides if o not in self.base and not o.startswith(run.UNNAMED)
                ]
                name = " ".join(o.removeprefix("experiment=") for o in shown) or "default"
                try:
                    jobs.append(Job(name, overrides, to_config(compose("run", overrides))))
                except (LuqError, HydraException) as error:
                    jobs.append(Job(name, overrides, None, str(error).splitlines()[0]))
        return jobs

    def launch(self, jobs: Sequence[Job], wait: bool) -> None:
        """Run the jobs with the launcher that the command line chose."""
        task = partial(run.job, "run", base=tuple(self.base), once=True, wait=wait)
        given = [o for o in self.overrides if o not in self.task]
        places = [o for o in self.task if o.startswith("paths.")]
        with initialize_config_dir(str(CONF), version_base=None, job_name="luq"):
            started = GlobalHydra.instance().hydra
            assert started is not None
            try:
                config = started.compose_config(
                    "run",
                    [*given, *places],
                    run_mode=RunMode.MULTIRUN,
                    with_log_configuration=False,
                )
            except HydraException as error:
                first = str(error).splitlines()[0]
                missing = "hydra/launcher" in first
                hint = (
                    ". Launchers are extras: pip install 'luq[parallel]' or 'luq[slurm]'"
                    if missing
                    else ""
                )
                raise ConfigError(f"{first.rstrip('.')}{hint}") from error
            context = HydraContext(started.config_loader, Callbacks(config))
            launcher = Plugins.instance().instantiate_launcher(context, task, config)
            launcher.launch([job.overrides for job in jobs], initial_job_idx=0)

    def run(self) -> bool:
        """Run what is missing or failed; true if all of it is done in the end."""
        for job in self.jobs:
            if record := job.record():
                with Store(job.outputs / "store").lock(f"run-{job.key}", "").acquire():
                    results.note(job.outputs, self.definition.name, record["key"], job.name)
        todo = [job for job in self.jobs if job.config and not job.record()]
        console.out.print(
            f"sweep {self.definition.name}: {len(self.jobs)} runs, {len(self.jobs) - len(todo)} done or impossible"
        )
        for job in todo:
            results.clear_failure(job.outputs, job.key)
        for wait in (False, True):  # first what no other process is at, then what they have left
            rest = [job for job in todo if job.state()[0] in ("missing", "running")]
            if rest:
                self.launch(rest, wait)
        console.out.print(summary(self.jobs))
        for line in failures(self.jobs):
            console.out.print(line, soft_wrap=True)
        return all(job.record() for job in self.jobs)


def summary(jobs: Sequence[Job]) -> Table:
    """Finished runs, smallest file first; * where no smaller or equal one scores higher."""
    shown = Table(
        title="finished runs, smallest first; * on the Pareto front of bytes and score",
        title_justify="left",
    )
    for name in ("run", "stored bits", "checkpoint", "score", "retention %", "KL"):
        shown.add_column(name, justify="left" if name == "run" else "right")
    records = [(job.name, record) for job in jobs if (record := job.record())]
    best = float("-inf")
    for name, record in sorted(
        records, key=lambda r: (r[1]["memory"]["checkpoint_bytes"], -r[1]["mean_score"])
    ):
        front = record["mean_score"] > best
        best = max(best, record["mean_score"])
        kept, kl = (
            record["mean_retention"],
            [f["kl"][0] for f in record["fidelity"].values() if f["n"]],
        )
        shown.add_row(
            escape(name) + (" *" if front else ""),
            f"{record['memory']['stored_bits']:.3f}",
            console.human(record["memory"]["checkpoint_bytes"]),
            f"{record['mean_score']:.1f}",
            "-" if kept is None else f"{100 * kept:.1f}",
            f"{sum(kl) / len(kl):.3f}" if kl else "-",
        )
    return shown


def failures(jobs: Sequence[Job]) -> list[str]:
    """One line per failed run: its name, the reason, and where its log is."""
    lines = []
    for job in jobs:
        state, reason = job.state()
        if state == "failed":
            log = f"  ({job.outputs / 'logs' / f'{job.key}.log'})" if job.config else ""
            lines.append(f"[bold red]failed[/bold red] {escape(job.name)}: {escape(reason)}{log}")
    return lines


def status(sweep: Sweep) -> None:
    """Print the state of every run."""
    shown = Table(title=f"sweep {sweep.definition.name}", title_justify="left")
    shown.add_column("run")
    shown.add_column("state")
    colours = {"done": "green", "running": "cyan", "failed": "red", "missing": "dim"}
    states = [job.state() for job in sweep.jobs]
    for job, (state, _) in zip(sweep.jobs, states, strict=True):
        shown.add_row(escape(job.name), f"[{colours[state]}]{state}[/{colours[state]}]")
    console.out.print(shown)
    for line in failures(sweep.jobs):
        console.out.print(line, soft_wrap=True)
    counts: dict[str, Any] = Counter(state for state, _ in states)
    console.out.print(", ".join(f"{counts.get(state, 0)} {state}" for state in STATES))


def main(command: str, arguments: list[str]) -> None:
    """`luq sweep NAME [--plan] [override ...]` and `luq status NAME [override ...]`."""
    from pipelines import planning

    plan, words = "--plan" in arguments, [a for a in arguments if a != "--plan"]
    if not words or "=" in words[0] or words[0].startswith("-"):
        listing = Table(title="named sweeps", title_justify="left")
        listing.add_column("name")
        listing.add_column("what it asks")
        for name in names():
            listing.add_row(name, read(name).about)
        console.out.print(listing)
        console.out.print(
            "luq sweep NAME [--plan] [override ...]; luq status NAME [override ...]", markup=False
        )
        return
    console.log_warnings()
    sweep = Sweep(read(words[0]), words[1:])
    if command == "status":
        status(sweep)
    elif plan:
        planning.show(sweep)
    elif not sweep.run():
        sys.exit(1)
