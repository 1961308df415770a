"""Packed layers where they lie, and the sizes of what a checkpoint keeps in 16 bit."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from luq.formats import layer_header
from luq.formats.sizes import LayerSize
from luq.models.checkpoint import Checkpoint
from luq.store.artefact import Artefact, Tools
from luq.store.store import write_json

if TYPE_CHECKING:
    from luq.formats.layer_file import PackedLayer as Weights


@dataclass(frozen=True)
class LayerFolder:
    """A packed layer where it lies. Sizes count what it holds by reference, too.

    Args:
        folder: in the store.
        checkpoint: the folder of the checkpoint that it was packed from.
    """

    folder: Path
    checkpoint: Path | None = None

    @cached_property
    def bytes(self) -> int:
        """Size of the layer's file."""
        return layer_header.whole_bytes(self.folder)

    def linear_bytes(self) -> dict[str, int]:
        """Bytes of each linear, without the file's header."""
        return layer_header.linear_bytes(self.folder)

    def read(self) -> "Weights":
        """The packed weights, by linear."""
        from luq.formats.layer_file import read_layer

        return read_layer(self.folder, self.checkpoint)

    def size(self) -> LayerSize:
        """What the file holds, by tensor class."""
        header_size = layer_header.read_size(self.folder)
        if header_size is not None:
            return header_size
        from luq.formats.layer_file import layer_size

        return layer_size(self.folder, self.read())


def write_packed(
    folder: Path, packed: "Weights", checkpoint: Checkpoint, names: Mapping[str, str]
) -> None:
    """Write packed weights, and what their file holds.

    Args:
        folder: of the artefact.
        packed: the weights by linear.
        checkpoint: from which they were packed.
        names: what it calls their 16-bit weights, by linear.
    """
    from luq.formats.layer_file import layer_size, write_layer
    from luq.formats.references import references_to

    write_layer(folder, packed, references_to(checkpoint, names, packed))
    layer_header.write_size(folder, layer_size(folder, packed))


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
