"""What follows a record: its mirror in W&B, and the packed model as a folder.

Both are made up for. A run that was killed after its record, or whose mirror failed, has what it
lacks after the next start. A mirror that was made is noted in outputs/wandb/mirrored/KEY.json.
"""

import shlex
from pathlib import Path
from typing import NamedTuple

from luq.config import RunConfig
from luq.config.building import plain
from luq.store.digests import sha256_of
from luq.store.sealed import read_table, sealed
from luq.store.store import write_json
from pipelines import checkpoints, console, runs_folder
from pipelines.record import RunRecord
from pipelines.tracking import make_tracker

MIRROR = "mirror"
CHECKPOINT = "checkpoint"


class Lack(NamedTuple):
    """What a finished run lacks, and why it could not be made, if that was tried."""

    name: str  # MIRROR or CHECKPOINT
    reason: str = ""


def lacks(record: RunRecord, config: RunConfig, outputs: Path) -> list[Lack]:
    """What a config asks for beside the record, and is not there."""
    found: list[Lack] = []
    if config.checkpoint and not _checkpoint(record, outputs).exists():
        found.append(Lack(CHECKPOINT))
    if config.tracking.name != "none":
        note = _mirror_note(record, outputs)
        if note.get("of") != _mirrored(record, config, outputs):
            found.append(Lack(MIRROR))
        elif note.get("error"):
            found.append(Lack(MIRROR, str(note["error"])))
    return found


def follow(record: RunRecord, config: RunConfig, outputs: Path) -> None:
    """Mirror a record where a config says, and export its checkpoint if the config asks."""
    _mirror(record, config, outputs)
    if not config.checkpoint:
        return
    target = _checkpoint(record, outputs)
    if not target.exists():
        checkpoints.export(outputs, record, target)
    console.out.print(f"checkpoint: {target} (luq info {shlex.quote(str(target))})")


def make_up(record: RunRecord, config: RunConfig, outputs: Path) -> None:
    """Make what a finished run lacks."""
    names = [lack.name for lack in lacks(record, config, outputs)]
    if MIRROR in names:
        _mirror(record, config, outputs)
    if CHECKPOINT in names:
        target = _checkpoint(record, outputs)
        checkpoints.export(outputs, record, target)
        console.out.print(f"checkpoint: {target} (luq info {shlex.quote(str(target))})")


def _mirror(record: RunRecord, config: RunConfig, outputs: Path) -> None:
    if config.tracking.name == "none":
        return
    error = make_tracker(config.tracking, outputs).track(record)
    note = {"of": _mirrored(record, config, outputs), "error": error}
    write_json(_mirror_file(record, outputs), sealed(note))


def _mirrored(record: RunRecord, config: RunConfig, outputs: Path) -> list[object]:
    """What a mirror is of: where it is, and the content of the record."""
    file = runs_folder.record_file(outputs, record.key)
    return [plain(config.tracking), sha256_of(file)]


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
