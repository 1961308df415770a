"""One run: load, calibrate, profile, allocate, quantize, evaluate, record. `python -m pipelines.run` is `luq run`."""

import logging
import platform
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import hydra
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.markup import escape

from luq import __version__
from luq.config import RunConfig
from luq.errors import LuqError
from luq.evaluation import scorers
from luq.formats.memory import reset_peak
from luq.models.checkpoint import outline
from luq.questions import prompts
from luq.store import keys
from luq.store.store import Store
from pipelines import checkpoints, console, devices, results
from pipelines.records import score_part
from pipelines.schema import CONF, register, to_config
from pipelines.stages import Stages
from pipelines.tracking import make_tracker

log = logging.getLogger(__name__)
UNNAMED = ("paths", "tracking", "group=", "checkpoint=")  # overrides that no run is named after
failures: list[str] = []  # jobs of this process that failed; the command's exit code says so
PACKAGES = ("torch", "transformers", "lm_eval", "datasets", "scikit-learn", "safetensors")
OPTIONAL = (
    "torchvision",
    "triton",
)  # where they are, images are resized and linears computed another way


@cache
def versions() -> dict[str, str]:
    """Of what has a say in the numbers."""
    installed = packages_distributions()  # a module's package may have another name
    optional = {name: version(installed[name][0]) for name in OPTIONAL if name in installed}
    return {
        "luq": __version__,
        "python": platform.python_version(),
        **{p: version(p) for p in PACKAGES},
        **optional,
    }


def git_sha() -> str | None:
    """The commit of the checkout this runs from, if there is one."""
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def command() -> str:
    """The command line that gives the running job's record again, wherever it runs."""
    kept = (
        o
        for o in HydraConfig.get().overrides.task
        if not o.startswith((*UNNAMED, "model.device", "evaluation.batch_size"))
    )
    return shlex.join(["luq", "run", *kept])


def execute(stages: Stages, name: str) -> results.Record:
    """The whole chain; returns the record."""
    config, started = stages.config, time.time()
    reset_peak()
    allocation = stages.chosen.allocation
    console.out.print(f"  allocation       {allocation}")
    memory = stages.memory
    reference = stages.evaluate(*stages.reference, "evaluate 16-bit")
    scores = stages.evaluate(allocation, stages.layers)
    measured, perplexity = stages.fidelity()
    return {
        "key": keys.key(config, stages.outline.fingerprint),
        "name": name,
        "command": command(),
        "sweep": config.group,
        "config": asdict(config),
        "versions": versions(),
        "git_sha": git_sha(),
        "model_fingerprint": stages.outline.fingerprint,
        "model_commit": stages.outline.commit,
        "device": str(stages.vlm.device),
        "split": config.evaluation.split,
        "subset": {name: keys.key(ids) for name, ids in stages.evaluator.subset.items()},
        "prompt_version": prompts.VERSION,
        "calibration": {k: v for k, v in stages.calibration_info.items() if k != "sources"},
        "profile": [asdict(e) for e in stages.profile],
        "order": stages.order,
        "allocation": str(allocation),
        "tiers": list(allocation.tiers),
        "plan": asdict(stages.chosen.report),
        "layer_scores": stages.chooser.scores(),
        "k": allocation.count(config.quantizer.low)
        if config.quantizer.low != config.quantizer.high
        else len(allocation.tiers),
        "memory": asdict(memory),
        **score_part(scores, reference),
        "fidelity": measured,
        "perplexity": perplexity,
        "artefacts": stages.artefacts,
        "seconds": stages.seconds,
        "cached": stages.cached,
        "wall_seconds": sum(stages.seconds.values()),
        "finished": started + sum(stages.seconds.values()),
    }


def run(config: RunConfig, name: str) -> results.Record:
    """Execute, write the record, mirror it, show it."""
    stages = Stages(config, console.Progress())
    record = execute(stages, name)
    file = results.write(stages.outputs, record)
    results.clear_failure(stages.outputs, keys.key(config))
    make_tracker(config.tracking, stages.outputs).track(record)
    console.out.print(console.result_table(record))
    for line in (*console.flags(record), console.fidelity_line(record)):
        if line:
            console.out.print(line)
    console.out.print(console.memory_line(record["memory"]))
    found, made = len(stages.store.found), len(stages.store.made)
    if config.checkpoint:
        target = stages.outputs / "checkpoints" / record["key"]
        if not target.exists():
            checkpoints.export(stages.outputs, record, target)
        console.out.print(f"checkpoint: {target} (luq info {target})")
    console.out.print(
        f"{found} artefacts from the store, {made} made, {record['wall_seconds']:.1f} s. Record: {file}"
    )
    return record


def profile(config: RunConfig, name: str) -> None:
    """Only load, calibrate and profile; prints the entropies."""
    stages = Stages(config, console.Progress())
    console.out.print(console.entropy_table(stages.profile, stages.order))
    console.out.print(console.order_tables(stages.chooser.orders(), stages.chooser.correlations()))


def quantize(config: RunConfig, name: str) -> None:
    """Up to the packed layers; prints where they are and what they weigh."""
    stages = Stages(config, console.Progress())
    console.out.print(f"  allocation       {stages.chosen.allocation}")
    memory = asdict(stages.memory)
    console.out.print(console.memory_line(memory))
    console.out.print(f"packed layers: {stages.store.root / 'layers'}/<key>, keys in layer order:")
    console.out.print(" ".join(folder.name for folder in stages.layers))


STAGES: dict[str, Callable[[RunConfig, str], Any]] = {
    "run": run,
    "evaluate": run,
    "profile": profile,
    "quantize": quantize,
}


def job(
    stage: str,
    composed: DictConfig,
    base: Sequence[str] = (),
    once: bool = False,
    wait: bool = True,
) -> None:
    """One job of a (multi)run: errors are shown and recorded, and the next job goes on.

    `base` are overrides that its name leaves out. With `once` a job that has its record is left alone; without `wait` so is
    one that another process is at.
    """
    overrides = [
        o for o in HydraConfig.get().overrides.task if o not in base and not o.startswith(UNNAMED)
    ]
    name = " ".join(o.removeprefix("experiment=") for o in overrides) or "default"
    console.out.rule(f"[bold]{escape(name)}[/bold]", align="left")
    try:
        config = to_config(composed)
    except LuqError as error:
        _failed(name, error)
        return
    outputs, key = Path(config.paths.outputs), keys.key(config)
    lock = Store(outputs / "store").lock(f"run-{key}", f"the run {name}" if wait else "")
    try:
        with (
            lock.acquire(timeout=-1 if wait else 0),
            console.log_file(outputs / "logs" / f"{key}.log"),
        ):
            if once and done(config):
                console.out.print("  done by another process")
                return
            _attempt(stage, config, name)
    except Timeout:
        console.out.print("  another process is at it: later")


def _attempt(stage: str, config: RunConfig, name: str) -> None:
    try:
        with devices.free(config.model.device) as device:
            STAGES[stage](replace(config, model=replace(config.model, device=device)), name)
    except LuqError as error:
        _failed(name, error)
        _record_failure(config, name, error)
    except Exception as error:
        _record_failure(config, name, error)
        raise


def done(config: RunConfig) -> results.Record | None:
    """The record of a config's run, unless there is none, or it is of another model or of other scorers or prompts."""
    try:
        fingerprint = outline(config.model, download=False).fingerprint
        record = results.read(
            Path(config.paths.outputs) / "runs" / keys.key(config, fingerprint) / results.FILE
        )
    except LuqError:
        return None
    current = (record["scorer_version"], record["prompt_version"]) == (
        scorers.VERSION,
        prompts.VERSION,
    )
    return record if current else None


def _failed(name: str, error: LuqError) -> None:
    failures.append(name)
    console.fail(str(error))


def _record_failure(config: RunConfig, name: str, error: Exception) -> None:
    trace = "".join(traceback.format_exception(error))
    log.info("%s", trace)  # to the job's file; people get one line
    entry = {
        "name": name,
        "sweep": config.group,
        "error": type(error).__name__,
        "message": str(error),
        "traceback": trace,
    }
    results.write_failure(Path(config.paths.outputs), keys.key(config), entry)


def main(stage: str = "run") -> None:
    """Compose the config from sys.argv with Hydra and run one stage for every job."""
    console.log_warnings()
    register()

    def entry(composed: DictConfig) -> None:
        job(stage, composed)

    hydra.main(version_base=None, config_path=str(CONF), config_name="run")(entry)()
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
