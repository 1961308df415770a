"""The packed linears of a model in transformers, and where their buffers stand in files."""

from typing import Any, NamedTuple, cast

from torch import nn

from luq.formats.linear import PackedLinear
from luq.models.decoder import decoder_of
from luq.models.families import decoder_weight


class Place(NamedTuple):
    """Where a buffer belongs, whatever a file or a model calls the modules above the layers."""

    layer: int
    linear: str  # its name within the layer
    buffer: str


def place_of(name: str) -> Place | None:
    """The place of a tensor of a decoder layer; None for one of another part.

    Args:
        name: Of the tensor in a weight file.
    """
    module, _dot, buffer = name.rpartition(".")
    place = decoder_weight(f"{module}.weight")
    return None if place is None else Place(*place, buffer)


def packed_linears(model: Any) -> dict[tuple[int, str], PackedLinear]:
    """A model's packed linears by their layer and their name within it."""
    packed: dict[tuple[int, str], PackedLinear] = {}
    layers = cast("nn.ModuleList", decoder_of(model).layers)
    for index, layer in enumerate(layers):
        for name, module in layer.named_modules():
            if isinstance(module, PackedLinear):
                packed[index, name] = module
    return packed
