"""The quantization method `luq` of transformers: a folder's config says what each linear is, its buffers are loaded as stored.

Nothing is unpacked while loading, and no 16-bit linear is ever made: the model's skeleton gets packed linears whose buffers have
the stored shapes and types, and transformers fills them from the safetensors files.
"""

from typing import Any

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from luq.errors import ModelError
from luq.export.folder import FORMAT
from luq.formats.known import restore
from luq.formats.linear import PackedLinear
from luq.models.vlm import LINEARS, find_layers

METHOD = "luq"


@register_quantization_config(METHOD)
class LuqConfig(QuantizationConfigMixin):
    """`layers[i]` is {tier, linears: {short name: {format, shape, buffers: {name: [type, shape]}, ...}}} of decoder layer i."""

    def __init__(
        self, format_version: int = FORMAT, layers: list[dict[str, Any]] | None = None, **_: Any
    ):
        self.quant_method = METHOD  # type: ignore[assignment]  # transformers lists its own methods
        self.format_version = format_version
        self.layers = layers or []
        if format_version > FORMAT:
            raise ModelError(
                f"this folder has format version {format_version} of LUQ, this version reads {FORMAT}: update luq"
            )


@register_quantizer(METHOD)
class LuqQuantizer(HfQuantizer):
    """Puts packed linears into a model's skeleton before its weights are loaded."""

    requires_calibration = True  # weights are packed by `luq run`, not by from_pretrained
    quantization_config: Any

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        told = self.quantization_config.layers
        layers = find_layers(model)
        if len(layers) != len(told):
            raise ModelError(
                f"the folder's config packs {len(told)} layers, but its model has {len(layers)}: export it again"
            )
        for layer, entry in zip(layers, told, strict=True):
            for name in LINEARS:
                parent, _dot, attribute = name.rpartition(".")
                bias = getattr(layer.get_submodule(name), "bias", None)
                skeleton = _skeleton(dict(entry["linears"][attribute]))
                setattr(
                    layer.get_submodule(parent),
                    attribute,
                    PackedLinear(skeleton, entry["tier"], bias),
                )
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def _skeleton(entry: dict[str, Any]) -> Any:
    """A packed weight whose buffers have shapes and types, and no content yet."""
    buffers = {
        name: torch.empty(shape, dtype=getattr(torch, kind), device="meta")
        for name, (kind, shape) in entry.pop("buffers").items()
    }
    rows, columns = entry.pop("shape")
    return restore(entry.pop("format"), buffers, (rows, columns), **entry)
