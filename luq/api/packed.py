"""`luq.quantize`: packed layers, in the model and as a folder."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from luq.api.graph import (
    GraphSettings,
    LoadedGraph,
    Samples,
    Tier,
    calibration_of,
    with_parts,
)
from luq.api.loaded import LoadedModel
from luq.api.planned import Plan, as_plan
from luq.calibration.artefacts import Calibration
from luq.config import (
    AllocationConfig,
    QuantizerConfig,
    RefineConfig,
    TierConfig,
    VisionBudget,
)
from luq.config.named_tiers import named_tiers
from luq.evaluation.artefacts import Layers, Packed, installed
from luq.export import folder as export_folder
from luq.export.gguf.folder import export as write_gguf
from luq.formats.memory import peak_bytes
from luq.formats.sizes import Memory, memory
from luq.graph import check_parts, check_token_weights
from luq.models.in_memory import write_checkpoint
from luq.quantization.artefacts import end_walk
from luq.tower import PlannedParts, planned_parts


@dataclass(frozen=True)
class PackedModel:
    """A model with packed linears.

    The packed layers are files of the model's store. There is one model in memory: `model` puts
    these layers into it wherever others stand.
    """

    source: LoadedModel
    plan: Plan
    layers: Layers = field(repr=False)
    beside: PlannedParts = field(repr=False)  # what is packed beside the decoder's linears
    graph: LoadedGraph = field(repr=False)

    @property
    def model(self) -> Any:
        """The transformers model with these packed linears: `generate` works."""
        packed = Packed(self.layers, self.beside.parts)
        return installed(self.source.checkpoint, packed, self.source.store.tools).model

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
        """Bytes of the linears' files, of all else, and of both by class of tensor."""
        store = self.source.store
        sizes = [store.get(layer).size() for layer in self.layers]
        parts = {part.part: store.get(part).size() for part in self.beside.parts}
        return memory(sizes, store.get(self.graph.rest).ledger, peak_bytes(), parts)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that `AutoModelForImageTextToText` loads after `import luq`.

        What is no linear of the decoder is copied from the checkpoint; of a model that was in
        memory all of it is written beside the folder first, for as long as this takes.

        Args:
            folder: Empty, or not there yet.

        Raises:
            ModelError: The folder is there, or the disk is too small.
        """
        return self._save(folder, export_folder.export)

    def save_gguf(self, folder: str | Path, recode: str | None = None) -> Path:
        """Write a folder for llama.cpp: model.gguf, and mmproj.gguf if the model sees images.

        Args:
            folder: Empty, or not there yet.
            recode: A GGUF type, such as q4_k, in which weights are coded again that no type holds:
                the folder is then another model than this one. None: they are refused.

        Raises:
            ConfigError: No GGUF type holds a tier, or llama.cpp would compute or tokenize
                otherwise.
            ModelError: The folder is there, the disk is too small, or the package `gguf` is
                missing.
        """
        return self._save(folder, partial(write_gguf, recode=recode))

    def _save(
        self, folder: str | Path, write: Callable[[export_folder.PackedModel, Path], Path]
    ) -> Path:
        target = Path(folder).expanduser()
        if not self.source.is_adopted:
            return write(self._exported(self.source.checkpoint.folder), target)
        export_folder.check_target(target)
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.absolute().parent, prefix=f".{target.name}-"
        ) as name:
            written = Path(name)
            write_checkpoint(self.source.checkpoint, self.source.vlm, written)
            return write(self._exported(written), target)

    def _exported(self, checkpoint_folder: Path) -> export_folder.PackedModel:
        """What a folder is made of."""
        source = self.source
        folders = [source.store.get(layer).folder for layer in self.layers]
        images = None
        if any(setting is not None for setting in source.checkpoint.config.image):
            images = source.processor.image_processor.to_dict()
        allocation = self.plan.allocation
        parts: dict[str, export_folder.StoredPart] = {}
        for part in self.beside.parts:
            folder = source.store.get(part).folder
            tier = self.beside.tiers[part.part]
            parts[part.part] = export_folder.StoredPart(folder, tier)
        return export_folder.PackedModel(checkpoint_folder, folders, allocation, images, parts)


def quantize(
    model: LoadedModel,
    plan: Plan | Tier | Sequence[Tier],
    calibration: Samples | None = None,
    *,
    embeddings: Tier | None = None,
    head: Tier | None = None,
    vision: Tier | Sequence[Tier] | None = None,
    vision_bits: float | None = None,
    projector: Tier | None = None,
    refine: RefineConfig | None = None,
    held_out: float = QuantizerConfig.held_out,
    token_weights: str = QuantizerConfig.token_weights,
) -> PackedModel:
    """Pack the decoder's linears as a plan says, and other parts of the model in a tier each.

    Args:
        model: What is packed; it is the model that answers afterwards.
        plan: Of `luq.plan`; or a tier for all layers, or one for each.
        calibration: As for `profile`; None if no tier needs data.
        embeddings: Tier of the embeddings, one whose rows are decoded alone, such as gptq4; a head
            that is tied to them has it, too. None, here and below: 16 bit.
        head: Tier of a head of its own.
        vision: Tier of the vision tower's linears; or several, one of which each of its blocks
            gets.
        vision_bits: Stored bits per weight of these linears, with several tiers: the sum of the
            blocks' errors is made small within them.
        projector: Tier of the projector's linears.
        refine: How layers are tuned while they are packed, as in `RefineConfig(steps=50)`; it needs
            calibration samples for any tier. None: not at all.
        held_out: Share of the calibration batches that say how far Hessians are shrunk.
        token_weights: What calibration tokens count: `count`, all alike; `gradient`, by how much
            the loss changes with what a linear gives for them; or `modality`, the same with image
            tokens all alike and others all alike.

    Raises:
        ConfigError: The plan is of another number of layers, a tier needs calibration samples,
            one is given to a part that the model does not have, or no choice of tiers keeps
            `vision_bits`.
        DataError: A calibration sample cannot be used; the message names it.
    """
    chosen = as_plan(plan, model.layers)
    samples = None if calibration is None else calibration_of(model, calibration)
    tiers = {"embeddings": embeddings, "head": head, "projector": projector}
    block_tiers: Sequence[Tier] = ()
    if vision is None or isinstance(vision, str | TierConfig | Mapping):
        tiers["vision"] = vision
    else:
        block_tiers = vision
    quantizer = with_parts(chosen.quantizer, tiers, block_tiers)
    quantizer = replace(quantizer, held_out=held_out, token_weights=token_weights)
    if refine is not None:
        quantizer = replace(quantizer, refine=refine)
    budget = VisionBudget(list(named_tiers(block_tiers)), vision_bits)
    settings = GraphSettings(quantizer, AllocationConfig("uniform", vision=budget))
    check_parts(model.checkpoint, settings)
    check_token_weights(model.checkpoint, quantizer)
    graph = LoadedGraph(model, settings, samples)
    layers = graph.layers(chosen.allocation)
    store = model.store
    planned = planned_parts(graph, store.get)
    with store.tools.progress.bar("quantize", len(layers) + len(planned.parts)) as advance:
        for layer in layers:
            store.get(layer)
            advance(layer.description, 1)
        end_walk(store.tools)
        for part in planned.parts:
            store.get(part)
            advance(part.description, 1)
    return PackedModel(model, chosen, layers, planned, graph)
