"""Records back from W&B: every run that `tracking=wandb` mirrored holds its record as a file."""

import json
import logging
from pathlib import Path
from typing import Any

from luq.errors import DataError
from pipelines import results
from pipelines.tracking import RECORD

log = logging.getLogger(__name__)


def fetch(project: str, folder: Path, sweeps: list[str], api: Any = None) -> Path:
    """Bring the records of a project (`entity/project`) that are not here yet; returns an outputs folder that holds them.

    Answers stay where they were computed, so comparisons of such records are not paired by question. A DataError says
    that the project cannot be reached.
    """
    outputs = folder / project.replace("/", "__")
    try:
        if api is None:
            import wandb

            api = wandb.Api()
        found = list(api.runs(project, filters={"group": {"$in": sweeps}} if sweeps else {}))
    except Exception as error:
        raise DataError(
            f"W&B project {project!r} cannot be read ({type(error).__name__}: {error}): run `wandb login`"
        ) from error
    for run in found:
        if run.job_type == "report" or run.state == "running":
            continue
        if not (outputs / "runs" / run.id / results.FILE).exists():
            try:
                with run.file(RECORD).download(
                    root=str(outputs / "fetched" / run.id), replace=True
                ) as file:
                    results.write(outputs, json.load(file))
            except Exception as error:  # noqa: BLE001 (one run without its record must not keep the others away)
                log.warning(
                    "W&B run %s (%s) has no %s (%s): left out",
                    run.id,
                    run.name,
                    RECORD,
                    type(error).__name__,
                )
                continue
        results.note(outputs, run.group or "default", run.id, run.name)
    return outputs
