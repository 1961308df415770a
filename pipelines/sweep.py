"""Named sweeps: `luq sweep NAME`. A grid of runs, of which exactly what is missing or failed is launched.

conf/sweep/NAME.yaml holds `about` (one line), `base` (overrides that all runs share) and `grid`: a list of parts, each a
table of key -> values in Hydra's grammar (`2,4,6`, `range(0,11,2)`), whose combinations are the runs. Hydra's launchers run
them: one after the other in this process, in local processes (joblib), or on a cluster (Slurm, Ray).
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import Timeout
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from rich.markup import escape
from rich.table import Table

from luq import keys, registry, results
from luq.config import RunConfig
from luq.errors import ConfigError, LuqError
from luq.store import Store
from pipelines import console, run
from pipelines.schema import CONF, check_choices, register, to_config

FOLDER = CONF / "sweep"
STATES = ("done", "running", "failed", "missing")


class Definition(NamedTuple):
    """A sweep as its file says it."""

    name: str
    about: str
    base: list[str]
    grid: list[dict[str, str]]


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read(name: str) -> Definition:
    """A named sweep; a ConfigError with the nearest names if there is none."""
    if name not in names():
        raise registry.unknown("sweep", name, names())
    told = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return Definition(name, told["about"], told.get("base", []), told["grid"])


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
            return "failed", f"{failed['error']}: {failed['message'].splitlines()[0] if failed['message'] else ''}"
        return "missing", ""


@dataclass
class Sweep:
    """A definition with the overrides of a command line. `luq sweep pareto seed=0,1 hydra/launcher=joblib`."""

    definition: Definition
    overrides: list[str]
    parser: OverridesParser = field(init=False)

    def __post_init__(self) -> None:
        register()
        check_choices([o for o in self.overrides if not o.startswith("hydra")])
        self.parser = OverridesParser.create()

    @property
    def base(self) -> list[str]:
        """What all runs share, in the words of their overrides."""
        single = [o for o in self.task if not self.parser.parse_override(o).is_sweep_override()]
        return [f"group={self.definition.name}", *self.definition.base, *single]

    @property
    def task(self) -> list[str]:
        return [o for o in self.overrides if not o.startswith("hydra")]

    def _parts(self) -> list[dict[str, str]]:
        """The parts of the grid after the command line.

        For an axis of some parts: the choices of a config group (`order=entropy`) keep only those runs that have them,
        values (`allocation.k=2,4`) replace the file's in the parts that have the axis.
        """
        parts = [dict(part) for part in self.definition.grid]
        for key, value in self.given.items():
            having = [part for part in parts if key in part]
            if not having:
                continue
            if not (CONF / key).is_dir():
                for part in having:
                    part[key] = value
                continue
            wanted = self._values(key, value)
            kept = {i: [v for v in self._values(key, part[key]) if v in wanted] for i, part in enumerate(parts) if key in part}
            if any(kept.values()):
                parts = [part | {key: ",".join(kept[i])} for i, part in enumerate(parts) if kept.get(i)]
            else:
                parts = [part | {key: value} for part in having]
        return parts

    def _values(self, key: str, value: str) -> list[str]:
        """The single values of an axis."""
        parsed = self.parser.parse_overrides([f"{key}={value}"])
        return [run[0].partition("=")[2] for run in BasicSweeper.split_arguments(parsed, None)[0]]

    @cached_property
    def given(self) -> dict[str, str]:
        """Key -> value of the command line's overrides for the runs."""
        return {self._key(o): o.partition("=")[2] for o in self.task}

    def combinations(self) -> list[list[str]]:
        """The overrides of every run."""
        axes = {key for part in self.definition.grid for key in part}
        extra = [o for o in self.task if self._key(o) not in axes]
        fixed = [o for o in (f"group={self.definition.name}", *self.definition.base) if self._key(o) not in self.given]
        found: dict[tuple[str, ...], None] = {}
        try:
            for part in self._parts():
                parsed = self.parser.parse_overrides([*fixed, *extra, *(f"{key}={value}" for key, value in part.items())])
                found |= {tuple(run): None for run in BasicSweeper.split_arguments(parsed, None)[0]}
        except HydraException as error:
            raise ConfigError(f"sweep {self.definition.name}: {str(error).splitlines()[0]}") from error
        return [list(run) for run in found]

    @staticmethod
    def _key(override: str) -> str:
        return override.lstrip("+").partition("=")[0]

    @cached_property
    def jobs(self) -> list[Job]:
        """All runs, in the order in which they start."""
        jobs = []
        with initialize_config_dir(str(CONF), version_base=None):
            from hydra import compose

            for overrides in self.combinations():
                shown = [o for o in overrides if o not in self.base and not o.startswith(run.UNNAMED)]
                name = " ".join(o.removeprefix("experiment=") for o in shown) or "default"
                try:
                    jobs.append(Job(name, overrides, to_config(compose("run", overrides))))
                except (LuqError, HydraException) as error:
                    jobs.append(Job(name, overrides, None, str(error).splitlines()[0]))
        return jobs

    def launch(self, jobs: Sequence[Job], wait: bool) -> None:
        """Run the jobs with the launcher that the command line chose."""
        task = partial(run.job, "run", base=tuple(self.base), once=True, wait=wait)
        given = [o for o in self.overrides if o.startswith("hydra")]
        places = [o for o in self.task if o.startswith("paths.")]
        with initialize_config_dir(str(CONF), version_base=None, job_name="luq"):
            started = GlobalHydra.instance().hydra
            assert started is not None
            try:
                config = started.compose_config("run", [*given, *places], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
            except HydraException as error:
                first = str(error).splitlines()[0]
                raise ConfigError(f"{first}. Launchers are extras: pip install 'luq[parallel]' or 'luq[slurm]'") from error
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
        console.out.print(f"sweep {self.definition.name}: {len(self.jobs)} runs, {len(self.jobs) - len(todo)} done or impossible")
        for job in todo:
            results.clear_failure(job.outputs, job.key)
        for wait in (False, True):  # first what no other process is at, then what they have left
            rest = [job for job in todo if job.state()[0] in ("missing", "running")]
            if rest:
                self.launch(rest, wait)
        console.out.print(summary(self.jobs))
        for line in failures(self.jobs):
            console.out.print(line)
        return all(job.record() for job in self.jobs)


def summary(jobs: Sequence[Job]) -> Table:
    """Finished runs, smallest file first; * where no smaller or equal one scores higher."""
    shown = Table(title="finished runs, smallest first; * on the Pareto front of bytes and score", title_justify="left")
    for name in ("run", "stored bits", "checkpoint", "score", "retention %", "KL"):
        shown.add_column(name, justify="left" if name == "run" else "right")
    records = [(job.name, record) for job in jobs if (record := job.record())]
    best = float("-inf")
    for name, record in sorted(records, key=lambda r: (r[1]["memory"]["checkpoint_bytes"], -r[1]["mean_score"])):
        front = record["mean_score"] > best
        best = max(best, record["mean_score"])
        kept, kl = record["mean_retention"], [f["kl"][0] for f in record["fidelity"].values() if f["n"]]
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
    shown.add_column("", overflow="fold")
    colours = {"done": "green", "running": "cyan", "failed": "red", "missing": "dim"}
    states = [job.state() for job in sweep.jobs]
    for job, (state, reason) in zip(sweep.jobs, states, strict=True):
        shown.add_row(escape(job.name), f"[{colours[state]}]{state}[/{colours[state]}]", escape(reason))
    console.out.print(shown)
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
        console.out.print("luq sweep NAME [--plan] [override ...]; luq status NAME [override ...]", markup=False)
        return
    console.log_warnings()
    sweep = Sweep(read(words[0]), words[1:])
    if command == "status":
        status(sweep)
    elif plan:
        planning.show(sweep)
    elif not sweep.run():
        sys.exit(1)
