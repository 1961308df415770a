"""The quantization method `luq` of transformers, which loads exported folders.

A folder's config says what each linear is, and its buffers are loaded as stored. Nothing is
unpacked while loading, and no 16-bit linear is ever made: the model's skeleton gets packed linears
whose buffers have the stored shapes and types, and transformers fills them from the files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from luq.errors import ModelError
from luq.export.about import FORMAT_VERSION, GUARD, GUARD_ENTRY
from luq.export.checksums import check_before_loading
from luq.formats.base import PackedWeight
from luq.formats.known import restore
from luq.formats.linear import PackedLinear
from luq.models.decoder import find_layers, linears_of
from luq.models.families import short_name
from luq.models.weight_files import plain_name, stored_tensors

METHOD = "luq"
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


@register_quantization_config(METHOD)
class LuqConfig(QuantizationConfigMixin):
    """What a folder's `quantization_config` says.

    Args:
        format_version: Of the folder.
        layers: By decoder layer, {tier, linears: {short name: {format, shape, buffers: {name:
            [type, shape]}, and the format's numbers}}}.

    Raises:
        ModelError: A newer version of LUQ wrote the folder.
    """

    def __init__(
        self,
        format_version: int = FORMAT_VERSION,
        layers: list[dict[str, Any]] | None = None,
        **_: Any,
    ) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # transformers lists its own methods
        self.format_version = format_version
        self.layers = layers or []
        # A folder's JSON may hold anything.
        if type(format_version) is not int or not isinstance(self.layers, list):
            raise ModelError(
                f"this folder's quantization_config has format_version={format_version!r} and "
                f"layers of type {type(layers).__name__}: export it again"
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
        entries = self.quantization_config.layers
        layers = find_layers(model)
        if len(layers) != len(entries):
            raise ModelError(
                f"the folder's config packs {len(entries)} layers, but its model has "
                f"{len(layers)}: export it again"
            )
        for index, layer in enumerate(layers):
            for name, original in linears_of(layer).items():
                parent, _dot, attribute = name.rpartition(".")
                try:
                    tier = entries[index]["tier"]
                    weight = _skeleton(entries[index]["linears"][short_name(name)])
                except _NOT_AS_WRITTEN as error:
                    raise ModelError(
                        f"the folder's config does not say how layers.{index}.{name} is packed "
                        f"({error!r}): export it again"
                    ) from error
                linear = PackedLinear(weight, tier, original.bias)
                setattr(layer.get_submodule(parent), attribute, linear)
        # The checksums come last: the other checks say more than that a file differs.
        for folder in {Path(file).parent for file in checkpoint_files or ()}:
            _check_shapes(folder, model)
            check_before_loading(folder)
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def _check_shapes(folder: Path, model: Any) -> None:
    """A ModelError that names a packed linear's buffer which has another shape in the files.

    One that is missing there is named by what loads the files.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, entry in stored_tensors(folder).items():
        shapes[plain_name(name)] = entry.shape
    for name, module in model.named_modules():
        if not isinstance(module, PackedLinear):
            continue
        for buffer, tensor in module.named_buffers(recurse=False):
            expected = tuple(tensor.shape)
            stored = shapes.get(plain_name(f"{name}.{buffer}"), expected)
            if stored != expected:
                raise ModelError(
                    f"{folder}: {name} has {buffer} of the shape {list(stored)} in the files, but "
                    f"config.json makes it {list(expected)}: export the folder again"
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
