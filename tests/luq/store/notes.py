"""A small artefact for tests: a text in a file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from luq.config.checks import VOLATILE
from luq.store.artefact import Artefact, Tools


@dataclass(frozen=True, eq=False, repr=False)
class Note(Artefact[str]):
    """A text, and the notes that it answers. `sleep`: seconds that the making takes."""

    stage: ClassVar[str] = "note"
    version: ClassVar[int] = 1
    text: str
    answers: "tuple[Note, ...]" = ()
    loud: bool = False
    sleep: float = field(default=0.0, metadata=VOLATILE)
    started: Path | None = field(default=None, metadata=VOLATILE)

    def make(self, folder: Path, tools: Tools) -> None:
        import time

        if self.text == "fails":
            (folder / "a.txt").write_text("half")
            raise RuntimeError("stop")
        if self.started is not None:
            (folder / "a.txt").write_text("half")
            self.started.touch()
        time.sleep(self.sleep)
        before = [tools.store.get(note) for note in self.answers]
        (folder / "a.txt").write_text(" ".join([*before, self.text]))

    def read(self, folder: Path) -> str:
        return (folder / "a.txt").read_text()
