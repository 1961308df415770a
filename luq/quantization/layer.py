"""One decoder layer into a tier: Hessians of its linears' inputs, and the packed weights."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luq.config import TierConfig
from luq.errors import DataError
from luq.formats.base import PackedWeight
from luq.formats.layer_file import PackedLayer
from luq.formats.linear import PackedLinear
from luq.models.families import GROUPS
from luq.models.vlm import VLM
from luq.quantization.hessian import HessianSum
from luq.quantization.methods import Quantizer, make_quantizer
from luq.quantization.states import State, layer_output

Groups = tuple[tuple[str, ...], ...]  # linears that share an input, in the forward pass's order
Hessian = Float[Tensor, "in in"]


@torch.no_grad()
def hessians(layer: nn.Module, states: list[State], groups: Groups) -> dict[str, Hessian]:
    """One Hessian per group of linears that share an input.

    Args:
        layer: the decoder layer, with whatever linears stand in it.
        states: the layer's inputs, batch by batch.
        groups: short module names of the linears, a tuple for each shared input.

    Returns:
        Name of each linear -> H [in, in]; linears of a group have the very same tensor.
    """
    sums: list[HessianSum] = []
    hooks: list[Any] = []
    current = states[0]

    def listen(group: tuple[str, ...]) -> None:
        linear: Any = layer.get_submodule(group[0])
        total = HessianSum(int(linear.in_features), states[0].device)

        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            total.add(inputs[0], current.weights)

        sums.append(total)
        hooks.append(linear.register_forward_pre_hook(add))

    for group in groups:
        listen(group)
    try:
        for current in states:
            layer_output(layer, current)
    finally:
        for hook in hooks:
            hook.remove()
    by_linear: dict[str, Hessian] = {}
    for group, total in zip(groups, sums, strict=True):
        by_linear |= dict.fromkeys(group, total.mean())
    return by_linear


def runtime_modules(
    vlm: VLM, index: int, packed: PackedLayer, tier: str, cache: bool
) -> dict[str, nn.Module]:
    """The modules that compute with a packed layer's weights.

    Args:
        vlm: the model that they are for.
        index: the decoder layer.
        packed: its packed weights, by linear.
        tier: a label that the modules carry.
        cache: keep unpacked weights; never done where the model is streamed.
    """
    modules: dict[str, nn.Module] = {}
    for name, weight in packed.items():
        bias = vlm.bias(index, name)
        keep_unpacked = cache and not vlm.config.stream
        modules[name] = PackedLinear(weight.to(vlm.device), tier, bias, keep_unpacked)
    return modules


@torch.no_grad()
def quantize_layer(
    vlm: VLM, index: int, tier: TierConfig, states: list[State] | None
) -> PackedLayer:
    """All linears of one layer in one tier; the layer has its 16-bit linears again afterwards.

    With `true_sequential` each group's Hessian sees the groups before it already quantized, as
    GPTQ's reference code does.

    Args:
        vlm: the model.
        index: the decoder layer.
        tier: how it is stored.
        states: the layer's inputs; None only for a tier that needs no data.

    Raises:
        DataError: a Hessian is none; the message names layer and linear.
    """
    quantizer = make_quantizer(tier)
    layer = vlm.layers[index]
    packed: PackedLayer = {}
    vlm.install(index, None)
    weights = vlm.original(index)
    passes: list[Groups] = [(group,) for group in GROUPS] if tier.sees_packed_groups else [GROUPS]
    try:
        for groups in passes:
            by_linear: dict[str, Hessian] = {}
            if states is not None and not tier.data_free:
                by_linear = hessians(layer, states, groups)
            for group in groups:
                for name in group:
                    where = f"layer {index} {name}"
                    packed[name] = _packed(quantizer, weights[name], by_linear.get(name), where)
            vlm.install(index, runtime_modules(vlm, index, packed, tier.method, cache=True))
    finally:
        vlm.install(index, None)
    return packed


def _packed(
    quantizer: Quantizer, weight: Tensor, hessian: Hessian | None, where: str
) -> PackedWeight:
    try:
        return quantizer.quantize(weight.float(), hessian)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
