"""Directories."""

from dataclasses import dataclass

from luq.config.checks import require_text


@dataclass(frozen=True)
class PathsConfig:
    """Directories; the only place that names them."""

    outputs: str = "outputs"

    def __post_init__(self) -> None:
        require_text("paths.outputs", self.outputs)
