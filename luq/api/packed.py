"""`luq.quantize`: packed layers, in the model and as a folder."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luq.api.graph import GraphSettings, LoadedGraph, Samples, Tier, calibration_of
from luq.api.loaded import LoadedModel
from luq.api.planned import Plan, as_plan
from luq.calibration.artefacts import Calibration
from luq.evaluation.artefacts import Layers, installed
from luq.export import folder as export_folder
from luq.formats.memory import peak_bytes
from luq.formats.sizes import Memory, memory
from luq.models.in_memory import write_checkpoint
from luq.quantization.artefacts import end_walk


@dataclass(frozen=True)
class PackedModel:
    """A model with packed linears.

    The packed layers are files of the model's store. There is one model in memory: `model` puts
    these layers into it wherever others stand.
    """

    source: LoadedModel
    plan: Plan
    layers: Layers = field(repr=False)
    graph: LoadedGraph = field(repr=False)

    @property
    def model(self) -> Any:
        """The transformers model with these packed linears: `generate` works."""
        return installed(self.source.checkpoint, self.layers, self.source.store.tools).model

    @property
    def seen(self) -> list[Calibration]:
        """The calibration sets that made this model: what ranked its layers, what packed them."""
        sets = (self.plan.samples, self.graph.samples)
        return list(dict.fromkeys(samples for samples in sets if samples is not None))

    @property
    def processor(self) -> Any:
        """The model's processor."""
        return self.source.processor

    def restore(self) -> Any:
        """The transformers model with its 16-bit linears again."""
        return self.source.model

    def memory(self) -> Memory:
        """Bytes of the linears' files, of what stays in 16 bit, and of both by class of tensor."""
        store = self.source.store
        sizes = [store.get(layer).size() for layer in self.layers]
        return memory(sizes, store.get(self.graph.rest).ledger, peak_bytes())

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that `AutoModelForImageTextToText` loads after `import luq`.

        What is no linear of the decoder is copied from the checkpoint; of a model that was in
        memory all of it is written beside the folder first, for as long as this takes.

        Args:
            folder: Empty, or not there yet.

        Raises:
            ModelError: The folder is there, or the disk is too small.
        """
        target = Path(folder).expanduser()
        if not self.source.is_adopted:
            return self._export(self.source.checkpoint.folder, target)
        export_folder.check_target(target)
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.absolute().parent, prefix=f".{target.name}-"
        ) as name:
            written = Path(name)
            write_checkpoint(self.source.checkpoint, self.source.vlm, written)
            return self._export(written, target)

    def _export(self, checkpoint_folder: Path, target: Path) -> Path:
        source = self.source
        folders = [source.store.get(layer).folder for layer in self.layers]
        images = None
        if any(setting is not None for setting in source.checkpoint.config.image):
            images = source.processor.image_processor.to_dict()
        allocation = self.plan.allocation
        packed = export_folder.PackedModel(checkpoint_folder, folders, allocation, images)
        return export_folder.export(packed, target)


def quantize(
    model: LoadedModel, plan: Plan | Tier | Sequence[Tier], calibration: Samples | None = None
) -> PackedModel:
    """Pack the decoder's linears as a plan says.

    Args:
        model: What is packed; it is the model that answers afterwards.
        plan: Of `luq.plan`; or a tier for all layers, or one for each.
        calibration: As for `profile`; None if no tier of the plan needs data.

    Raises:
        ConfigError: The plan is of another number of layers, or needs calibration samples.
        DataError: A calibration sample cannot be used; the message names it.
    """
    chosen = as_plan(plan, model.layers)
    samples = None if calibration is None else calibration_of(model, calibration)
    graph = LoadedGraph(model, GraphSettings(chosen.quantizer), samples)
    layers = graph.layers(chosen.allocation)
    store = model.store
    with store.tools.progress.bar("quantize", len(layers)) as advance:
        for layer in layers:
            store.get(layer)
            advance(layer.description, 1)
    end_walk(store.tools)
    return PackedModel(model, chosen, layers, graph)
