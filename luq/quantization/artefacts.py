"""Packed layers and what they cost, as artefacts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from luq.calibration.artefacts import Calibration, samples_of
from luq.config import LayerTiers, TierConfig
from luq.config.checks import VOLATILE
from luq.formats.sizes import LayerSize
from luq.models.checkpoint import Checkpoint
from luq.store.artefact import Artefact, Tools
from luq.store.store import write_json

if TYPE_CHECKING:
    from luq.formats.layer_file import PackedLayer as Weights
    from luq.quantization.walk import Walk

SCORES = "scores.json"


@dataclass(frozen=True)
class LayerFolder:
    """A packed layer where it lies."""

    folder: Path

    @property
    def bytes(self) -> int:
        """Size of the layer's file."""
        return (self.folder / "layer.safetensors").stat().st_size

    def read(self) -> "Weights":
        """The packed weights, by linear."""
        from luq.formats.layer_file import read_layer

        return read_layer(self.folder)

    def size(self) -> LayerSize:
        """What the file holds, by tensor class."""
        from luq.formats.layer_file import layer_size

        return layer_size(self.folder, self.read())


@dataclass(frozen=True, eq=False, repr=False)
class PackedLayer(Artefact[LayerFolder]):
    """The linears of one decoder layer in their tiers.

    `before` are the packed layers that the calibration samples went through on their way to this
    one; layers that are not among them were 16-bit. Tiers that need no data have neither.
    """

    stage: ClassVar[str] = "layers"
    version: ClassVar[int] = 4
    checkpoint: Checkpoint
    index: int
    tiers: LayerTiers
    calibration: Calibration | None = None
    before: "tuple[PackedLayer, ...]" = ()
    name: str = field(default="", metadata=VOLATILE)  # of the tiers, for people

    @property
    def description(self) -> str:
        return f"layer {self.index} in {self.name or self.tiers.tier.method}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.formats.layer_file import write_layer
        from luq.models.vlm import loaded
        from luq.quantization.layer import quantize_layer

        states = None
        if self.calibration is not None:
            vlm = loaded(tools, self.calibration.checkpoint)
            before = [tools.store.get(layer).folder for layer in self.before]
            states = walk_of(self.calibration, tools).inputs(self.index, before)
        else:
            vlm = loaded(tools, self.checkpoint)
        write_layer(folder, quantize_layer(vlm, self.index, self.tiers, states))

    def read(self, folder: Path) -> LayerFolder:
        return LayerFolder(folder)


def walk_of(calibration: Calibration, tools: Tools) -> "Walk":
    """The walk of a calibration set through its model, held from layer to layer.

    To lose it changes no byte: its states are then made again.
    """
    from luq.models.vlm import loaded
    from luq.quantization.walk import Walk

    def start() -> Walk:
        vlm = loaded(tools, calibration.checkpoint)
        return Walk(vlm, samples_of(calibration, tools), tools.store.root)

    return tools.hold(Walk, calibration, start)


def end_walk(tools: Tools) -> None:
    """Let the hidden states go: no layer is left to be made."""
    from luq.quantization.walk import Walk

    tools.release(Walk)


@dataclass(frozen=True, eq=False, repr=False)
class MeasuredScores(Artefact[list[float]], abstract=True):
    """A score per layer, measured with calibration samples and the weights that are stored."""

    stage: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    calibration: Calibration
    layers: tuple[PackedLayer, ...]

    def read(self, folder: Path) -> list[float]:
        scores: list[float] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        return scores

    def packed(self, tools: Tools) -> "Iterator[Weights]":
        """The packed weights layer by layer, read one at a time."""
        for layer in self.layers:
            yield tools.store.get(layer).read()


@dataclass(frozen=True, eq=False, repr=False)
class OutputErrors(MeasuredScores):
    """Per layer the relative error of its output when it alone is packed, all others 16-bit."""

    @property
    def description(self) -> str:
        return f"the output_error scores of {self.layers[0].name}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.quantization.sensitivity import output_errors

        vlm = loaded(tools, self.calibration.checkpoint)
        samples = samples_of(self.calibration, tools)
        errors = output_errors(vlm, samples, self.packed(tools), tools.store.root)
        write_json(folder / SCORES, errors)


@dataclass(frozen=True, eq=False, repr=False)
class DeltaLosses(MeasuredScores):
    """Per layer the summed |gradient x quantization error| of the calibration loss."""

    @property
    def description(self) -> str:
        return f"the delta_loss scores of {self.layers[0].name}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.quantization.sensitivity import delta_losses

        vlm = loaded(tools, self.calibration.checkpoint)
        samples = samples_of(self.calibration, tools)
        write_json(folder / SCORES, delta_losses(vlm, samples, self.packed(tools)))


@dataclass(frozen=True, eq=False, repr=False)
class PackedPart(Artefact[LayerFolder]):
    """Embeddings, head, vision tower or projector in one tier.

    Parts are packed for what the 16-bit model gives them, and the decoder's layers for what the
    16-bit parts give: neither depends on the other, so that all allocations share a part. What is
    scored, stored and exported has both.

    `before` are the packed parts that the calibration images went through on their way to this
    one. A tier that needs no data has neither calibration nor parts before it.
    """

    stage: ClassVar[str] = "parts"
    version: ClassVar[int] = 1
    checkpoint: Checkpoint
    part: str
    tier: TierConfig
    calibration: Calibration | None = None
    before: "tuple[PackedPart, ...]" = ()
    name: str = field(default="", metadata=VOLATILE)  # of the tier, for people

    @property
    def description(self) -> str:
        return f"{self.part} in {self.name or self.tier.method}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.formats.layer_file import write_layer
        from luq.models.vlm import loaded
        from luq.quantization.rest import install_parts, quantize_part

        if self.calibration is None:
            vlm = loaded(tools, self.checkpoint)
            vlm.restore()
            samples = None
        else:
            vlm = loaded(tools, self.calibration.checkpoint)
            samples = samples_of(self.calibration, tools)
            vlm.restore()
            install_parts(vlm, folders_of(self.before, tools))
        packed = quantize_part(vlm, self.part, self.tier, samples, tools.store.root)
        write_layer(folder, packed)

    def read(self, folder: Path) -> LayerFolder:
        return LayerFolder(folder)


Parts = tuple[PackedPart, ...]


def folders_of(parts: Parts, tools: Tools) -> dict[str, Path]:
    """Where packed parts lie, by part."""
    return {part.part: tools.store.get(part).folder for part in parts}
