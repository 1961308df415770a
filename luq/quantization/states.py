"""Hidden states of a calibration set on their way through a model, in memory or on disk."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.models.scratch import Scratch, Slot
from luq.models.vlm import VLM

NO_ARGUMENTS = ("past_key_values", "use_cache")  # of a decoder layer: there is no cache here


class _Captured(Exception):
    """Thrown by the hook that has what it came for."""


class State:
    """One batch on its way: hidden states [batch, tokens, width], and the layer's other arguments.

    `hidden` lies on disk if there is a scratch file. `weights` [batch * tokens] is what the tokens
    count in a Hessian; None: all alike.
    """

    def __init__(
        self,
        hidden: Tensor,
        arguments: dict[str, Any],
        scratch: Scratch | None = None,
        weights: Tensor | None = None,
    ):
        self.arguments = arguments
        self.device = hidden.device
        self.weights = weights
        self._scratch = scratch
        self._slot: Slot | None = None
        self.hidden = hidden

    @property
    def hidden(self) -> Tensor:
        """The hidden states now."""
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
def first_inputs(vlm: VLM, samples: CalibrationSet, folder: Path | None = None) -> list[State]:
    """What decoder layer 0 receives, batch by batch.

    Beyond `model.activations_gb` in all, states lie in a nameless file in `folder`.
    """
    vlm.restore()
    states: list[State] = []
    scratch = Scratch(folder)
    room_bytes = vlm.config.activations_gb * 1e9
    weights: Tensor | None = None

    def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal room_bytes
        hidden = args[0] if args else kwargs.pop("hidden_states")
        arguments = {name: item for name, item in kwargs.items() if name not in NO_ARGUMENTS}
        room_bytes -= hidden.numel() * hidden.element_size()
        place = None if room_bytes >= 0 else scratch
        states.append(State(hidden, arguments, place, weights))
        raise _Captured

    handle = vlm.layers[0].register_forward_pre_hook(capture, with_kwargs=True)
    try:
        for batch in samples.batches():
            weights = samples.weights(batch)
            try:
                vlm.model(**inputs_of(batch, vlm.device), use_cache=False)
            except _Captured:
                continue
    finally:
        handle.remove()
    return states


@torch.no_grad()
def layer_output(layer: nn.Module, state: State) -> Tensor:
    """A layer's output of one batch, [batch, tokens, width]."""
    output: Tensor | tuple[Tensor, ...] = layer(state.hidden, **state.arguments)
    return output[0] if isinstance(output, tuple) else output


def pass_through(layer: nn.Module, states: list[State]) -> None:
    """Turn every state from a layer's input into its output."""
    for state in states:
        state.hidden = layer_output(layer, state)
