"""Where a model's decoder layers stand, and their linears: found in the model, not by its family.

transformers' models say what their language backbone is (`get_decoder`); its `layers` are the
decoder layers, and every `nn.Linear` inside them is one that is quantized.
"""

from typing import Any, cast

from torch import nn

from luq.errors import ModelError


def decoder_of(model: Any) -> nn.Module:
    """The module that hands hidden states from decoder layer to decoder layer.

    Raises:
        ModelError: the model has none, or one without a list of layers.
    """
    family = getattr(model.config, "model_type", "?")
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise ModelError(
            f"no decoder layers are found in this {family} model: LUQ quantizes models whose "
            "get_decoder() has a list `layers`"
        )
    return cast("nn.Module", decoder)


def find_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of the language backbone, each with linears.

    Raises:
        ModelError: there are none, or one has experts of which a token uses a few.
    """
    layers = cast("nn.ModuleList", decoder_of(model).layers)
    for index, layer in enumerate(layers):
        if not linears_of(layer):
            raise ModelError(f"decoder layer {index} has no linear that could be quantized")
        for name, parameter in layer.named_parameters():
            if "experts" in name.split("."):
                raise ModelError(
                    f"decoder layer {index} is a mixture of experts ({name}, "
                    f"{list(parameter.shape)}): LUQ quantizes layers whose linears see all tokens"
                )
    return layers


def layers_path(model: Any) -> str:
    """The name of the module that is the list of decoder layers."""
    layers = find_layers(model)
    for name, module in model.named_modules():
        if module is layers:
            return str(name)
    raise ModelError("the model's decoder is no part of the model")


def linears_of(layer: nn.Module) -> dict[str, nn.Linear]:
    """The linears of a decoder layer by their names within it, in the order of its modules."""
    linears: dict[str, nn.Linear] = {}
    for name, module in layer.named_modules():
        if type(module) is nn.Linear:
            linears[name] = module
    return linears
