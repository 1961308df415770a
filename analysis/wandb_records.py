"""Records back from W&B: every run that `tracking=wandb` mirrored holds its record as a file."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luq.config.checks import is_plain_name
from luq.errors import DataError
from luq.store.sealed import checked_table
from pipelines import runs_folder
from pipelines.record import from_json

log = logging.getLogger(__name__)


def fetch(project: str, folder: Path, sweeps: Sequence[str], api: Any = None) -> Path:
    """Bring the records of a W&B project that are not here yet.

    Answers stay where they were computed, so comparisons of such records are not paired by
    question.

    Args:
        project: ENTITY/PROJECT.
        folder: what was brought earlier stands in it.
        sweeps: whose runs are brought; none: all.
        api: a `wandb.Api`; None: a new one.

    Returns:
        An outputs folder that holds the records.

    Raises:
        DataError: the project cannot be reached.
    """
    outputs = folder / project.replace("/", "__")
    filters = {"group": {"$in": list(sweeps)}} if sweeps else {}
    try:
        if api is None:
            import wandb

            api = wandb.Api()
        runs = list(api.runs(project, filters=filters))
    except Exception as error:
        raise DataError(
            f"W&B project {project!r} cannot be read ({type(error).__name__}: {error}): "
            "run `wandb login`"
        ) from error
    for run in runs:
        # reports are runs of W&B too, and a run that is under way has no record yet
        if run.job_type == "report" or run.state == "running":
            continue
        group = run.group or "default"
        if not is_plain_name(run.id) or not is_plain_name(group):
            log.warning("W&B run %s of %s cannot be the name of a folder: left out", run.id, group)
        elif _bring(run, outputs):
            runs_folder.note(outputs, group, run.id, run.name)
    return outputs


def _bring(run: Any, outputs: Path) -> bool:
    """Whether the record of a W&B run is here, after it was brought if it was not."""
    if runs_folder.record_file(outputs, run.id).exists():
        return True
    target = outputs / "fetched" / run.id
    try:
        with run.file(runs_folder.FILE).download(root=str(target), replace=True) as file:
            record = from_json(checked_table(file.read()))
        if record.key != run.id or not is_plain_name(record.sweep):
            raise ValueError("it is the record of another run")
        runs_folder.write(outputs, record)
    except Exception as error:  # noqa: BLE001 (one run without its record must not keep the others away)
        log.warning(
            "W&B run %s (%s) has no %s (%s): left out",
            run.id,
            run.name,
            runs_folder.FILE,
            type(error).__name__,
        )
        return False
    return True
