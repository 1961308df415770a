"""What follows a record: its mirror in W&B, and the packed model as a folder.

Both are made up for. A run that was killed after its record, or whose mirror failed, has what it
lacks after the next start. A mirror that was made is noted in outputs/wandb/mirrored/KEY.json.
"""

import logging
import shlex
from pathlib import Path
from typing import NamedTuple

from luq.config import RunConfig
from luq.config.building import plain
from luq.errors import LuqError
from luq.store.digests import sha256_of
from luq.store.sealed import read_table, sealed
from luq.store.store import write_json
from pipelines import checkpoints, console, runs_folder
from pipelines.record import RunRecord
from pipelines.tracking import LiveRun, make_tracker

log = logging.getLogger(__name__)
MIRROR = "mirror"
CHECKPOINT = "checkpoint"


class Lack(NamedTuple):
    """What a finished run lacks, and why it could not be made, if that was tried."""

    name: str  # MIRROR or CHECKPOINT
    reason: str = ""


def lacks(record: RunRecord, config: RunConfig, outputs: Path) -> list[Lack]:
    """What a config asks for beside the record, and is not there."""
    lacking: list[Lack] = []
    if config.checkpoint and not _checkpoint(record, outputs).exists():
        lacking.append(Lack(CHECKPOINT))
    if config.tracking.name != "none":
        note = _mirror_note(record, outputs)
        if note.get("of") != _mirrored(record, config, outputs):
            lacking.append(Lack(MIRROR))
        elif note.get("error"):
            lacking.append(Lack(MIRROR, str(note["error"])))
    return lacking


def follow(record: RunRecord, config: RunConfig, outputs: Path, live: LiveRun) -> None:
    """Mirror a record where a config says, and export its checkpoint if the config asks.

    Args:
        record: of the run that has just finished.
        config: of the run.
        outputs: where its record is.
        live: the run as its tracker has seen it so far.
    """
    packed, error = _packed_for_tracker(record, config, outputs)
    _note_mirror(record, config, outputs, live.finish(record, packed) or error)
    if config.checkpoint:
        _export(record, outputs)


def make_up(record: RunRecord, config: RunConfig, outputs: Path) -> None:
    """Make what a finished run lacks."""
    names = [lack.name for lack in lacks(record, config, outputs)]
    if MIRROR in names:
        packed, error = _packed_for_tracker(record, config, outputs)
        tracker = make_tracker(config.tracking, outputs)
        _note_mirror(record, config, outputs, tracker.track(record, packed) or error)
    if CHECKPOINT in names:
        _export(record, outputs)


def _export(record: RunRecord, outputs: Path) -> Path:
    """The folder of the packed model, written if it is not there, and said."""
    target = _checkpoint(record, outputs)
    if not target.exists():
        checkpoints.export(outputs, record, target)
    console.out.print(f"checkpoint: {target} (luq info {shlex.quote(str(target))})")
    return target


def _packed_for_tracker(
    record: RunRecord, config: RunConfig, outputs: Path
) -> tuple[Path | None, str]:
    """The packed model's folder if the tracker shall have it; or why it cannot be written."""
    if config.tracking.name == "none" or not config.tracking.model:
        return None, ""
    try:
        return _export(record, outputs), ""
    except (LuqError, OSError) as error:  # a mirror never fails a run
        log.warning("the tracker gets no packed model: %s", error)
        return None, str(error)


def _note_mirror(record: RunRecord, config: RunConfig, outputs: Path, error: str) -> None:
    if config.tracking.name != "none":
        note = {"of": _mirrored(record, config, outputs), "error": error}
        write_json(_mirror_file(record, outputs), sealed(note))


def _mirrored(record: RunRecord, config: RunConfig, outputs: Path) -> list[object]:
    """What a mirror is of: where it is, and the content of the record."""
    file = runs_folder.record_file(outputs, record.key)
    place = plain(config.tracking)
    if not config.tracking.model:  # notes of earlier versions do not have it
        del place["model"]
    return [place, sha256_of(file)]


def _mirror_file(record: RunRecord, outputs: Path) -> Path:
    return outputs / "wandb" / "mirrored" / f"{record.key}.json"


def _mirror_note(record: RunRecord, outputs: Path) -> dict[str, object]:
    """What is noted of a record's mirror; empty if there is none, or none that can be read."""
    try:
        return read_table(_mirror_file(record, outputs))
    except (OSError, ValueError):
        return {}


def _checkpoint(record: RunRecord, outputs: Path) -> Path:
    return outputs / "checkpoints" / record.key
