"""Trackers follow a run, and mirror its record.

The JSON record is the truth; a tracker can never fail a run.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from luq.config import RunConfig, TrackingConfig
from luq.config.building import plain
from luq.store.sealed import sealed
from pipelines.record import Interval, RunRecord, to_json
from pipelines.runs_folder import FILE

log = logging.getLogger(__name__)
PROGRESS_SECONDS = 10.0  # between two points of a bar's curve


class RunStart(NamedTuple):
    """What is known of a run when it begins."""

    key: str  # of its record
    name: str
    config: RunConfig


class LiveRun(Protocol):
    """A run as its tracker sees it from its beginning on. Nothing in it can fail the run."""

    def stage(self, name: str, seconds: float, made: int) -> None:
        """A stage has ended; `made`: artefacts that the store did not have."""
        ...

    def progress(self, name: str, done: int, total: int) -> None:
        """Steps of a bar are done."""
        ...

    def finish(self, record: RunRecord, packed: Path | None) -> str:
        """Mirror the record, and the folder of the packed model if there is one.

        Returns:
            Why that failed; empty if it did not.
        """
        ...

    def fail(self) -> None:
        """The run failed: it has no record."""
        ...


class Tracker(Protocol):
    """A mirror for each run, opened when it begins or made up for later; and one per report."""

    def live(self, start: RunStart) -> LiveRun:
        """A run that begins."""
        ...

    def track(self, record: RunRecord, packed: Path | None = None) -> str:
        """Mirror one finished record; returns why that failed, empty if it did not."""
        ...

    def track_report(
        self,
        name: str,
        summary: dict[str, Any],
        rows: list[dict[str, Any]],
        images: dict[str, Path],
    ) -> None: ...


class NoLiveRun:
    """Tells nobody."""

    def stage(self, name: str, seconds: float, made: int) -> None:
        return None

    def progress(self, name: str, done: int, total: int) -> None:
        return None

    def finish(self, record: RunRecord, packed: Path | None) -> str:
        return ""

    def fail(self) -> None:
        return None


class NoTracker:
    """Mirrors nothing."""

    def live(self, start: RunStart) -> LiveRun:
        return NoLiveRun()

    def track(self, record: RunRecord, packed: Path | None = None) -> str:
        return ""

    def track_report(
        self,
        name: str,
        summary: dict[str, Any],
        rows: list[dict[str, Any]],
        images: dict[str, Path],
    ) -> None:
        return None


class WandbLiveRun:
    """A W&B run that is open while the stages of a run go on."""

    def __init__(self, tracker: "WandbTracker", start: RunStart):
        self._opened = ExitStack()
        self._run: Any = None
        self._wandb: Any = None
        self._last_progress = 0.0
        self._error = tracker.safely(lambda: self._open(tracker, start))
        self._tracker = tracker

    def _open(self, tracker: "WandbTracker", start: RunStart) -> None:
        opening = tracker.open_run(start)
        self._run, self._wandb = self._opened.enter_context(opening)

    def stage(self, name: str, seconds: float, made: int) -> None:
        self._log({f"seconds/{name}": seconds, f"made/{name}": made})

    def progress(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_SECONDS:
            self._last_progress = now
            self._log({f"progress/{name}": done / total})

    def _log(self, values: dict[str, float]) -> None:
        self._safely(lambda: self._run.log(values))

    def _safely(self, act: Callable[[], None]) -> None:
        """Do something with the run, unless an error has closed it."""
        if self._error:
            return
        self._error = self._tracker.safely(act)

    def finish(self, record: RunRecord, packed: Path | None) -> str:
        self._safely(lambda: log_record(self._run, self._wandb, record, packed))
        self._close()
        return self._error

    def fail(self) -> None:
        self._safely(lambda: self._run.finish(exit_code=1))
        self._close()

    def _close(self) -> None:
        error = self._tracker.safely(self._opened.close)
        self._error = self._error or error


class WandbTracker:
    """Weights & Biases, online or offline, grouped by sweep.

    A run has its config, its summary, and tables of entropies, scores, tiers and bytes.
    """

    def __init__(self, config: TrackingConfig, folder: Path):
        self.config, self.folder = config, folder

    def live(self, start: RunStart) -> LiveRun:
        """Open a run that begins; a failure is warned of once, and returned by its `finish`."""
        return WandbLiveRun(self, start)

    def track(self, record: RunRecord, packed: Path | None = None) -> str:
        """Mirror one record; whatever goes wrong is warned of once, and returned."""
        return self.safely(lambda: self._track(record, packed))

    def track_report(
        self,
        name: str,
        summary: dict[str, Any],
        rows: list[dict[str, Any]],
        images: dict[str, Path],
    ) -> None:
        """A run of its own for a whole sweep: its numbers, all runs as one table with a Pareto
        panel, the figures as images.
        """
        self.safely(lambda: self._track_report(name, summary, rows, images))

    def safely(self, act: Callable[[], None]) -> str:
        """Do something that may fail; returns why it did, after a warning."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 (any failure of a mirror must not fail the run)
            reason = f"{type(error).__name__}: {error}"
            log.warning("wandb failed (%s): the run goes on, its record is on disk", reason)
            return reason
        return ""

    def _track(self, record: RunRecord, packed: Path | None) -> None:
        start = RunStart(record.key, record.name, record.config)
        with self.open_run(start, record.sweep) as (run, wandb):
            log_record(run, wandb, record, packed)

    def open_run(
        self, start: RunStart, group: str | None = None
    ) -> AbstractContextManager[tuple[Any, Any]]:
        """The W&B run of a run, under the key of its record, and the module.

        Under an agent of a W&B sweep the server has given an id, which counts.
        """
        config = start.config
        tags = [config.model.name, config.calibration.name, config.order.name]
        if config.order.modality != "all":
            tags.append(config.order.modality)
        return self._run(
            group or config.group,
            tags,
            name=start.name,
            id=start.key,
            job_type="run",
            config=plain(config),
        )

    def _track_report(
        self,
        name: str,
        summary: dict[str, Any],
        rows: list[dict[str, Any]],
        images: dict[str, Path],
    ) -> None:
        with self._run(name, ["report"], name=f"report of {name}", job_type="report") as (
            run,
            wandb,
        ):
            columns = list(rows[0])
            table = wandb.Table(columns, [[row[c] for c in columns] for row in rows])
            title = "score against bytes of the whole checkpoint"
            run.log({f"figures/{n}": wandb.Image(str(file)) for n, file in images.items()})
            run.log(
                {
                    "runs": table,
                    "pareto": wandb.plot.scatter(table, "checkpoint_bytes", "score", title=title),
                }
            )
            run.summary.update(summary)

    @contextmanager
    def _run(self, group: str, tags: list[str], **init_settings: Any) -> Iterator[tuple[Any, Any]]:
        """A W&B run, and the module."""
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True
        )
        online = self.config.name == "wandb"
        with wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            group=group,
            resume="allow" if online and "id" in init_settings else None,
            mode="online" if online else "offline",
            dir=str(self.folder),
            tags=list(dict.fromkeys(tags)),
            settings=settings,
            **init_settings,
        ) as run:
            yield run, wandb


def log_record(run: Any, wandb: Any, record: RunRecord, packed: Path | None) -> None:
    """Put a record into a W&B run: tables, summary, the record itself, and the packed model."""
    run.log(tables(record, wandb))
    run.summary.update(summary(record))
    file = Path(run.dir) / FILE
    file.write_text(json.dumps(sealed(to_json(record))), encoding="utf-8")
    run.save(str(file), base_path=run.dir, policy="now")
    if packed is not None:
        about = {"allocation": record.allocation, "stored_bits": record.memory.stored_bits}
        artifact = wandb.Artifact(f"luq-{record.key}", type="model", metadata=about)
        artifact.add_dir(str(packed))
        run.log_artifact(artifact)


def summary(record: RunRecord) -> dict[str, Any]:
    """The numbers that W&B panels need, flat."""
    memory = asdict(record.memory)
    ledger = memory.pop("ledger")
    flat: dict[str, Any] = {f"memory/{name}": value for name, value in memory.items()}
    flat |= {f"ledger/{part}": count for part, count in ledger.items()}
    for name, score in record.scores.items():
        flat[f"score/{name}"] = score.score
        flat[f"retention/{name}"] = score.retention
    flat["score/mean"] = record.mean_score
    flat["retention/mean"] = record.mean_retention
    flat["allocation"] = record.allocation
    flat["k"] = record.k
    flat["command"] = record.command
    for benchmark, measured in record.fidelity.items():
        for name in ("kl", "agreement", "loglik"):
            interval: Interval | None = getattr(measured, name)
            if interval is not None:
                flat[f"{name}/{benchmark}"] = interval.mean
    if record.perplexity:
        flat["perplexity"] = record.perplexity.value
        flat["perplexity/16-bit"] = record.perplexity.float_value
        if record.perplexity.ratio is not None:
            flat["perplexity/ratio"] = record.perplexity.ratio.mean
    return flat


def tables(record: RunRecord, wandb: Any) -> dict[str, Any]:
    """Entropies, scores, tiers and the ledger as W&B tables."""
    entropy = [[e.layer, e.modality, e.mean, e.spread] for e in record.profile]
    scores = [
        [name, s.score, s.stderr, s.n, s.float_score, s.retention]
        for name, s in record.scores.items()
    ]
    tiers = [[layer, "", tier] for layer, tier in enumerate(record.tiers)]
    tiers += [list(linear_tier) for linear_tier in record.other_tiers]
    ledger = [[part, count] for part, count in record.memory.ledger.items()]
    columns = ["benchmark", "score", "stderr", "n", "16-bit", "retention"]
    return {
        "entropy": wandb.Table(["layer", "modality", "bits", "spread"], entropy),
        "benchmarks": wandb.Table(columns, scores),
        "tiers": wandb.Table(["layer", "linear", "tier"], tiers),
        "ledger": wandb.Table(["part", "bytes"], ledger),
    }


def make_tracker(config: TrackingConfig, outputs: Path) -> Tracker:
    return NoTracker() if config.name == "none" else WandbTracker(config, outputs / "wandb")
