"""How a layer calls its linears, and what packed ones gave for each batch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from luq.errors import DataError, ModelError
from luq.models.decoder import linears_of
from luq.quantization.states import State

Groups = tuple[tuple[str, ...], ...]  # linears that share an input, in the forward pass's order


class LayerCalls(NamedTuple):
    """Which linears of a layer are given the same tensor, and how often a batch calls each."""

    groups: Groups
    counts: Mapping[str, int]


@torch.no_grad()
def calls_of(layer: nn.Module, states: Sequence[State]) -> LayerCalls:
    """How a layer calls its linears.

    Args:
        layer: the decoder layer, with its 16-bit linears.
        states: the layer's inputs; of the batches for which it is called the smallest is looked at.

    Raises:
        DataError: the layer is called for no batch.
        ModelError: a linear is not called as a module, so that nothing could stand in its place.
    """
    linears = linears_of(layer)
    groups: list[list[str]] = []
    inputs: list[Tensor] = []  # of each group; held, so that no later tensor is taken for one
    counts: Counter[str] = Counter()

    def listen(name: str) -> Any:
        def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            counts[name] += 1
            for group, known in zip(groups, inputs, strict=True):
                if known is arguments[0]:
                    group.append(name)
                    return
            groups.append([name])
            inputs.append(arguments[0])

        return note

    called = [state for state in states if state.is_called]
    if not called:
        raise DataError(
            "no calibration sample reaches this layer: calibrate with images "
            "(calibration=multimodal)"
        )
    hooks = [linear.register_forward_pre_hook(listen(name)) for name, linear in linears.items()]
    try:
        min(called, key=lambda state: state.tokens).output(layer)
    finally:
        for hook in hooks:
            hook.remove()
    uncalled = set(linears).difference(*groups)
    if uncalled:
        raise ModelError(
            f"the linears {', '.join(sorted(uncalled))} are not called in the forward pass: LUQ "
            "cannot put packed ones in their place"
        )
    return LayerCalls(tuple(tuple(group) for group in groups), counts)


def shared_inputs(layer: nn.Module, states: Sequence[State]) -> Groups:
    """The linears of a layer that are given the same tensor, in the order of the forward pass; as
    `calls_of`.
    """
    return calls_of(layer, states).groups


class KnownOutputs:
    """What packed linears of a layer gave for each batch, as long as there is room in memory.

    What stands before a packed linear is packed, too: each pass gives it the same inputs, and its
    products need to be computed in one of them only.

    Args:
        room_bytes: for all of them.
        counts: how often a batch calls each linear; what is called several times is not looked at.
    """

    def __init__(self, room_bytes: float, counts: Mapping[str, int]) -> None:
        self.room_bytes = room_bytes
        self.counts = counts
        self._state: State | None = None
        self._called: set[str] = set()  # linears, in this pass of the batch
        self._outputs: dict[tuple[State, str], _Output] = {}

    def begin(self, state: State) -> None:
        """A batch comes."""
        self._state = state
        self._called.clear()

    def remember(self, linears: Mapping[str, nn.Module]) -> None:
        """Have packed linears, by name, give what they gave before."""
        for name, linear in linears.items():
            if self.counts.get(name) == 1:
                compute = linear.forward
                linear.forward = self._forward(name, compute)

    def _forward(self, name: str, compute: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            if self._state is None:
                raise LookupError("no batch has begun")
            # A layer that cuts long batches into pieces calls it once for each.
            if name in self._called:
                return compute(x)  # type: ignore[no-any-return]
            self._called.add(name)
            place = (self._state, name)
            known = self._outputs.get(place)
            if known is not None and known.is_unchanged:
                return known.tensor
            output: Tensor = compute(x)
            size = output.numel() * output.element_size()
            # of inference tensors it is not known whether they were written into
            if known is None and size <= self.room_bytes and not output.is_inference():
                self.room_bytes -= size
                self._outputs[place] = _Output(output, output._version)
            return output

        return forward


class _Output(NamedTuple):
    """What a linear gave, and how often it had been written into by then."""

    tensor: Tensor
    version: int

    @property
    def is_unchanged(self) -> bool:
        """Whether the layer has left it as it was."""
        return self.tensor._version == self.version
