"""What follows a record: its mirror in W&B, and the packed model as a folder."""

from pathlib import Path

from pipelines import checkpoints, console
from pipelines.record import RunRecord
from pipelines.tracking import make_tracker


def follow(record: RunRecord, outputs: Path) -> None:
    """Mirror a record where its config says, and export its checkpoint if the config asks."""
    make_tracker(record.config.tracking, outputs).track(record)
    if not record.config.checkpoint:
        return
    target = outputs / "checkpoints" / record.key
    if not target.exists():
        checkpoints.export(outputs, record, target)
    console.out.print(f"checkpoint: {target} (luq info {target})")
