"""The commands that take Hydra overrides, each a job of a (multi)run.

Errors of a job are shown and recorded, and the next job goes on.
"""

import logging
import math
import shlex
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from luq.allocation import steadiness
from luq.config import RunConfig
from luq.config.building import plain
from luq.config.unread import reads, unread
from luq.errors import LuqError, system_message
from luq.evaluation import scorers
from luq.formats.memory import peak_bytes
from luq.formats.sizes import memory
from luq.planning import LayerScores
from luq.questions import prompts
from luq.store.keys import digest
from luq.store.store import Store
from pipelines import console, devices, runs_folder
from pipelines.conf_folder import CONF, allow_modules
from pipelines.execute import RunIdentity, choose, execute, workbench
from pipelines.follow import follow, make_up
from pipelines.graph import Graph
from pipelines.objectives import Values, objective_values
from pipelines.record import ELSEWHERE, MACHINE, RunRecord
from pipelines.run_names import NAMELESS
from pipelines.schema import as_asked, settings_of, to_config
from pipelines.space import check_space
from pipelines.tracking import RunStart, make_tracker

log = logging.getLogger(__name__)
# Overrides that no run is named after.
UNNAMED = ("paths", "tracking", "group=", "checkpoint=", "objective=")
UNREPEATED = (*UNNAMED, "model.device", "evaluation.batch_size")  # and that its command leaves out


def config_key(config: RunConfig) -> str:
    """Of a run's settings alone, whatever the checkpoint: names its lock, its log and its failure.

    Not of those that say where and on what it is computed: a job that was given the second GPU is
    the same job.
    """
    settings = plain(config)
    for name in ELSEWHERE:
        del settings[name]
    for group, name in MACHINE:
        del settings[group][name]
    return digest("config", settings)


def command(config: RunConfig) -> str:
    """The command line that gives the running job's record again, wherever it runs.

    What a sweep set for all its runs and this one does not read is left out.
    """
    overrides: list[str] = []
    for override in _overrides():
        name = override.lstrip("+").partition("=")[0]
        if not override.startswith(UNREPEATED) and reads(config, name):
            overrides.append(override)
    return shlex.join(["luq", "run", *_own_configs(), *overrides])


def _overrides() -> list[str]:
    """The running job's overrides as they were given, with their ${interpolations}."""
    task: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return list(task)


def _own_configs() -> list[str]:
    """The option that names the user's folder of configs, if Hydra looked into one."""
    config_dir = _own_folder()
    return [] if config_dir is None else ["--config-dir", str(config_dir)]


def _own_folder() -> Path | None:
    """The user's folder of configs, if Hydra looked into one."""
    for source in HydraConfig.get().runtime.config_sources:
        if source.schema == "file" and Path(source.path) != CONF:
            return Path(source.path)
    return None


def job_name(overrides: Sequence[str]) -> str:
    """What a run is called: the overrides by which it differs from its neighbours."""
    words = [o.removeprefix("experiment=") for o in overrides if not o.startswith(UNNAMED)]
    return " ".join(words) or NAMELESS


def run(config: RunConfig, name: str) -> RunRecord:
    """Execute, write the record, show it, and do what follows a record."""
    bench = workbench(config)
    outputs = Path(config.paths.outputs)
    live = make_tracker(config.tracking, outputs).live(RunStart(bench.graph.key, name, config))
    bench.clock.watchers.append(live)
    try:
        record = execute(bench, RunIdentity(name, command(config)))
        file = runs_folder.write(outputs, record)
    except BaseException:
        live.fail()
        raise
    runs_folder.clear_failure(outputs, config_key(config))
    console.show_record(record)
    follow(record, config, outputs, live)
    console.out.print(
        f"{len(bench.store.found)} artefacts from the store, {len(bench.store.made)} made, "
        f"{record.wall_seconds:.1f} s. Record: {file}"
    )
    return record


def profile(config: RunConfig, name: str) -> None:
    """Only calibrate and profile; print the entropies and what orders make of them."""
    bench = workbench(config)
    with bench.clock.stage("calibrate"):
        for calibration in bench.graph.draws:
            bench.store.get(calibration)
    scores = LayerScores(bench.graph, bench.store.get)
    with bench.clock.stage("profile"):
        entropies = scores.profile
    draws = config.order.draws
    console.out.print(console.entropy_table(entropies, scores.order(), draws))
    console.out.print(_noise(scores))
    console.out.print(console.order_tables(scores.orders(), scores.correlations()))


def _noise(scores: LayerScores) -> str:
    """How steady the order of entropy is."""
    settings = scores.config
    if settings.order.draws == 1:
        repetitions = settings.profile.seeds
        modality = settings.order.modality
        return console.k_means_noise(steadiness.of_k_means([scores.profile], modality, repetitions))
    draws = scores.score_of_draws("entropy")
    return console.draws_noise(
        len(draws), steadiness.between_draws(draws), steadiness.between_halves(draws)
    )


def quantize(config: RunConfig, name: str) -> None:
    """Up to the packed layers; print where they are and what they weigh."""
    bench = workbench(config)
    check_space(bench.graph, bench.store)
    chosen, part_plans = choose(bench)
    layers = bench.graph.layers(chosen.allocation)
    sizes = bench.quantize(layers, "quantize")
    parts = bench.pack_parts(part_plans.parts)
    float_rest = bench.store.get(bench.graph.rest)
    console.out.print(console.memory_line(memory(sizes, float_rest.ledger, peak_bytes(), parts)))
    folder = bench.store.root / "layers"
    console.out.print(f"packed layers: {folder}/<key>, keys in layer order:")
    console.out.print(" ".join(layer.key for layer in layers))


STAGES: dict[str, Callable[[RunConfig, str], RunRecord | None]] = {
    "run": run,
    "evaluate": run,
    "profile": profile,
    "quantize": quantize,
}


class Failures:
    """The jobs of this process that failed: the command's exit code says so."""

    def __init__(self) -> None:
        self.names: list[str] = []


class Finished:
    """The records of the runs of this process: a command says what can be done with them."""

    def __init__(self) -> None:
        self.records: list[RunRecord] = []


def job(
    stage: str,
    composed: DictConfig,
    base: Sequence[str] = (),
    once: bool = False,
    wait: bool = True,
    failures: Failures | None = None,
    finished: Finished | None = None,
    untitled: Sequence[str] = (),
) -> Values:
    """One job of a (multi)run.

    Args:
        stage: a name of `STAGES`.
        composed: what Hydra made of the job's overrides.
        base: overrides that its name leaves out.
        once: leave a job alone that has its record.
        wait: for another process that is at the same job; else leave it alone.
        failures: where the names of failed jobs go.
        finished: where the record goes.
        untitled: overrides that all jobs share; the line above the job's output leaves them out.

    Returns:
        The values of `objective`, which Hydra hands to its sweeper: a number, or a list for
        several; NaN if there is no record.
    """
    overrides = [o for o in _overrides() if o not in base]
    name = job_name(overrides)
    failures = failures or Failures()
    own_overrides = [o for o in overrides if o not in untitled]
    console.show_title(job_name(own_overrides or overrides))
    allow_modules(_own_folder())  # of a launcher's workers too
    try:
        # `luq profile` reads settings of the profile whatever the plan.
        config = as_asked(composed) if stage == "profile" else to_config(composed, base)
    except LuqError as error:
        failures.names.append(name)
        console.fail(str(error))
        return math.nan
    if stage != "profile":
        _tell_unread(composed, base)
    record = _locked(_Job(stage, config, name, once, wait), failures)
    if record is not None and finished is not None:
        finished.records.append(record)
    return objective_values(config.objective, record)


class _Job(NamedTuple):
    """What `job` is asked for, with its config."""

    stage: str
    config: RunConfig
    name: str
    once: bool
    wait: bool


def _locked(job: _Job, failures: Failures) -> RunRecord | None:
    """Do a job while no other process does; its record, None if it has none."""
    config, name = job.config, job.name
    outputs = Path(config.paths.outputs)
    key = config_key(config)
    try:
        lock = Store(outputs / "store").lock(f"run-{key}", f"the run {name}" if job.wait else "")
        with (
            lock.acquire(timeout=-1 if job.wait else 0),
            console.log_file(outputs / "logs" / f"{key}.log"),
        ):
            record = done(config) if job.once else None
            if record is not None:
                _complete(record, config, name, failures)
                return record
            return _attempt(job.stage, config, name, failures)
    except Timeout:
        console.out.print("  another process is at it: later")
    except OSError as error:  # of the folder of outputs itself: what a job does is caught in there
        _fail(config, name, error, failures)
    return None


def _tell_unread(composed: DictConfig, base: Sequence[str]) -> None:
    """Say which settings of the run itself it does not read; it has their defaults."""
    names_by_reader: dict[str, list[str]] = {}
    for setting in unread(as_asked(composed)):
        if not setting.is_among(settings_of(base)):
            names_by_reader.setdefault(setting.reader, []).append(setting.name)
    for reader, names in names_by_reader.items():
        console.out.print(f"  no effect: {', '.join(names)} (for {reader})")


def _complete(record: RunRecord, config: RunConfig, name: str, failures: Failures) -> None:
    """Make what a finished run lacks."""
    console.out.print("  its record is there")
    try:
        make_up(record, config, Path(config.paths.outputs))
    except (LuqError, OSError) as error:
        _fail(config, name, error, failures)


def _attempt(stage: str, config: RunConfig, name: str, failures: Failures) -> RunRecord | None:
    try:
        with devices.free(config.model.device) as device:
            return STAGES[stage](replace(config, model=replace(config.model, device=device)), name)
    except (LuqError, OSError) as error:
        _fail(config, name, error, failures)
    except Exception as error:
        record_failure(config, name, error)
        raise
    return None


def _fail(config: RunConfig, name: str, error: Exception, failures: Failures) -> None:
    """Show and record why a job failed, and let the next one go on.

    An OSError that is not one of the system is a fault of a program, and goes on.
    """
    message: str | None = str(error)
    if isinstance(error, OSError):
        message = system_message(error, config.paths.outputs)
    record_failure(config, name, error)
    if message is None:
        raise error
    failures.names.append(name)
    console.fail(message)


def record_failure(config: RunConfig, name: str, error: Exception) -> None:
    """Note why a run has no record: in its log, and where `luq status` looks."""
    trace = "".join(traceback.format_exception(error))
    log.info("%s", trace)  # to the job's file; people get one line
    failure = runs_folder.Failure(
        key=config_key(config),
        name=name,
        sweep=config.group,
        error=type(error).__name__,
        message=str(error),
        traceback=trace,
    )
    with suppress(OSError):  # a disk may be full, which is why the job failed
        runs_folder.write_failure(Path(config.paths.outputs), failure)


def done(config: RunConfig) -> RunRecord | None:
    """The record of a config's run.

    None if there is none, if it is of another model or of other questions, or if it was scored by
    an older version.
    """
    outputs = Path(config.paths.outputs)
    try:
        graph = Graph(config, outputs / "store", download=False)
        record = runs_folder.read(runs_folder.record_file(outputs, graph.key))
    except LuqError:
        return None
    versions = (record.scorer_version, record.prompt_version)
    return record if versions == (scorers.VERSION, prompts.VERSION) else None
