"""What brings models, questions and texts of its own: the one place that knows a plug-in's name.

A plug-in's name stands where a source is asked for (`evaluation.data=NAME`,
`calibration.text=NAME`)
and before the colon of a model's path (`model.path=NAME:MODEL`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from luq.store.artefact import Artefact

if TYPE_CHECKING:
    from PIL.Image import Image


class CalibrationQuestion(NamedTuple):
    """A question about an image, for calibration."""

    name: str  # which one, for the record: BENCHMARK:INDEX
    benchmark: str
    image: "Image"
    doc: dict[str, Any]  # the benchmark's columns


class Plugin(Protocol):
    """A source of models, questions and texts. Its questions and texts change with `version`."""

    version: int

    def model_folder(self, name: str) -> Path:
        """The checkpoint folder of a model; a ConfigError with the nearest names if unknown."""
        ...

    def questions(self, split: str) -> Artefact[Path]:
        """The folder with a parquet file per benchmark, for the `report` or `selection` split."""
        ...

    def units(self, benchmark: str) -> int:
        """How many independent questions a benchmark has, in either split."""
        ...

    def first_rows(self, benchmark: str, units: int) -> list[dict[str, Any]]:
        """The rows of a few questions like those of a benchmark's splits, with images as bytes."""
        ...

    def calibration_questions(
        self, benchmarks: list[str], seed: int
    ) -> Iterator[CalibrationQuestion]:
        """Questions that no split asks, over the benchmarks in turn, without end."""
        ...

    def passages(self, use: str) -> list[str]:
        """Passages of held-out text for `calibration` or for the `report`."""
        ...


def _pocket() -> Plugin:
    from luq.pocket.plugin import PocketPlugin

    return PocketPlugin()


PLUGINS: dict[str, Callable[[], Plugin]] = {"pocket": _pocket}


def plugin(name: str) -> Plugin | None:
    """The plug-in of a name; None if there is none."""
    return PLUGINS[name]() if name in PLUGINS else None
