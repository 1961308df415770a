"""Directories."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PathsConfig:
    """Directories; the only place that names them."""

    outputs: str = "outputs"
