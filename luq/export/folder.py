"""An allocation as a Hugging Face folder: a checkpoint with packed layers in place of its linears.

It is written shard by shard, so that no more than one is in memory. What is not packed is copied
as it stands.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.filesize import decimal
from safetensors import SafetensorError, safe_open
from torch import Tensor

from luq.allocation.allocations import Allocation
from luq.config.quantizer import EMBEDDINGS, HEAD
from luq.errors import ModelError
from luq.export.about import (
    ABOUT,
    FORMAT_VERSION,
    GUARD,
    GUARD_ENTRY,
    NATIVE_LAYOUT,
    ExportedFolder,
    ExportedRun,
    about_json,
)
from luq.export.card import CardFacts, render
from luq.export.checksums import checksums
from luq.formats import tensor_files
from luq.formats.base import PackedWeight
from luq.formats.layer_file import PackedLayer, read_layer
from luq.models.checkpoint import SETTINGS, check_files, is_tied
from luq.models.families import decoder_weight, part_of, short_name
from luq.models.settings_files import read_config, sees_images
from luq.models.weight_files import INDEX, plain_name, shards_of
from luq.store import durable
from luq.store.store import write_json
from luq.store.writers import sole_writer

CONFIG = "config.json"
README = "README.md"
READABLE_BY_ALL = 0o644  # safetensors makes files that only their owner can read

# What follows a linear's name in the file -> the tensor and its ledger class.
Tensors = dict[str, tuple[Tensor, str]]


class StoredPart(NamedTuple):
    """Something beside the decoder's linears that is packed."""

    folder: Path
    tier: str  # its name


@dataclass(frozen=True)
class PackedModel:
    """What a folder is made of."""

    source: Path  # the 16-bit checkpoint that was packed, to which layers may refer
    folders: Sequence[Path]  # of each decoder layer's packed linears
    allocation: Allocation  # their tiers
    image_processor: dict[str, Any] | None = None  # its settings, if they are not the source's
    parts: Mapping[str, StoredPart] = field(default_factory=dict)  # part -> what is packed of it


class Layout(NamedTuple):
    """How packed linears stand in a folder."""

    name: str
    # The `quantization_config`; empty if there is none.
    config: Callable[[PackedModel], dict[str, Any]]
    # What the file holds of one linear or table.
    tensors: Callable[[PackedWeight], Tensors]


def quantization_config(model: PackedModel) -> dict[str, Any]:
    """What `luq.export.hf.LuqConfig` reads: formats, shapes and buffers of all that is packed."""
    allocation = model.allocation
    layers: list[dict[str, Any]] = []
    for index, (folder, tier) in enumerate(zip(model.folders, allocation.tiers, strict=True)):
        packed = read_layer(folder, model.source)
        linears = {short_name(name): _entry(weight) for name, weight in packed.items()}
        layers.append({"tier": tier, "linears": linears})
        other_tiers = allocation.others_of(index)
        if other_tiers:
            layers[-1]["other_tiers"] = {
                short_name(name): other_tier for name, other_tier in other_tiers.items()
            }
    config = {"quant_method": "luq", "format_version": FORMAT_VERSION, "layers": layers}
    parts: dict[str, dict[str, Any]] = {}
    for part, stored in model.parts.items():
        packed = read_layer(stored.folder, model.source)
        modules = {name: _entry(weight) for name, weight in packed.items()}
        parts[part] = {"tier": stored.tier, "modules": modules}
    return config | {"parts": parts} if parts else config


def _entry(weight: PackedWeight) -> dict[str, Any]:
    """What the config says of one packed weight."""
    buffers: dict[str, list[Any]] = {}
    for buffer, tensor in weight.buffers.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        buffers[buffer] = [dtype, list(tensor.shape)]
    shape = list(weight.shape)
    return {"format": weight.format, "shape": shape, "buffers": buffers, **weight.meta}


def _stored_buffers(weight: PackedWeight) -> Tensors:
    return {name: (buffer, weight.classes[name]) for name, buffer in weight.buffers.items()}


NATIVE = Layout(NATIVE_LAYOUT, quantization_config, _stored_buffers)


def export(
    model: PackedModel,
    target: Path,
    run: ExportedRun | None = None,
    card: CardFacts | None = None,
    layout: Layout = NATIVE,
) -> Path:
    """Write a packed model as a folder: weights, config, processor, luq.json, and README.md.

    Args:
        model: What is packed.
        target: A folder that is empty or not there yet.
        run: What luq.json says beside the ledger.
        card: What README.md says; without it there is none.
        layout: How packed linears are stored.

    Returns:
        The target.

    Raises:
        ModelError: The source is incomplete or already quantized, the target is there, the layout
            has no place for a tier, or the disk is too small. Nothing is left behind then.
        StoreError: Another process is writing the target.
    """
    with sole_writer(target, "export"):
        return _export(model, target, run, card, layout)


def _export(
    model: PackedModel,
    target: Path,
    run: ExportedRun | None,
    card: CardFacts | None,
    layout: Layout,
) -> Path:
    """`export`, while no other process writes the target."""
    check_before_writing(model.source, target)
    quantization = layout.config(model)
    with new_folder(target) as scratch:
        writer = _WeightWriter(model, scratch, layout)
        for shard in shards_of(model.source):
            writer.write(shard)
        ledger = writer.finish()
        _write_settings(model, scratch, quantization, layout)
        about = ExportedFolder(layout.name, ledger, sum(ledger.values()), run, checksums(scratch))
        write_json(scratch / ABOUT, about_json(about))
        if card is not None:
            has_eyes = sees_images(read_config(model.source))
            text = render(card, layout.name, ledger, has_eyes)
            (scratch / README).write_text(text, encoding="utf-8")
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when all in it is written.

    Args:
        target: Empty, or not there yet.
    """
    scratch = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        durable.sync_tree(scratch)
        if target.exists():
            target.rmdir()
        durable.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_before_writing(source: Path, target: Path) -> None:
    """A ModelError for a source that is not whole, or a target that cannot be written."""
    check_files(source)
    check_target(target)
    _check_space(source, shards_of(source), target)


def check_target(target: Path) -> None:
    """A ModelError unless a folder can be written there: it is empty, or not there yet."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} exists: give another folder, or delete it")


def _check_space(source: Path, shards: list[str], target: Path) -> None:
    """A ModelError if the target's disk has no room for the source's weights.

    The packed files are smaller, but how much smaller is known only when they are written.
    """
    needed = sum((source / shard).stat().st_size for shard in shards)
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ModelError(
            f"{parent} has {decimal(free)} left, the export may need {decimal(needed)}: free some "
            "space, or give another folder"
        )


class _WeightWriter:
    """Writes a checkpoint's shards with packed linears, and counts what they hold."""

    def __init__(self, model: PackedModel, folder: Path, layout: Layout) -> None:
        self.model = model
        self.folder = folder
        self.layout = layout
        self.ledger: dict[str, int] = {}  # bytes of the tensors, by class
        self.files: list[Path] = []
        self.places: dict[str, str] = {}  # tensor -> name of the file it is in
        self.missing: dict[int, set[str]] = {}  # layer -> linears that no weight was found for
        # Linears of a layer follow each other in a shard: its file is read once for all of them.
        self._layer_index = -1
        self._layer: PackedLayer = {}
        # What is packed beside the decoder: plain name -> its part and its weight.
        self._beside: dict[str, tuple[str, PackedWeight]] = {}
        for part, stored in model.parts.items():
            for name, weight in read_layer(stored.folder, model.source).items():
                self._beside[name] = part, weight
        self._has_tied_head = EMBEDDINGS in model.parts and is_tied(model.source)

    def write(self, shard: str) -> None:
        """Write one of the source's weight files."""
        tensors: dict[str, Tensor] = {}
        try:
            with safe_open(self.model.source / shard, framework="pt") as file:
                for name in sorted(file.keys()):
                    place = decoder_weight(name)
                    if place is not None and len(file.get_slice(name).get_shape()) == 2:
                        tensors |= self._packed_tensors(shard, name, *place)
                    elif plain_name(name).removesuffix(".weight") in self._beside:
                        tensors |= self._tensors_beside(shard, name)
                    elif not (self._has_tied_head and part_of(name) == HEAD):
                        tensor = file.get_tensor(name)
                        tensors[name] = tensor
                        self._count(part_of(name), tensor)
        except SafetensorError as error:
            raise ModelError(
                f"{self.model.source / shard} is damaged ({error}): copy or download it again"
            ) from error
        path = self.folder / shard
        tensor_files.save(tensors, path, {"format": "pt"})
        path.chmod(READABLE_BY_ALL)
        self.places |= dict.fromkeys(tensors, shard)
        self.files.append(path)

    def _packed_tensors(self, shard: str, name: str, index: int, linear: str) -> dict[str, Tensor]:
        """What stands in the file in place of one decoder linear's weight."""
        layers = len(self.model.folders)
        if index >= layers:
            raise ModelError(
                f"{self.model.source / shard} has decoder layer {index}, but {layers} layers were "
                "packed"
            )
        if index != self._layer_index:
            self._layer = read_layer(self.model.folders[index], self.model.source)
            self._layer_index = index
            self.missing.setdefault(index, set(self._layer))
        if linear not in self._layer:
            raise ModelError(
                f"{self.model.source / shard} holds {name}, but of layer {index} were packed "
                f"{', '.join(self._layer)}"
            )
        self.missing[index].discard(linear)
        prefix = name.removesuffix("weight")
        tensors: dict[str, Tensor] = {}
        for suffix, (tensor, ledger_class) in self.layout.tensors(self._layer[linear]).items():
            tensors[f"{prefix}{suffix}"] = tensor
            self._count(ledger_class, tensor)
        return tensors

    def _tensors_beside(self, shard: str, name: str) -> dict[str, Tensor]:
        """What stands in the file in place of a weight that is packed beside the decoder's."""
        part, weight = self._beside.pop(plain_name(name).removesuffix(".weight"))
        with safe_open(self.model.source / shard, framework="pt") as file:
            shape = tuple(file.get_slice(name).get_shape())
        if shape != weight.shape:
            raise ModelError(
                f"{self.model.source / shard} holds {name} as {list(shape)}, but it was packed as "
                f"{list(weight.shape)}: its tensors are others than the model's"
            )
        prefix = name.removesuffix("weight")
        tensors: dict[str, Tensor] = {}
        for suffix, (tensor, ledger_class) in self.layout.tensors(weight).items():
            tensors[f"{prefix}{suffix}"] = tensor
            self._count(f"{part} {ledger_class}", tensor)
        return tensors

    def _count(self, ledger_class: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        self.ledger[ledger_class] = self.ledger.get(ledger_class, 0) + size

    def finish(self) -> dict[str, int]:
        """Check that nothing is missing and write the index of several shards.

        Returns:
            Bytes per class of what the files hold, their headers too: sums to the files.
        """
        for index, folder in enumerate(self.model.folders):
            missing = self.missing.get(index)
            if missing is None:
                missing = set(read_layer(folder, self.model.source))
            if missing:
                raise ModelError(
                    f"{self.model.source} has no weight for layers.{index}.{min(missing)}: its "
                    "tensors have other names than this version knows"
                )
        if self._beside:
            raise ModelError(
                f"{self.model.source} has no weight for {min(self._beside)}: its tensors have "
                "other names than this version knows"
            )
        tensor_bytes = sum(self.ledger.values())
        if len(self.files) > 1:
            index_content = {"metadata": {"total_size": tensor_bytes}, "weight_map": self.places}
            write_json(self.folder / INDEX, index_content)
        file_bytes = sum(path.stat().st_size for path in self.files)
        return self.ledger | {"header": file_bytes - tensor_bytes}


def _write_settings(
    model: PackedModel, folder: Path, quantization: dict[str, Any], layout: Layout
) -> None:
    """Write the config, and copy tokenizer, processor and what else is not a weight."""
    for pattern in SETTINGS:
        for file in model.source.glob(pattern):
            if file.name not in (INDEX, CONFIG, ABOUT):
                shutil.copyfile(file, folder / file.name)
    config = json.loads((model.source / CONFIG).read_text(encoding="utf-8"))
    if quantization:
        config["quantization_config"] = quantization
    if layout.name == NATIVE_LAYOUT:
        config[GUARD_ENTRY] = GUARD
    write_json(folder / CONFIG, config)
    if model.image_processor:
        _set_image_processor(folder, model.image_processor)


def _set_image_processor(folder: Path, settings: dict[str, Any]) -> None:
    """Give a folder's processor other settings for images, in whichever file it keeps them."""
    processor_file = folder / "processor_config.json"
    image_file = folder / "preprocessor_config.json"
    if processor_file.exists():
        processor = json.loads(processor_file.read_text(encoding="utf-8"))
        if "image_processor" in processor:
            processor["image_processor"] = settings
            write_json(processor_file, processor)
            return
    previous = json.loads(image_file.read_text(encoding="utf-8"))
    # Older checkpoints bound pixels here. The settings bound them in their `size`.
    previous.pop("min_pixels", None)
    previous.pop("max_pixels", None)
    write_json(image_file, previous | settings)
