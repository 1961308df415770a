"""Trackers mirror a finished record. The JSON record is the truth; a tracker can never fail a run."""

import logging
import os
from pathlib import Path
from typing import Any, Protocol

from luq.config import TrackingConfig
from luq.results import Record

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One call per run."""

    def track(self, record: Record) -> None: ...


class NoTracker:
    def track(self, record: Record) -> None:
        return None


class WandbTracker:
    """Weights & Biases, online or offline: config, summary, entropy and benchmark tables, grouped by sweep."""

    def __init__(self, config: TrackingConfig, folder: Path):
        self.config, self.folder = config, folder

    def track(self, record: Record) -> None:
        """Mirror one record; whatever goes wrong is warned of once and swallowed."""
        try:
            self._track(record)
        except Exception as error:  # noqa: BLE001 (any failure of a mirror must not fail the run)
            log.warning("wandb failed (%s: %s): the run goes on, its record is on disk", type(error).__name__, error)

    def _track(self, record: Record) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True)
        config = record["config"]
        run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            group=record["sweep"],
            name=record["name"],
            id=record["key"],
            job_type="run",
            resume="allow" if self.config.name == "wandb" else None,
            mode="online" if self.config.name == "wandb" else "offline",
            dir=str(self.folder),
            tags=[config["model"]["name"], config["calibration"]["name"], config["order"]["name"]],
            config=config,
            settings=settings,
        )
        with run:
            run.log(tables(record, wandb))
            run.summary.update(summary(record))


def summary(record: Record) -> dict[str, Any]:
    """The numbers that W&B panels need, flat."""
    flat: dict[str, Any] = {f"memory/{k}": v for k, v in record["memory"].items() if k != "ledger"}
    flat |= {f"ledger/{k}": v for k, v in record["memory"]["ledger"].items()}
    flat |= {f"score/{name}": s["score"] for name, s in record["scores"].items()}
    flat |= {f"retention/{name}": s["retention"] for name, s in record["scores"].items()}
    flat |= {"score/mean": record["mean_score"], "retention/mean": record["mean_retention"], "allocation": record["allocation"]}
    for benchmark, measured in record["fidelity"].items():
        if measured["n"]:
            flat |= {f"{name}/{benchmark}": measured[name][0] for name in ("kl", "agreement", "loglik")}
    return flat | ({"perplexity": record["perplexity"]["value"]} if record["perplexity"] else {})


def tables(record: Record, wandb: Any) -> dict[str, Any]:
    entropy = [[e["layer"], e["modality"], e["mean"], e["spread"]] for e in record["profile"]]
    scores = [[n, s["score"], s["stderr"], s["n"], s["float_score"], s["retention"]] for n, s in record["scores"].items()]
    return {
        "entropy": wandb.Table(["layer", "modality", "bits", "spread"], entropy),
        "benchmarks": wandb.Table(["benchmark", "score", "stderr", "n", "16-bit", "retention"], scores),
        "tiers": wandb.Table(["layer", "tier"], [[i, t] for i, t in enumerate(record["tiers"])]),
    }


def make_tracker(config: TrackingConfig, outputs: Path) -> Tracker:
    return NoTracker() if config.name == "none" else WandbTracker(config, outputs / "wandb")
