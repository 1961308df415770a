"""Layer by layer through the model: Hessians, quantization, and what the next layer sees.

The inputs of layer 0 are captured once. Propagation decides what feeds layer l: `exact`, the outputs of
this allocation's own quantized layers (the paper's way); `high`, those of the all-high-tier model;
`float`, those of the 16-bit model. With `high` and `float` a layer's artefact does not depend on the
allocation, so every allocation shares it; with `exact` equal prefixes are shared.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luq.allocation.plans import Allocation
from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import QuantizerConfig, TierConfig
from luq.errors import DataError
from luq.formats.base import PackedWeight
from luq.formats.layer_file import PackedLayer, read_layer, write_layer
from luq.formats.linear import PackedLinear
from luq.models.scratch import Scratch, Slot
from luq.models.families import GROUPS
from luq.models.vlm import VLM
from luq.quantization.hessian import HessianSum
from luq.quantization.methods.float16 import make_quantizer
from luq.store import keys
from luq.store.store import Store

log = logging.getLogger(__name__)
STAGE = "layers"
VERSION = 2  # of the arithmetic and the formats; raise it when either changes


class _Captured(Exception):
    """Thrown by the hook that has what it came for."""


class State:
    """One batch on its way: hidden [batch, tokens, width], on disk if there is a scratch, and the layer's other arguments.

    `weights` [batch * tokens]: what its tokens count in a Hessian; None: all alike.
    """

    def __init__(
        self,
        hidden: Tensor,
        arguments: dict[str, Any],
        scratch: Scratch | None = None,
        weights: Tensor | None = None,
    ):
        self.arguments, self.device, self.weights, self._scratch = (
            arguments,
            hidden.device,
            weights,
            scratch,
        )
        self._slot: Slot | None = None
        self.hidden = hidden

    @property
    def hidden(self) -> Tensor:
        if self._scratch is None or self._slot is None:
            return self._hidden
        return self._scratch.get(self._slot).to(self.device)

    @hidden.setter
    def hidden(self, value: Tensor) -> None:
        if self._scratch is None:
            self._hidden = value
        else:
            self._slot = self._scratch.put(value, self._slot)


@torch.no_grad()
def first_inputs(vlm: VLM, calibration: CalibrationSet, folder: Path | None = None) -> list[State]:
    """What layer 0 receives, batch by batch. Beyond model.activations_gb in all, states lie in a nameless file in `folder`."""
    vlm.restore()
    states: list[State] = []
    scratch, room = Scratch(folder), vlm.config.activations_gb * 1e9

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal room
        hidden = args[0] if args else kwargs.pop("hidden_states")
        arguments = {
            name: value
            for name, value in kwargs.items()
            if name not in ("past_key_values", "use_cache")
        }
        room -= hidden.numel() * hidden.element_size()
        states.append(State(hidden, arguments, None if room >= 0 else scratch, weights))
        raise _Captured

    handle = vlm.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        for batch in calibration.batches():
            weights = calibration.weights(batch)
            try:
                vlm.model(**inputs_of(batch, vlm.device), use_cache=False)
            except _Captured:
                continue
    finally:
        handle.remove()
    return states


@torch.no_grad()
def output(layer: nn.Module, state: State) -> Tensor:
    """A layer's output of one batch, [batch, tokens, width]."""
    found: Tensor | tuple[Tensor, ...] = layer(state.hidden, **state.arguments)
    return found[0] if isinstance(found, tuple) else found


def forward(layer: nn.Module, states: list[State], keep: bool) -> None:
    """Run all batches through one layer; with `keep` the outputs become the next layer's inputs."""
    for state in states:
        found = output(layer, state)
        if keep:
            state.hidden = found


@torch.no_grad()
def hessians(
    layer: nn.Module, states: list[State], groups: tuple[tuple[str, ...], ...]
) -> dict[str, Tensor]:
    """One Hessian per group of linears that share an input, under each linear's name."""
    sums, hooks, current = [], [], states[0]
    for group in groups:
        linear: Any = layer.get_submodule(group[0])
        total = HessianSum(int(linear.in_features), states[0].device)
        sums.append(total)
        hooks.append(
            linear.register_forward_pre_hook(
                lambda module, args, total=total: total.add(args[0], current.weights)
            )
        )
    try:
        for current in states:
            output(layer, current)
    finally:
        for hook in hooks:
            hook.remove()
    means = [total.mean() for total in sums]
    return {name: mean for group, mean in zip(groups, means, strict=True) for name in group}


def modules(
    vlm: VLM, index: int, packed: PackedLayer, tier: str, cache: bool
) -> dict[str, nn.Module]:
    """The runtime modules of a packed layer."""
    return {
        name: PackedLinear(
            weight.to(vlm.device), tier, vlm.bias(index, name), cache and not vlm.config.stream
        )
        for name, weight in packed.items()
    }


@torch.no_grad()
def quantize_layer(
    vlm: VLM, index: int, tier: TierConfig, states: list[State] | None
) -> PackedLayer:
    """All linears of one layer in one tier; the layer has its 16-bit linears again afterwards.

    With true_sequential each group's Hessian sees the groups before it already quantized.
    """
    quantizer, layer, packed = make_quantizer(tier), vlm.layers[index], {}
    vlm.install(index, None)
    weights = vlm.original(index)
    passes = [(group,) for group in GROUPS] if tier.true_sequential else [GROUPS]
    try:
        for groups in passes:
            found = {} if quantizer.data_free or states is None else hessians(layer, states, groups)
            for name in (n for group in groups for n in group):
                packed[name] = _quantize_linear(
                    quantizer, weights[name], found.get(name), f"layer {index} {name}"
                )
            vlm.install(index, modules(vlm, index, packed, tier.method, cache=True))
    finally:
        vlm.install(index, None)
    return packed


def _quantize_linear(
    quantizer: Any, weight: Tensor, hessian: Tensor | None, where: str
) -> PackedWeight:
    try:
        return quantizer.quantize(weight.float(), hessian)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def layer_keys(
    fingerprint: str, calibration_hash: str, config: QuantizerConfig, allocation: Allocation
) -> list[str]:
    """The artefact key of every layer of an allocation: of everything that determines its bytes, and nothing else."""
    found: list[str] = []
    for index, name in enumerate(allocation.tiers):
        tier = config.tiers[name]
        part: list[Any] = ["layer", VERSION, fingerprint, index, tier]
        if not make_quantizer(tier).data_free:
            feed: Any = config.propagation
            if feed == "exact":
                feed = ["exact", *found]
            elif feed == "high":
                feed = ["high", config.tiers[config.high]]
            part += [calibration_hash, feed]
        found.append(keys.key(*part))
    return found


class Walk:
    """Makes and finds the layer artefacts of allocations over one model and one calibration set."""

    def __init__(
        self,
        vlm: VLM,
        calibration: Callable[[], CalibrationSet],
        calibration_hash: str,
        config: QuantizerConfig,
        store: Store,
    ):
        """`calibration` is called only when a layer has to be made."""
        self.vlm, self.calibration, self.config, self.store = vlm, calibration, config, store
        self.calibration_hash = calibration_hash

    def keys(self, allocation: Allocation) -> list[str]:
        """The artefact key of every layer."""
        return layer_keys(self.vlm.fingerprint, self.calibration_hash, self.config, allocation)

    def _feed(self, allocation: Allocation) -> Allocation | None:
        """The allocation whose outputs feed each next layer; None: the 16-bit model."""
        if self.config.propagation == "exact":
            return allocation
        if self.config.propagation == "high":
            return Allocation((self.config.high,) * len(allocation.tiers))
        return None

    def quantize(
        self, allocation: Allocation, advance: Callable[[str], None] = lambda what: None
    ) -> list[Path]:
        """The folders of all layer artefacts of an allocation, made where they are missing."""
        wanted = self.keys(allocation)
        missing = [i for i, key in enumerate(wanted) if not self.store.has(STAGE, key)]
        states: list[State] | None = None
        if any(
            not make_quantizer(self.config.tiers[allocation.tiers[i]]).data_free for i in missing
        ):
            states = first_inputs(self.vlm, self.calibration(), self.store.root)
        feed = self._feed(allocation)
        folders = []
        for index, key in enumerate(wanted):
            folders.append(self._artefact(index, key, allocation.tiers[index], states))
            if states is not None and missing and index < missing[-1]:
                self._pass_on(index, feed, states)
            advance(f"layer {index} {allocation.tiers[index]}")
        return folders

    def _artefact(self, index: int, key: str, tier: str, states: list[State] | None) -> Path:
        def build(folder: Path) -> None:
            write_layer(folder, quantize_layer(self.vlm, index, self.config.tiers[tier], states))

        return self.store.get(STAGE, key, build, f"layer {index} in {tier}")

    def _pass_on(self, index: int, feed: Allocation | None, states: list[State]) -> None:
        """Turn the inputs of layer `index` into those of the next, through the layer that feeds it."""
        if feed is not None:
            tier = feed.tiers[index]
            folder = self._artefact(index, self.keys(feed)[index], tier, states)
            self.vlm.install(index, modules(self.vlm, index, read_layer(folder), tier, cache=True))
        try:
            forward(self.vlm.layers[index], states, keep=True)
        finally:
            self.vlm.install(index, None)


def install(vlm: VLM, allocation: Allocation, folders: list[Path], cache: bool = True) -> int:
    """Put the packed layers of an allocation into the model; only what differs is read. Returns how many layers changed."""
    changed = 0
    for index, (tier, folder) in enumerate(zip(allocation.tiers, folders, strict=True)):
        if vlm.standing.get(index) != folder.name:
            vlm.install(index, modules(vlm, index, read_layer(folder), tier, cache), folder.name)
            changed += 1
    return changed
