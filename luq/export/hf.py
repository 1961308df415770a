"""The quantization method `luq` of transformers, which loads exported folders.

A folder's config says what each linear is, and its buffers are loaded as stored. Nothing is
unpacked while loading, and no 16-bit linear is ever made: the model's skeleton gets packed linears
whose buffers have the stored shapes and types, and transformers fills them from the files.
"""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from luq.config.quantizer import HEAD
from luq.errors import ConfigError, ModelError, brief
from luq.export.about import ABOUT, FORMAT_VERSION, GUARD, GUARD_ENTRY, read_about
from luq.export.checksums import check_before_loading
from luq.export.packed_model import Place, buffers_beside, packed_linears, place_of
from luq.export.saving import LoadedFolder, complete
from luq.formats.base import PackedWeight
from luq.formats.embedding import PackedEmbedding, TiedLinear
from luq.formats.known import restore
from luq.formats.linear import PackedLinear, round_activations
from luq.formats.part_modules import part_modules
from luq.models.decoder import find_layers, linears_of
from luq.models.families import short_name
from luq.models.parts import parts_of
from luq.models.weight_files import plain_name, stored_tensors

log = logging.getLogger(__name__)
METHOD = "luq"
EXACT = "exact"  # choices of LUQ_ACTIVATIONS
EIGHT_BITS = "8"
TIED = "_tied_weights_keys"  # of a model in transformers: tensors that share another's numbers
HUB_SETTINGS = ("commit_message", "create_pr", "private", "token")  # of save_pretrained
# What comes of reading JSON that says something else than an export writes: names and types, and
# sizes that torch refuses.
_NOT_AS_WRITTEN = (
    AttributeError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _rounds_activations() -> bool:
    """Whether the environment asks for inputs of packed linears in 8 bits.

    Raises:
        ConfigError: LUQ_ACTIVATIONS is none of the choices.
    """
    choice = os.environ.get("LUQ_ACTIVATIONS", EXACT)
    if choice not in (EXACT, EIGHT_BITS):
        raise ConfigError(
            f"LUQ_ACTIVATIONS={choice!r}: set {EIGHT_BITS!r}, which rounds the inputs of packed"
            f" linears to 8 bits on CPUs, or {EXACT!r}"
        )
    return choice == EIGHT_BITS


@register_quantization_config(METHOD)
class LuqConfig(QuantizationConfigMixin):
    """What a folder's `quantization_config` says.

    Args:
        format_version: Of the folder.
        layers: By decoder layer, {tier, linears: {short name: {format, shape, buffers: {name:
            [type, shape]}, and the format's numbers}}, other_tiers: {short name: tier}}, the last
            for linears that are not in the layer's tier.
        parts: Of what is packed beside the decoder's linears, {part: {tier, modules: {plain name:
            {format, shape, ...}}}}.

    Raises:
        ModelError: A newer version of LUQ wrote the folder.
    """

    def __init__(
        self,
        format_version: int = FORMAT_VERSION,
        layers: list[dict[str, Any]] | None = None,
        parts: dict[str, dict[str, Any]] | None = None,
        **_: Any,
    ) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # transformers lists its own methods
        self.format_version = format_version
        self.layers = layers or []
        self.parts = parts or {}
        # A folder's JSON may hold anything.
        is_table = isinstance(self.layers, list) and isinstance(self.parts, dict)
        if type(format_version) is not int or not is_table:
            raise ModelError(
                f"this folder's quantization_config has format_version={format_version!r}, layers "
                f"of type {type(layers).__name__} and parts of type {type(parts).__name__}: export "
                "it again"
            )
        if format_version > FORMAT_VERSION:
            raise ModelError(
                f"this folder has format version {format_version} of LUQ, this version reads "
                f"{FORMAT_VERSION}: update luq"
            )


@register_quantizer(METHOD)
class LuqQuantizer(HfQuantizer):
    """Puts packed linears into a model's skeleton before its weights are loaded."""

    requires_calibration = True  # weights are packed by `luq run`, not by from_pretrained
    quantization_config: Any
    loaded: LoadedFolder | None = None
    _rounds = False  # whether inputs of packed linears are rounded to 8 bits

    def update_attn_implementation(self, config: Any) -> Any:
        """The model's config without what stops transformers where LUQ is missing.

        Of what transformers calls between reading the config and looking for the weight files,
        this is given the config.
        """
        if getattr(config, GUARD_ENTRY, None) == GUARD:
            delattr(config, GUARD_ENTRY)
        return config

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> Any:
        self._rounds = _rounds_activations()
        entries = self.quantization_config.layers
        layers = find_layers(model)
        if len(layers) != len(entries):
            raise ModelError(
                f"the folder's config packs {len(entries)} layers, but its model has "
                f"{len(layers)}: export it again"
            )
        self._put_parts(model)
        for index, layer in enumerate(layers):
            for name, original in linears_of(layer).items():
                parent, _dot, attribute = name.rpartition(".")
                try:
                    entry = entries[index]
                    short = short_name(name)
                    tier = entry.get("other_tiers", {}).get(short, entry["tier"])
                    weight = _skeleton(entry["linears"][short])
                except _NOT_AS_WRITTEN as error:
                    raise ModelError(
                        f"the folder's config does not say how layers.{index}.{name} is packed "
                        f"({error!r}): export it again"
                    ) from error
                dtype = original.weight.dtype
                linear = PackedLinear(weight, tier, original.bias, compute_dtype=dtype)
                setattr(layer.get_submodule(parent), attribute, linear)
        # The checksums come last: the other checks say more than that a file differs.
        for folder in {Path(file).parent for file in checkpoint_files or ()}:
            _check_shapes(folder, model)
            _bring_about(folder, model.name_or_path)
            check_before_loading(folder)
            if (folder / ABOUT).exists():
                self.loaded = LoadedFolder(folder, read_about(folder).run)
        return model

    def _put_parts(self, model: Any) -> None:
        """Put packed modules where the folder's config says that parts are packed."""
        parts = parts_of(model)
        for part, entry in self.quantization_config.parts.items():
            if part == HEAD and not parts[HEAD]:
                continue  # AutoModel has none
            try:
                originals = parts[part]
                packed = {name: _skeleton(values) for name, values in entry["modules"].items()}
                modules = part_modules(originals, packed, entry["tier"])
            except _NOT_AS_WRITTEN as error:
                raise ModelError(
                    f"the folder's config does not say how its {part} is packed ({error!r}): "
                    "export it again"
                ) from error
            for path, module in modules.items():
                model.set_submodule(path, module)
                if isinstance(module, TiedLinear):
                    _untie(model, f"{path}.weight")

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        _complete_when_saved(type(model))
        round_activations(model, self._rounds)
        return model

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """Make plain linears of a model's packed ones, which hold what those compute with.

        An adapter on packed linears is then one on plain linears, and can be merged.

        Args:
            model: Changed in place.
            dtype: Of the whole model; without it, its own.

        Returns:
            The model, which is no quantized one any more.
        """
        if dtype is not None:
            model.to(dtype)
        return super().dequantize(model, model.dtype)  # type: ignore[no-untyped-call]

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        # Linears are trained where the embeddings are: not in a model that has an adapter.
        is_trained = model.get_input_embeddings().weight.requires_grad
        for name, module in list(model.named_modules()):
            if isinstance(module, PackedLinear | PackedEmbedding):
                model.set_submodule(name, module.dequantized(dtype).requires_grad_(is_trained))
            if isinstance(module, TiedLinear):
                vars(model).pop(TIED, None)
                model.tie_weights()
                model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(True)
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters on packed linears are trained; the packed weights are not."""
        return True


def _untie(model: Any, head: str) -> None:
    """Have transformers leave a tied head alone: it has no weight, and takes the packed table's."""
    model.all_tied_weights_keys.pop(head, None)
    tied = dict(getattr(model, TIED) or {})
    tied.pop(head, None)
    setattr(model, TIED, tied)


def _complete_when_saved(kind: Any) -> None:
    """Have a class of models write what an exported folder has when it saves a packed model.

    The method is the class's, not the model's: a model that holds a method of itself would stay in
    memory until Python looks for circles. Others of the class are saved as before.
    """
    save: Any = kind.save_pretrained
    if getattr(save, "completes_packed_models", False):
        return

    @functools.wraps(save)
    def save_pretrained(
        self: Any,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        **settings: Any,
    ) -> None:
        quantizer = getattr(self, "hf_quantizer", None)
        is_adapter = getattr(self, "_hf_peft_config_loaded", False)
        other_files = settings.get("variant") or settings.get("distributed_checkpoint")
        if not isinstance(quantizer, LuqQuantizer) or is_adapter or other_files:
            save(self, save_directory, is_main_process, state_dict, push_to_hub, **settings)
            return
        hub_settings = {name: settings.pop(name) for name in HUB_SETTINGS if name in settings}
        repository = settings.pop("repo_id", Path(save_directory).name)
        save(self, save_directory, is_main_process, state_dict, **settings)
        if is_main_process:
            complete(Path(save_directory), self, quantizer.loaded)
        if push_to_hub:  # transformers' own way would push before the folder is complete
            self.push_to_hub(repository, **hub_settings)

    save_pretrained.completes_packed_models = True  # type: ignore[attr-defined]
    kind.save_pretrained = save_pretrained


def _bring_about(folder: Path, repository: str) -> None:
    """Have luq.json in the folder of a cache to which transformers downloads config and weights.

    Args:
        folder: Where the weights are: `models--OWNER--NAME/snapshots/COMMIT` in a cache of the hub.
            Nothing is done for any other.
        repository: Its name on the hub.
    """
    is_cached = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models")
    if not is_cached or (folder / ABOUT).exists():
        return
    cache = folder.parent.parent.parent
    try:
        hf_hub_download(repository, ABOUT, revision=folder.name, cache_dir=cache)
    except (EntryNotFoundError, OSError, ValueError) as error:  # others of the hub are among them
        log.warning(
            "%s comes without checksums (%s): its files are not compared", repository, brief(error)
        )


def _check_shapes(folder: Path, model: Any) -> None:
    """A ModelError that names a packed linear's buffer which the files lack or have otherwise."""
    shapes: dict[Place | None, tuple[int, ...]] = {}
    for stored_name, entry in stored_tensors(folder).items():
        shapes[place_of(stored_name)] = entry.shape
    for (index, name), linear in packed_linears(model).items():
        for buffer, tensor in linear.packed.buffers.items():
            stored = shapes.get(Place(index, name, buffer))
            if stored is None:
                raise ModelError(
                    f"{folder}: the weight files lack layers.{index}.{name}.{buffer}: copy, "
                    "download or export the folder again"
                )
            if stored != tuple(tensor.shape):
                raise ModelError(
                    f"{folder}: layers.{index}.{name} has {buffer} of the shape {list(stored)} in "
                    f"the files, but config.json makes it {list(tensor.shape)}: export the folder "
                    "again"
                )
    by_name = {plain_name(name): entry.shape for name, entry in stored_tensors(folder).items()}
    for name, tensor in buffers_beside(model).items():
        if by_name.get(name) != tuple(tensor.shape):
            raise ModelError(
                f"{folder}: config.json makes {name} {list(tensor.shape)}, but in the weight files "
                f"it is {by_name.get(name, 'missing')}: export the folder again"
            )


def _skeleton(entry: dict[str, Any]) -> PackedWeight:
    """A packed weight whose buffers have shapes and types, and no content yet."""
    numbers = dict(entry)
    format_name = numbers.pop("format")
    rows, columns = numbers.pop("shape")
    buffers: dict[str, torch.Tensor] = {}
    for name, (dtype, shape) in numbers.pop("buffers").items():
        buffers[name] = torch.empty(shape, dtype=_dtype(dtype), device="meta")
    return restore(format_name, buffers, (rows, columns), **numbers)


def _dtype(name: str) -> torch.dtype:
    """The torch type of a name; a ValueError for what is none, since a folder may say anything."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no type of numbers")
    return dtype
