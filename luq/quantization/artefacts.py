"""Packed layers and what they cost, as artefacts."""

import json
import sys
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from luq.allocation.blocks import BlockError
from luq.calibration.artefacts import Calibration, samples_of
from luq.config import LayerTiers, RefineConfig, TierConfig
from luq.config.checks import VOLATILE
from luq.config.quantizer.layer_tiers import LinearTier
from luq.formats.artefacts import LayerFolder, write_packed
from luq.models.checkpoint import Checkpoint, linear_tensors, module_tensors
from luq.store.artefact import Artefact, Tools
from luq.store.store import write_json

if TYPE_CHECKING:
    from luq.calibration.samples import CalibrationSet
    from luq.formats.layer_file import PackedLayer as Weights
    from luq.models.vlm import VLM
    from luq.quantization.gradients import Squares
    from luq.quantization.layer import Refiner
    from luq.quantization.walk import FloatWalk, Walk

SCORES = "scores.json"
GRADIENTS = "gradients.safetensors"
REFINEMENT_VERSION = 2  # raise it when a refined layer gets other bytes
REFINED = "-refined"  # after the name of a refined layer's tier, where work is told apart
T = TypeVar("T")
Errors = dict[str, float]  # of the linears of one layer


@dataclass(frozen=True)
class Refinement:
    """How a layer is tuned while it is packed."""

    settings: RefineConfig
    version: int  # of the tuning's code; it stands in the keys of refined layers alone

    @staticmethod
    def of(settings: RefineConfig) -> "Refinement | None":
        """The refinement that settings ask for, if they do."""
        return Refinement(settings, REFINEMENT_VERSION) if settings.is_on else None


@dataclass(frozen=True, eq=False, repr=False)
class TokenGradients(Artefact["list[Squares]"]):
    """Per layer, linear and calibration token the squared length of the gradient of the loss."""

    stage: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    calibration: Calibration

    @property
    def description(self) -> str:
        return "the gradients of the calibration loss"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.quantization.gradients import squared_gradients, write_squares

        vlm = loaded(tools, self.calibration.checkpoint)
        squares = squared_gradients(vlm, samples_of(self.calibration, tools))
        write_squares(squares, folder / GRADIENTS)

    def read(self, folder: Path) -> "list[Squares]":
        from luq.quantization.gradients import read_squares

        return read_squares(folder / GRADIENTS, self.calibration.checkpoint.layers)


@dataclass(frozen=True, eq=False, repr=False)
class ModalityGradients(Artefact["list[Squares]"]):
    """The same, with the mean length of its kind for each token: image tokens and all others."""

    stage: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    tokens: TokenGradients

    @property
    def description(self) -> str:
        return "the gradients of the calibration loss by modality"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.quantization.gradients import by_modality, write_squares

        images = samples_of(self.tokens.calibration, tools).image_mask()
        by_layer = [by_modality(squares, images) for squares in tools.store.get(self.tokens)]
        write_squares(by_layer, folder / GRADIENTS)

    def read(self, folder: Path) -> "list[Squares]":
        from luq.quantization.gradients import read_squares

        return read_squares(folder / GRADIENTS, self.tokens.calibration.checkpoint.layers)


Gradients = TokenGradients | ModalityGradients


@dataclass(frozen=True, eq=False, repr=False)
class PackedLayer(Artefact[LayerFolder]):
    """The linears of one decoder layer in their tiers.

    `before` are the packed layers that the calibration samples went through on their way to this
    one; layers that are not among them were 16-bit. Tiers that need no data have neither, unless
    the layer is refined.
    """

    stage: ClassVar[str] = "layers"
    version: ClassVar[int] = 10
    checkpoint: Checkpoint
    index: int
    tiers: LayerTiers
    calibration: Calibration | None = None
    before: "tuple[PackedLayer, ...]" = ()
    refinement: Refinement | None = None
    held_out: float = 0.0  # share of the batches that say how far Hessians are shrunk
    gradients: Gradients | None = None  # by which tokens count; None: as the samples say
    name: str = field(default="", metadata=VOLATILE)  # of the tiers, for people

    @property
    def description(self) -> str:
        name = self.name or self.tiers.tier.method
        return f"layer {self.index} in {name}{REFINED if self.refinement else ''}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.quantization.layer import quantize_layer

        if self.calibration is None:
            vlm = loaded(tools, self.checkpoint)
            self._write(folder, quantize_layer(vlm, self.index, self.tiers, None))
            return
        vlm = loaded(tools, self.calibration.checkpoint)
        before = [tools.store.get(layer).folder for layer in self.before]
        walk = walk_of(self.calibration, tools, self.refinement is not None, self.gradients)
        states = walk.inputs(self.index, before)
        refiner = None
        if self.refinement is not None:
            refiner = self._refiner(self.calibration, self.refinement.settings, walk, tools)
        packed = quantize_layer(vlm, self.index, self.tiers, states, refiner, self.held_out)
        self._write(folder, packed)

    def _write(self, folder: Path, packed: "Weights") -> None:
        names = linear_tensors(self.checkpoint, self.index)
        write_packed(folder, packed, self.checkpoint, names)

    def _refiner(
        self, calibration: Calibration, settings: RefineConfig, walk: "Walk", tools: Tools
    ) -> "Refiner":
        """What tunes the layer, with the walk standing before it."""
        from luq.quantization.refine import LayerRefiner, lessons_of

        states = walk.states
        float_states = states
        if self.before[: self.index]:
            float_states = float_walk_of(calibration, tools).inputs(self.index, [])
        layer = walk.vlm.layers[self.index]
        lessons = lessons_of(layer, states, float_states, settings.held_out)
        return LayerRefiner(walk.vlm, self.index, lessons, settings)

    def read(self, folder: Path) -> LayerFolder:
        return LayerFolder(folder, self.checkpoint.folder)


def walk_of(
    calibration: Calibration,
    tools: Tools,
    refined: bool = False,
    gradients: Gradients | None = None,
) -> "Walk":
    """The walk of a calibration set through its model, held from layer to layer.

    To lose it changes no byte: its states are then made again. Refined layers are walked through
    in small batches, of which steps are made.
    """
    from luq.models.vlm import loaded
    from luq.quantization.refine import LESSON_TOKENS, WAITING
    from luq.quantization.walk import Walk

    def start() -> Walk:
        vlm = loaded(tools, calibration.checkpoint)
        samples = samples_of(calibration, tools)
        squares = None if gradients is None else tools.store.get(gradients)
        if refined:
            return Walk(vlm, samples, tools.store.root, LESSON_TOKENS, WAITING, squares)
        return Walk(vlm, samples, tools.store.root, squares=squares)

    return tools.hold(Walk, (calibration, refined, gradients), start)


def float_walk_of(calibration: Calibration, tools: Tools) -> "FloatWalk":
    """The walk of a calibration set through its 16-bit model, beside that of refined layers."""
    from luq.models.vlm import loaded
    from luq.quantization.refine import LESSON_TOKENS, WAITING
    from luq.quantization.walk import FloatWalk

    def start() -> FloatWalk:
        vlm = loaded(tools, calibration.checkpoint)
        samples = samples_of(calibration, tools)
        return FloatWalk(vlm, samples, tools.store.root, LESSON_TOKENS, WAITING)

    return tools.hold(FloatWalk, calibration, start)


def end_walk(tools: Tools) -> None:
    """Let the hidden states go: no layer is left to be made."""
    if "luq.quantization.walk" not in sys.modules:
        return  # none was begun: a finished run need not import torch to say so
    from luq.quantization.walk import FloatWalk, Walk

    tools.release(Walk)
    tools.release(FloatWalk)


@dataclass(frozen=True, eq=False, repr=False)
class MeasuredErrors(Artefact[T], Generic[T], abstract=True):
    """What putting something in a tier costs, measured with calibration samples and the weights
    that are stored, all others 16-bit: per layer, or per layer and linear.
    """

    stage: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    calibration: Calibration
    measure: ClassVar[str]  # for people
    layers: tuple[PackedLayer, ...]

    @property
    def description(self) -> str:
        return f"the {self.measure} scores of {self.layers[0].name}"

    @abstractmethod
    def measured(
        self, vlm: "VLM", samples: "CalibrationSet", packed: "Iterator[Weights]", folder: Path
    ) -> T:
        """The errors.

        Args:
            vlm: the model, in 16 bit.
            samples: the calibration samples.
            packed: the packed weights layer by layer, read one at a time.
            folder: where activations may wait on disk.
        """

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded

        vlm = loaded(tools, self.calibration.checkpoint)
        samples = samples_of(self.calibration, tools)
        packed = (tools.store.get(layer).read() for layer in self.layers)
        errors = self.measured(vlm, samples, packed, tools.store.root)
        write_json(folder / SCORES, errors)

    def read(self, folder: Path) -> T:
        errors: T = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        return errors


@dataclass(frozen=True, eq=False, repr=False)
class OutputErrors(MeasuredErrors[list[float]]):
    """Per layer the relative error of its output when it alone is packed."""

    measure: ClassVar[str] = "output_error"

    def measured(
        self, vlm: "VLM", samples: "CalibrationSet", packed: "Iterator[Weights]", folder: Path
    ) -> list[float]:
        from luq.quantization.sensitivity import output_errors

        return output_errors(vlm, samples, packed, folder)


@dataclass(frozen=True, eq=False, repr=False)
class LinearOutputErrors(MeasuredErrors[list[Errors]]):
    """Per linear the relative error of its layer's output when it alone is packed."""

    measure: ClassVar[str] = "linears' output_error"

    def measured(
        self, vlm: "VLM", samples: "CalibrationSet", packed: "Iterator[Weights]", folder: Path
    ) -> list[Errors]:
        from luq.quantization.sensitivity import linear_output_errors

        return linear_output_errors(vlm, samples, packed, folder)


@dataclass(frozen=True, eq=False, repr=False)
class DeltaLosses(MeasuredErrors[list[Errors]]):
    """Per linear the summed |gradient x quantization error| of the calibration loss."""

    version: ClassVar[int] = 2
    measure: ClassVar[str] = "delta_loss"

    def measured(
        self, vlm: "VLM", samples: "CalibrationSet", packed: "Iterator[Weights]", folder: Path
    ) -> list[Errors]:
        from luq.quantization.sensitivity import delta_losses

        return delta_losses(vlm, samples, packed)


@dataclass(frozen=True, eq=False, repr=False)
class FisherLosses(MeasuredErrors[list[Errors]]):
    """Per linear the squared change of the calibration loss to first order, token by token."""

    measure: ClassVar[str] = "fisher"

    def measured(
        self, vlm: "VLM", samples: "CalibrationSet", packed: "Iterator[Weights]", folder: Path
    ) -> list[Errors]:
        from luq.quantization.sensitivity import fisher_losses

        return fisher_losses(vlm, samples, packed)


@dataclass(frozen=True, eq=False, repr=False)
class PackedPart(Artefact[LayerFolder]):
    """Embeddings, head, vision tower or projector in their tiers: one, but for `others`.

    Parts are packed for what the 16-bit model gives them, and the decoder's layers for what the
    16-bit parts give: neither depends on the other, so that all allocations share a part. What is
    scored, stored and exported has both.

    `before` are the packed parts that the calibration images went through on their way to this
    one. Tiers that need no data have neither calibration nor parts before them.
    """

    stage: ClassVar[str] = "parts"
    version: ClassVar[int] = 7
    checkpoint: Checkpoint
    part: str
    tier: TierConfig
    calibration: Calibration | None = None
    before: "tuple[PackedPart, ...]" = ()
    others: tuple[LinearTier, ...] = ()  # by plain name
    name: str = field(default="", metadata=VOLATILE)  # of the tiers, for people

    @property
    def tiers(self) -> LayerTiers:
        """How its linears are stored."""
        return LayerTiers(self.tier, self.others)

    @property
    def description(self) -> str:
        return f"{self.part} in {self.name or self.tier.method}"

    def make(self, folder: Path, tools: Tools) -> None:
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
        packed = quantize_part(vlm, self.part, self.tiers, samples, tools.store.root)
        write_packed(folder, packed, self.checkpoint, module_tensors(self.checkpoint))

    def read(self, folder: Path) -> LayerFolder:
        return LayerFolder(folder, self.checkpoint.folder)


Parts = tuple[PackedPart, ...]


@dataclass(frozen=True, eq=False, repr=False)
class BlockErrors(Artefact[list[BlockError]]):
    """Per block of the vision tower the relative error of what the decoder is given for images,
    when that block alone is packed.

    `tower` is all in one tier: its blocks were packed one after another.
    """

    stage: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    calibration: Calibration
    tower: PackedPart

    @property
    def description(self) -> str:
        return f"the errors of the vision tower's blocks in {self.tower.name}"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.quantization.sensitivity import block_errors

        vlm = loaded(tools, self.calibration.checkpoint)
        samples = samples_of(self.calibration, tools)
        packed = tools.store.get(self.tower).read()
        write_json(folder / SCORES, block_errors(vlm, samples, packed))

    def read(self, folder: Path) -> list[BlockError]:
        rows = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        return [BlockError(block, tuple(linears), error) for block, linears, error in rows]


def folders_of(parts: Parts, tools: Tools) -> dict[str, Path]:
    """Where packed parts lie, by part."""
    return {part.part: tools.store.get(part).folder for part in parts}
