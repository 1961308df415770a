"""Where runs are mirrored."""

from dataclasses import dataclass

from luq.config.checks import require, require_text

TRACKERS = ("wandb", "wandb_offline", "none")


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs are mirrored; the JSON record is always written."""

    name: str = "wandb_offline"
    project: str = "luq"
    entity: str | None = None
    # also give the tracker the packed model, as an artifact of the run
    model: bool = False

    def __post_init__(self) -> None:
        require(self.name in TRACKERS, "tracking.name", self.name, f"one of {', '.join(TRACKERS)}")
        require_text("tracking.project", self.project)
        require_text("tracking.entity", self.entity)
