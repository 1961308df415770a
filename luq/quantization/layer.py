"""One decoder layer into its tiers: Hessians of its linears' inputs, and the packed weights."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luq.config import LayerTiers
from luq.errors import DataError, ModelError
from luq.formats.base import PackedWeight
from luq.formats.layer_file import PackedLayer
from luq.formats.linear import PackedLinear
from luq.models.decoder import linears_of
from luq.models.vlm import VLM
from luq.quantization.hessian import SplitHessian
from luq.quantization.layer_calls import Groups, KnownOutputs, LayerCalls, calls_of
from luq.quantization.methods import Quantizer, make_quantizer
from luq.quantization.states import Captured, State

Hessian = Float[Tensor, "in in"]


@torch.no_grad()
def hessians(
    layer: nn.Module,
    states: list[State],
    groups: Groups,
    held_out: float = 0.0,
    known: KnownOutputs | None = None,
) -> dict[str, Hessian]:
    """One Hessian per group of linears that share an input.

    A batch goes only as far into the layer as its linears are wanted.

    Args:
        layer: the decoder layer, with whatever linears stand in it.
        states: the layer's inputs, batch by batch.
        groups: short module names of the linears, a tuple for each shared input.
        held_out: share of the batches that say how far Hessians are shrunk; 0: not at all.
        known: what the layer's packed linears gave in passes before, and how often a batch calls
            each linear; None: the first batch goes through the whole layer to count that.

    Returns:
        Name of each linear -> H [in, in]; linears of a group have the very same tensor.
    """
    if not groups:
        return {}
    apart = held_out_states(states, held_out)
    counts = {} if known is None else known.counts
    listeners = [
        _Listener(layer, group, states[0].device, counts.get(group[0], 0)) for group in groups
    ]
    for listener in listeners:
        listener.others = listeners
    try:
        for state in states:
            for listener in listeners:
                listener.begin(state, state in apart)
            if known is not None:
                known.begin(state)
            _run_until_heard(layer, state, listeners)
    finally:
        for listener in listeners:
            listener.hook.remove()
    by_linear: dict[str, Hessian] = {}
    for listener in listeners:
        by_linear |= dict.fromkeys(listener.group, listener.total.mean())
    return by_linear


class _Listener:
    """Sums the inputs of one group of linears, batch by batch.

    Args:
        layer: in which they stand.
        group: their names.
        device: where it sums.
        usual_calls: the most in a batch, as far as that is known; 0: not yet.
    """

    def __init__(
        self, layer: nn.Module, group: tuple[str, ...], device: torch.device, usual_calls: int
    ) -> None:
        linear: Any = layer.get_submodule(group[0])
        self.group = group
        self.total = SplitHessian(int(linear.in_features), device)
        self.hook = linear.register_forward_pre_hook(self._add)
        self.others: Sequence[_Listener] = ()  # all of the same pass
        self.calls = 0  # in this batch
        self._usual_calls = usual_calls
        self._weights: Tensor | None = None
        self._is_held_out = False

    def begin(self, state: State, is_held_out: bool) -> None:
        """A batch comes."""
        self.calls = 0
        self._weights = state.weights(self.group)
        self._is_held_out = is_held_out

    def end(self) -> None:
        """The batch has gone as far into the layer as it had to."""
        self._usual_calls = max(self._usual_calls, self.calls)

    @property
    def has_all(self) -> bool:
        """Whether it was called as often as in other batches."""
        return 0 < self._usual_calls <= self.calls

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.total.add(inputs[0], self._weights, self._is_held_out)
        self.calls += 1
        if all(other.has_all for other in self.others):
            raise Captured  # what comes after it in the layer is not wanted


def _run_until_heard(layer: nn.Module, state: State, listeners: Sequence[_Listener]) -> None:
    """Run a layer on a batch until all listeners have heard what they listen for.

    Where it is not known how often each is called, the first batch goes through the whole layer.
    """
    with suppress(Captured):
        state.output(layer)
    for listener in listeners:
        listener.end()


def held_out_states(states: list[State], share: float) -> set[State]:
    """The batches that are held out: one of as many as the share says, evenly spread.

    Raises:
        DataError: the share is above 0, and there are too few batches to hold one out.
    """
    if share == 0:
        return set()
    stride = round(1 / share)
    apart = set(states[stride - 1 :: stride])
    if not apart:
        raise DataError(
            f"the calibration set makes {len(states)} batches, and quantizer.held_out={share:g} "
            f"holds one of {stride} out: raise calibration.tokens, or set quantizer.held_out=0"
        )
    return apart


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


@runtime_checkable
class Refiner(Protocol):
    """Tunes a layer while it is packed, group by group."""

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Start from the layer's 16-bit weights, by linear."""
        ...

    def weight(self, name: str) -> Tensor:
        """What is to be packed of a linear."""
        ...

    def before(self, names: Sequence[str], packed: PackedLayer) -> None:
        """Some linears are packed next."""
        ...

    def end(self, packed: PackedLayer) -> PackedLayer:
        """All linears are packed; what is stored of them may still be changed."""
        ...


@torch.no_grad()
def quantize_layer(
    vlm: VLM,
    index: int,
    tiers: LayerTiers,
    states: list[State] | None,
    refiner: Refiner | None = None,
    held_out: float = 0.0,
) -> PackedLayer:
    """All linears of one layer, each in its tier; the layer has its 16-bit linears again
    afterwards.

    With `true_sequential` each group's Hessian sees the groups before it already quantized, as
    GPTQ's reference code does: for the whole layer, if one of its tiers wants it so, or if it is
    refined.

    Args:
        vlm: the model.
        index: the decoder layer.
        tiers: how its linears are stored.
        states: the layer's inputs; None only for tiers that need no data.
        refiner: tunes the layer meanwhile.
        held_out: share of the batches that say how far Hessians are shrunk; 0: not at all.

    Raises:
        DataError: a Hessian is none; the message names layer and linear.
        ModelError: a tier is given for a linear that the layer does not have.
    """
    quantizers = {tier: make_quantizer(tier) for tier in tiers.distinct}
    layer = vlm.layers[index]
    packed: PackedLayer = {}
    vlm.install(index, None)
    weights = vlm.original(index)
    _check_names(index, tiers, weights)
    calls = _calls(index, layer, states)
    known = None if states is None else KnownOutputs(_room_bytes(vlm, states), calls.counts)
    goes_by_groups = tiers.sees_packed_groups or refiner is not None
    passes: list[Groups] = [(group,) for group in calls.groups]
    if not goes_by_groups:
        passes = [calls.groups]
    try:
        if refiner is not None:
            refiner.begin(weights)
        for place, part in enumerate(passes):
            names = [name for group in part for name in group]
            by_linear: dict[str, Hessian] = {}
            if states is not None:
                by_linear = hessians(layer, states, _calibrated(part, tiers), held_out, known)
            if refiner is not None:
                refiner.before(names, packed)
            for name in names:
                where = f"layer {index} {name}"
                quantizer = quantizers[tiers.of_linear(name)]
                weight = weights[name] if refiner is None else refiner.weight(name)
                packed[name] = packed_weight(quantizer, weight, by_linear.get(name), where)
            ready = {name: packed[name] for name in names}
            modules = runtime_modules(vlm, index, ready, "packed", cache=True)
            # the next pass computes their outputs, and those after it can look them up
            if known is not None and refiner is None and place + 2 < len(passes):
                known.remember(modules)
            vlm.install(index, modules)
        if refiner is not None:
            packed = refiner.end(packed)
    finally:
        vlm.install(index, None)
    return {name: packed[name] for name in weights}


def _check_names(index: int, tiers: LayerTiers, weights: Mapping[str, Tensor]) -> None:
    """A ModelError unless the linears that have tiers of their own are among the layer's."""
    unknown = [other.linear for other in tiers.others if other.linear not in weights]
    if unknown:
        raise ModelError(
            f"layer {index} has no linear {', '.join(unknown)}, for which a tier was given: its "
            f"linears are {', '.join(weights)}"
        )


def _calibrated(groups: Groups, tiers: LayerTiers) -> Groups:
    """The linears of each group whose tiers need a Hessian; groups without any are left out."""
    calibrated: list[tuple[str, ...]] = []
    for group in groups:
        names = tuple(name for name in group if not tiers.of_linear(name).data_free)
        if names:
            calibrated.append(names)
    return tuple(calibrated)


def _calls(index: int, layer: nn.Module, states: list[State] | None) -> LayerCalls:
    """How the layer calls its linears; without data each has an input of its own."""
    if states is None:
        return LayerCalls(tuple((name,) for name in linears_of(layer)), {})
    try:
        return calls_of(layer, states)
    except DataError as error:
        raise DataError(f"layer {index}: {error}") from error
    except ModelError as error:
        raise ModelError(f"layer {index}: {error}") from error


def _room_bytes(vlm: VLM, states: Sequence[State]) -> float:
    """What the hidden states leave of the memory for activations."""
    return vlm.config.activations_gb * 1e9 - sum(state.memory_bytes for state in states)


def packed_weight(
    quantizer: Quantizer, weight: Tensor, hessian: Hessian | None, where: str
) -> PackedWeight:
    """A packed weight; the error of a Hessian that is none says where the linear stands."""
    try:
        return quantizer.quantize(weight.float(), hessian)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
