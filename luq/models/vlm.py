"""A model as the pipeline sees it: decoder layers, their linears, and which tokens are image.

Works for vision-language models and for language models without a vision tower: what they have in
common is a list of decoder layers (`luq.models.decoder`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luq.config import ModelConfig
from luq.models import devices
from luq.models.checkpoint import Checkpoint, checkpoint
from luq.models.decoder import find_layers, layers_path, linears_of
from luq.models.loading import (
    check_tied,
    check_tokens,
    check_values,
    load_config,
    load_model,
    load_skeleton,
)
from luq.models.parts import Modules, parts_of
from luq.models.processors import image_token_id, load_processor
from luq.models.quiet import quiet
from luq.models.read_ahead import ReadAhead
from luq.store.artefact import Tools


@dataclass
class VLM:
    """A loaded model.

    `originals` keeps the 16-bit linears of every layer, so that any tier can be undone. `standing`
    says which layers have packed linears: layer -> key of the artefact. `parts` and
    `standing_parts` are the same for what is no linear of the decoder: by part, and of `parts` by
    path in the model. `folder` holds the checkpoint that was loaded; None: it came from none.
    `ahead` has the next layer of a streamed model read.
    """

    config: ModelConfig
    model: Any
    processor: Any
    layers: nn.ModuleList
    originals: list[dict[str, Any]] = field(default_factory=list)
    standing: dict[int, str] = field(default_factory=dict)
    parts: dict[str, Modules] = field(default_factory=dict)
    standing_parts: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    ahead: ReadAhead | None = None

    @property
    def device(self) -> torch.device:
        return next(
            (p.device for p in self.model.parameters() if p.device.type != "meta"),
            torch.device("cpu"),
        )

    @property
    def sees_images(self) -> bool:
        """Whether the model has a vision tower."""
        return getattr(self.processor, "image_processor", None) is not None

    def image_mask(self, input_ids: Tensor) -> Tensor:
        """True where a token stands for a piece of an image; same shape as input_ids."""
        if not self.sees_images:
            return torch.zeros_like(input_ids, dtype=torch.bool)
        return torch.eq(input_ids, image_token_id(self.model.config, self.processor))

    def original(self, layer: int) -> dict[str, Tensor]:
        """The 16-bit weights [out, in] of one layer's linears, by name; read from disk where the
        model is streamed.
        """
        weights = {name: tensors_of(linear)[0] for name, linear in self.originals[layer].items()}
        if self.ahead is not None:
            self.ahead.begin(layer)
        return weights

    def bias(self, layer: int, name: str) -> Tensor | None:
        """The bias [out] of a linear, if it has one."""
        linear = self.originals[layer][name]
        if linear.bias is None:  # a streamed weight is not read for nothing
            return None
        return tensors_of(linear)[1]

    def install(self, layer: int, modules: dict[str, nn.Module] | None, key: str = "") -> None:
        """Put modules in place of a layer's linears; None puts the 16-bit ones back. `key` is
        their artefact's.
        """
        for name, module in (modules or self.originals[layer]).items():
            parent, _, attribute = name.rpartition(".")
            setattr(self.layers[layer].get_submodule(parent), attribute, module)
        if modules:
            self.standing[layer] = key
        else:
            self.standing.pop(layer, None)

    def install_part(self, part: str, modules: Modules | None, key: str = "") -> None:
        """Put modules in place of a part's, by path; None puts the 16-bit ones back. `key` is
        their artefact's.
        """
        for path, module in (modules or self.parts[part]).items():
            self.model.set_submodule(path, module)
        if modules:
            self.standing_parts[part] = key
        else:
            self.standing_parts.pop(part, None)

    def restore(self) -> None:
        """Put the 16-bit modules back wherever something else stands."""
        for layer in list(self.standing):
            self.install(layer, None)
        for part in list(self.standing_parts):
            self.install_part(part, None)


def tensors_of(module: Any) -> tuple[Tensor, Tensor | None]:
    """The 16-bit weight and the bias, if there is one, of a linear or an embedding; read from disk
    where the model is streamed.
    """
    from accelerate.utils import align_module_device

    with align_module_device(module):
        bias = getattr(module, "bias", None)
        return module.weight.detach(), None if bias is None else bias.detach()


def streamed(folder: Path, device: str) -> dict[str, str]:
    """A device map that leaves the decoder's layers on disk, in the shards where they are, and
    puts the rest on a device.

    On a CPU the rest stays on disk too, the blocks of a tower one by one: it is mapped when it is
    used and let go afterwards.
    """
    skeleton = load_skeleton(folder)
    target = layers_path(skeleton)
    places: dict[str, str] = {}

    def fill(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            full = f"{prefix}{name}"
            if full == target or (device == "cpu" and isinstance(child, nn.ModuleList)):
                places.update({f"{full}.{i}": "disk" for i, _ in enumerate(child.children())})
            elif target.startswith(f"{full}.") or (
                device == "cpu" and any(isinstance(m, nn.ModuleList) for m in child.modules())
            ):
                fill(f"{full}.", child)
            else:
                places[full] = "disk" if device == "cpu" else device

    fill("", skeleton)
    return places


def load(source: Checkpoint) -> VLM:
    """Load model and processor of a checkpoint, in the type that its keys say.

    Raises:
        ConfigError: this machine does not have the device.
        ModelError: the model in memory would not be the checkpoint on disk.
    """
    config = source.config
    devices.require(config.device)
    device = devices.resolve(config.device)
    settings = load_config(source.folder)
    with quiet():
        processor = load_processor(source.folder, settings.model_type, config)
    dtype = getattr(torch, source.dtype)
    places = streamed(source.folder, device) if config.stream else None
    model = load_model(source.folder, dtype, places)
    check_tokens(source.folder, model, processor)
    check_tied(source.folder, model)
    if not config.stream:
        model = model.to(device)
    check_values(source.folder, model, dtype)
    vlm = wrapped(config, model, processor)
    vlm.folder = source.folder
    if config.stream:
        vlm.ahead = ReadAhead(source.folder, len(vlm.layers))
        vlm.ahead.listen(vlm.layers)
    return vlm


def wrapped(config: ModelConfig, model: Any, processor: Any) -> VLM:
    """A model in memory as the pipeline sees it; it is not trained any more."""
    model.eval().requires_grad_(False)
    layers = find_layers(model)
    originals: list[dict[str, Any]] = [dict(linears_of(layer)) for layer in layers]
    return VLM(config, model, processor, layers, originals, parts=parts_of(model))


def load_vlm(config: ModelConfig) -> VLM:
    """Load the checkpoint that a config names."""
    return load(checkpoint(config))


def loaded(tools: Tools, source: Checkpoint) -> VLM:
    """The model of a checkpoint, loaded once and held for all artefacts that ask for it."""

    def open_() -> VLM:
        with tools.progress.stage("load"):
            return load(source)

    return tools.hold(VLM, _held_as(source), open_, alone=True)


def hold_loaded(tools: Tools, source: Checkpoint, vlm: VLM) -> None:
    """Hold a model that is in memory, so that `loaded` gives it and loads none."""
    tools.hold(VLM, _held_as(source), lambda: vlm, alone=True)


def _held_as(source: Checkpoint) -> tuple[str, ModelConfig]:
    return source.digest, source.config
