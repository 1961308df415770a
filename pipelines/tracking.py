"""Trackers mirror a finished record.

The JSON record is the truth; a tracker can never fail a run.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from luq.config import TrackingConfig
from luq.config.building import plain
from luq.store.sealed import sealed
from pipelines.record import Interval, RunRecord, to_json
from pipelines.runs_folder import FILE

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One call per run, and one per report over many."""

    def track(self, record: RunRecord) -> str:
        """Mirror one record; returns why that failed, empty if it did not."""
        ...

    def track_report(
        self,
        name: str,
        summary: dict[str, Any],
        rows: list[dict[str, Any]],
        images: dict[str, Path],
    ) -> None: ...


class NoTracker:
    def track(self, record: RunRecord) -> str:
        return ""

    def track_report(
        self,
        name: str,
        summary: dict[str, Any],
        rows: list[dict[str, Any]],
        images: dict[str, Path],
    ) -> None:
        return None


class WandbTracker:
    """Weights & Biases, online or offline, grouped by sweep.

    A run has its config, its summary, and tables of entropies, scores, tiers and bytes.
    """

    def __init__(self, config: TrackingConfig, folder: Path):
        self.config, self.folder = config, folder

    def track(self, record: RunRecord) -> str:
        """Mirror one record; whatever goes wrong is warned of once, and returned."""
        return self._safely(lambda: self._track(record))

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
        self._safely(lambda: self._track_report(name, summary, rows, images))

    def _safely(self, act: Callable[[], None]) -> str:
        try:
            act()
        except Exception as error:  # noqa: BLE001 (any failure of a mirror must not fail the run)
            reason = f"{type(error).__name__}: {error}"
            log.warning("wandb failed (%s): the run goes on, its record is on disk", reason)
            return reason
        return ""

    def _track(self, record: RunRecord) -> None:
        config = record.config
        tags = [config.model.name, config.calibration.name, config.order.name]
        if config.order.modality != "all":
            tags.append(config.order.modality)
        settings = plain(config)
        with self._run(
            record.sweep, tags, name=record.name, id=record.key, job_type="run", config=settings
        ) as (run, wandb):
            run.log(tables(record, wandb))
            run.summary.update(summary(record))
            file = Path(run.dir) / FILE
            file.write_text(json.dumps(sealed(to_json(record))), encoding="utf-8")
            run.save(str(file), base_path=run.dir, policy="now")

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
    def _run(self, group: str, tags: list[str], **given: Any) -> Iterator[tuple[Any, Any]]:
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
            resume="allow" if online and "id" in given else None,
            mode="online" if online else "offline",
            dir=str(self.folder),
            tags=list(dict.fromkeys(tags)),
            settings=settings,
            **given,
        ) as run:
            yield run, wandb


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
    tiers = [[layer, tier] for layer, tier in enumerate(record.tiers)]
    ledger = [[part, count] for part, count in record.memory.ledger.items()]
    columns = ["benchmark", "score", "stderr", "n", "16-bit", "retention"]
    return {
        "entropy": wandb.Table(["layer", "modality", "bits", "spread"], entropy),
        "benchmarks": wandb.Table(columns, scores),
        "tiers": wandb.Table(["layer", "tier"], tiers),
        "ledger": wandb.Table(["part", "bytes"], ledger),
    }


def make_tracker(config: TrackingConfig, outputs: Path) -> Tracker:
    return NoTracker() if config.name == "none" else WandbTracker(config, outputs / "wandb")
