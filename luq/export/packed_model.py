"""What is packed of a model in transformers, and where its buffers stand in files."""

from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from luq.formats.linear import PackedLinear
from luq.formats.stored_module import StoredModule
from luq.models.decoder import decoder_of
from luq.models.families import decoder_weight, part_of
from luq.models.weight_files import plain_name


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


def modules_beside(model: Any) -> dict[str, StoredModule]:
    """A model's packed modules beside its decoder's layers, by their paths."""
    in_layers = {id(linear) for linear in packed_linears(model).values()}
    modules: dict[str, StoredModule] = {}
    for path, module in model.named_modules():
        if isinstance(module, StoredModule) and id(module) not in in_layers:
            modules[path] = module
    return modules


def buffers_beside(model: Any) -> dict[str, Tensor]:
    """The buffers of those modules, by their plain names; those of a tied head are the table's."""
    buffers: dict[str, Tensor] = {}
    for path, module in modules_beside(model).items():
        for name in dict(module.named_buffers(recurse=False)):
            buffers[plain_name(f"{path}.{name}")] = module.packed.buffers[name]
    return buffers


def classes_beside(model: Any) -> dict[str, str]:
    """The ledger class of each of those buffers, by its plain name: `vision codes`."""
    classes: dict[str, str] = {}
    for path, module in modules_beside(model).items():
        part = part_of(f"{path}.weight")
        for name, ledger_class in module.packed.classes.items():
            classes[plain_name(f"{path}.{name}")] = f"{part} {ledger_class}"
    return classes
