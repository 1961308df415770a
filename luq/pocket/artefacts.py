"""The miniature benchmarks as an artefact."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from luq.pocket.benchmarks import VERSION, write
from luq.store.artefact import Artefact, Tools


@dataclass(frozen=True, eq=False, repr=False)
class PocketQuestions(Artefact[Path]):
    """A folder with a parquet file for each of the nine benchmarks."""

    stage: ClassVar[str] = "pocket"
    version: ClassVar[int] = VERSION
    split: str  # report or selection
    prompts: int  # version of the prompts' wording, in which the tokenizer's phrases stand

    @property
    def description(self) -> str:
        return "the pocket benchmarks"

    def make(self, folder: Path, tools: Tools) -> None:
        write(folder, self.split)

    def read(self, folder: Path) -> Path:
        return folder
