"""What the pocket world offers the rest of LUQ: models, questions and text.

Everything outside this folder reaches the pocket world through these functions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from luq.errors import unknown
from luq.models.settings_files import CONFIG
from luq.plugins import CalibrationQuestion
from luq.pocket import text
from luq.pocket.artefacts import PocketQuestions
from luq.pocket.benchmarks import (
    BASE_QUESTIONS,
    ROWS,
    SEEDS,
    VERSION,
    Row,
    build,
    image_column,
)
from luq.pocket.grafted import GRAFTED, grafted_folder
from luq.pocket.shipped import WEIGHTS
from luq.questions import prompts

TEXT_USES = ("calibration", "report")  # the training text of the models is not among them


def model_folder(name: str) -> Path:
    """The folder of a model that ships with the project, or is grafted from a part that ships.

    Args:
        name: One of the models; of a grafted one, the path of the folder where it was grafted,
            which has the model's name.

    Raises:
        ConfigError: There is no such model; the message names similar ones. Or the model is not
            grafted yet.
    """
    folder = Path(name)
    if folder.name == GRAFTED:
        return grafted_folder(folder)
    names = [GRAFTED]
    if WEIGHTS.exists():
        names += [folder.name for folder in WEIGHTS.iterdir() if (folder / CONFIG).exists()]
    if name not in names:
        raise unknown("pocket model", name, names)
    return WEIGHTS / name


def calibration_questions(
    benchmarks: Sequence[str], seed: int
) -> Iterator[tuple[str, Image.Image, Row]]:
    """Questions about new scenes, over the benchmarks in turn, without end.

    No scene of them is in the report or in the selection split, and their handwriting is the
    models' training handwriting.

    Yields:
        The question's name ("gqa:12"), its image, and its row as in the benchmark's table.

    Raises:
        ConfigError: There is no pocket benchmark of one of the names.
    """
    for benchmark in benchmarks:
        if benchmark not in ROWS:
            raise unknown("pocket benchmark", benchmark, ROWS)
    rngs = {}
    for i, benchmark in enumerate(benchmarks):
        rngs[benchmark] = np.random.default_rng([SEEDS["calibration"], seed, i])
    index = 0
    while True:
        for benchmark in benchmarks:
            row = ROWS[benchmark](rngs[benchmark], "train", index)[0]
            image = row[image_column(benchmark)].image()
            yield f"{benchmark}:{index}", image, row
        index += 1


def passages(use: str) -> list[str]:
    """English that the pocket models were not trained on.

    Args:
        use: `calibration` or `report`; they share no passage.

    Raises:
        ConfigError: There is no such use.
    """
    if use not in TEXT_USES:
        raise unknown("use of the pocket text", use, TEXT_USES)
    return text.split(use)


class PocketPlugin:
    """The pocket world as a plug-in (`luq.plugins.Plugin`)."""

    version = VERSION

    def model_folder(self, name: str) -> Path:
        """The folder of a model that ships with the project, or is grafted."""
        return model_folder(name)

    def questions(self, split: str) -> PocketQuestions:
        """The miniature benchmarks of a split."""
        return PocketQuestions(split, prompts.VERSION)

    def units(self, benchmark: str) -> int:
        """Base questions of a miniature benchmark in each split."""
        return BASE_QUESTIONS[benchmark]

    def first_rows(self, benchmark: str, units: int) -> list[Row]:
        """The first rows of the selection split."""
        return build(benchmark, "selection", bases=units)

    def calibration_questions(
        self, benchmarks: list[str], seed: int
    ) -> Iterator[CalibrationQuestion]:
        """Questions about new scenes, without end."""
        for name, image, row in calibration_questions(benchmarks, seed):
            yield CalibrationQuestion(name, name.partition(":")[0], image, row)

    def passages(self, use: str) -> list[str]:
        """English that the pocket models were not trained on."""
        return passages(use)
