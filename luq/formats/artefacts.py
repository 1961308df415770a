"""The sizes of what a checkpoint keeps in 16 bit, as an artefact."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from luq.models.checkpoint import Checkpoint
from luq.store.artefact import Artefact, Tools
from luq.store.store import write_json


@dataclass(frozen=True)
class RestSizes:
    """Bytes of all but the decoder linears' weights, by part, and how many weights those are."""

    ledger: dict[str, int]
    linear_weights: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.ledger.values())


@dataclass(frozen=True, eq=False, repr=False)
class Rest(Artefact[RestSizes]):
    """What of a checkpoint stays in 16 bit: embeddings, head, vision tower, projector, norms."""

    stage: ClassVar[str] = "rest"
    version: ClassVar[int] = 2
    checkpoint: Checkpoint

    @property
    def description(self) -> str:
        return "the sizes of what stays 16-bit"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.formats.memory import linear_weights, rest_ledger
        from luq.models.vlm import loaded

        vlm = loaded(tools, self.checkpoint)
        vlm.restore()
        sizes = RestSizes(rest_ledger(vlm), linear_weights(vlm))
        write_json(folder / "rest.json", asdict(sizes))

    def read(self, folder: Path) -> RestSizes:
        return RestSizes(**json.loads((folder / "rest.json").read_text(encoding="utf-8")))
