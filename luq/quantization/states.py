"""Hidden states of a calibration set on their way through a model, in memory or on disk.

A model's decoder hands its layers more than hidden states: masks, rotary embeddings, and others
that may differ from layer to layer (sliding and full attention, inputs of each layer). Between two
layers it may change the hidden states (Qwen3-VL adds image features there). What each layer is
given is learnt from the decoder itself, by letting it run with layers that do nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, Sample, inputs_of
from luq.errors import ModelError
from luq.models.computing import computed_in
from luq.models.decoder import decoder_of
from luq.models.families import FAMILIES
from luq.models.scratch import Parked, Scratch
from luq.models.vlm import VLM
from luq.quantization.gradients import Squares, token_weights

BATCH_TOKENS = 2048
NO_ARGUMENTS = ("past_key_values", "use_cache")  # of a decoder layer: there is no cache here
LayerOutput = Tensor | tuple[Tensor, ...]
LayerFunction = Callable[..., LayerOutput]
# Positional and named arguments of a decoder.
DecoderCall = tuple[tuple[Any, ...], dict[str, Any]]


class Captured(Exception):
    """Thrown by a hook that has what it came for."""


class Call(NamedTuple):
    """How a layer is called, beside its hidden states."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @staticmethod
    def of(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, "Call"]:
        """The hidden states that a layer is called with, and the rest of the call."""
        options = {name: item for name, item in options.items() if name not in NO_ARGUMENTS}
        if arguments:
            return arguments[0], Call(arguments[1:], options)
        return options.pop("hidden_states"), Call((), options)


# Stands for a layer: its index, hidden states, and the rest of the call -> its output.
LayerAct = Callable[[int, Tensor, Call], Tensor]


class Passage:
    """One batch's way through a decoder: how each layer is called, and what is done between them.

    Args:
        decoder: hands hidden states from layer to layer.
        layers: its layers.
        call: how the model calls the decoder for this batch.
        gives_tuple: whether layers return their hidden states in a tuple.
    """

    def __init__(
        self, decoder: nn.Module, layers: nn.ModuleList, call: DecoderCall, gives_tuple: bool
    ) -> None:
        self._decoder = decoder
        self._layers = layers
        self._decoder_call: DecoderCall | None = call
        self._gives_tuple = gives_tuple
        # By layer; None: the decoder leaves the layer out for this batch.
        self.calls: list[Call | None] = [None] * len(layers)
        self._changed: set[int] = set()  # layers whose outputs the decoder changes before the next
        self.first = self._learn()  # hidden states before layer 0
        if not self._changed:
            self._decoder_call = None  # it holds as much as the hidden states

    def _learn(self) -> Tensor:
        """Run the decoder with layers that give back what they are given."""
        given: list[Tensor] = []
        called: list[int] = []

        def note(index: int, hidden: Tensor, call: Call) -> Tensor:
            if given and hidden is not given[-1]:
                self._changed.add(called[-1])
            self.calls[index] = call
            given.append(hidden)
            called.append(index)
            return hidden

        self._run(note)
        return given[0]

    def between(self, index: int, output: Tensor) -> Tensor:
        """What the layer after `index` receives, given the output of layer `index`."""
        if index not in self._changed:
            return output
        received: list[Tensor] = []

        def hand_on(layer: int, hidden: Tensor, call: Call) -> Tensor:
            if layer < index:
                return hidden
            if layer == index:
                return output
            received.append(hidden)
            raise Captured

        with suppress(Captured):
            self._run(hand_on)
        return received[0]

    def _run(self, act: LayerAct) -> None:
        """Run the decoder with `act` in place of its layers."""
        assert self._decoder_call is not None
        arguments, options = self._decoder_call
        with _stand_ins(self._layers, act, self._gives_tuple):
            self._decoder(*arguments, **options)


@contextmanager
def _stand_ins(layers: nn.ModuleList, act: LayerAct, gives_tuple: bool) -> Iterator[None]:
    """Other functions in place of the layers' own; nothing is left of them afterwards."""

    def stand_in(index: int) -> LayerFunction:
        def forward(*arguments: Any, **options: Any) -> LayerOutput:
            output = act(index, *Call.of(arguments, options))
            return (output,) if gives_tuple else output

        return forward

    # A streamed model's layers have a `forward` of their own, which reads their weights.
    own = [layer.__dict__.get("forward") for layer in layers]
    try:
        for index, layer in enumerate(layers):
            layer.forward = stand_in(index)
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = forward


class TokenCounts(NamedTuple):
    """What the tokens of a batch count in Hessians.

    `weights` [batch * tokens]: as the calibration set says; None: all alike. `squares`: by layer,
    the gradients of all batches, in which this batch's begin at token `first` and end before
    `last`; None: gradients are not looked at.
    """

    weights: Tensor | None = None
    squares: Sequence[Squares] | None = None
    first: int = 0
    last: int = 0

    def of(self, layer: int, linears: Sequence[str]) -> Tensor | None:
        """What they count in a Hessian that some linears of a layer share; None: all alike."""
        if self.squares is None:
            return self.weights
        by_gradient = token_weights(self.squares[layer], linears)[self.first : self.last]
        return by_gradient if self.weights is None else by_gradient * self.weights.to(by_gradient)


class State:
    """One batch on its way: hidden states [batch, tokens, width] before the layer `index`.

    `hidden` lies on disk if there is a scratch file. `compute`: as of `CalibrationSet`.
    """

    def __init__(
        self, passage: Passage, scratch: Scratch | None = None, compute: str = "model"
    ) -> None:
        self.index = 0
        self.compute = compute
        self.device = passage.first.device
        self._counts = TokenCounts()
        self._passage = passage
        self._hidden = Parked(passage.first, scratch)
        self._tokens = passage.first.shape[:-1].numel()

    @property
    def hidden(self) -> Tensor:
        """The hidden states now."""
        return self._hidden.get()

    @hidden.setter
    def hidden(self, value: Tensor) -> None:
        self._hidden.put(value)

    @property
    def memory_bytes(self) -> int:
        """What the hidden states take in memory."""
        if self._hidden.scratch is not None:
            return 0
        return self.hidden.numel() * self.hidden.element_size()

    @property
    def tokens(self) -> int:
        """How many there are in the batch."""
        return self._tokens

    def parked(self, tensor: Tensor) -> Parked:
        """A tensor that waits where the hidden states do."""
        return Parked(tensor, self._hidden.scratch)

    def count(self, counts: "TokenCounts") -> None:
        """Say what the tokens count."""
        self._counts = counts

    @property
    def sees_gradients(self) -> bool:
        """Whether tokens count what the loss's gradients say."""
        return self._counts.squares is not None

    def weights(self, linears: Sequence[str]) -> Tensor | None:
        """What tokens count in a Hessian [batch * tokens]; None: all alike.

        Args:
            linears: of the layer at `index`, which share the Hessian.
        """
        return self._counts.of(self.index, linears)

    @property
    def is_called(self) -> bool:
        """Whether the decoder calls the layer for this batch; else it is passed by."""
        return self._passage.calls[self.index] is not None

    def output(self, layer: nn.Module) -> Tensor:
        """The layer's output of this batch [batch, tokens, width].

        Args:
            layer: the module at `index`, with whatever linears stand in it.
        """
        call = self._passage.calls[self.index]
        if call is None:
            return self.hidden
        with computed_in(self.compute, self.device):
            output: LayerOutput = layer(self.hidden, *call.arguments, **call.options)
        return output[0] if isinstance(output, tuple) else output

    def advance(self, output: Tensor) -> None:
        """Go on to the next layer, with what this one gave."""
        self.hidden = self._passage.between(self.index, output)
        self.index += 1


@torch.no_grad()
def first_inputs(
    vlm: VLM,
    samples: CalibrationSet,
    folder: Path | None = None,
    batch_tokens: int = BATCH_TOKENS,
    copies: int = 1,
    squares: Sequence[Squares] | None = None,
) -> list[State]:
    """What decoder layer 0 receives, batch by batch.

    Beyond `model.activations_gb` in all, states lie in a nameless file in `folder`.

    Args:
        vlm: the model.
        samples: what it sees.
        folder: where activations may wait on disk.
        batch_tokens: most tokens of a batch, or one sample if that has more.
        copies: tensors of the states' size that will wait in memory in all.
        squares: gradients by which tokens count (`luq.quantization.gradients`).
    """
    vlm.restore()
    batches = list(samples.batches(batch_tokens))
    if vlm.model.config.model_type not in FAMILIES:
        _check_passages(vlm, batches)
    decoder = decoder_of(vlm.model)
    states = inputs_of_first(vlm, decoder, vlm.layers, batches, folder, copies, samples.compute)
    first = 0
    for state, batch in zip(states, batches, strict=True):
        last = first + sum(sample.tokens for sample in batch)
        state.count(TokenCounts(samples.weights(batch), squares, first, last))
        first = last
    return states


@torch.no_grad()
def inputs_of_first(
    vlm: VLM,
    owner: nn.Module,
    layers: nn.ModuleList,
    batches: list[list[Sample]],
    folder: Path | None = None,
    copies: int = 1,
    compute: str = "model",
) -> list[State]:
    """What the first of a list of layers receives, batch by batch.

    Args:
        vlm: the model, as it stands.
        owner: the module that hands hidden states from layer to layer: decoder or tower.
        layers: its layers.
        batches: what the model sees.
        folder: as for `first_inputs`.
        copies: as for `first_inputs`.
        compute: as of `CalibrationSet`.
    """
    scratch = Scratch(folder)
    room_bytes = vlm.config.activations_gb * 1e9 / copies
    gives_tuple: bool | None = None
    states: list[State] = []
    for batch in batches:
        with computed_in(compute, vlm.device):
            call = decoder_call(vlm, owner, inputs_of(batch, vlm.device))
        if gives_tuple is None:
            gives_tuple = tuple_given(owner, layers, call)
        passage = Passage(owner, layers, call, gives_tuple)
        room_bytes -= passage.first.numel() * passage.first.element_size()
        states.append(State(passage, None if room_bytes >= 0 else scratch, compute))
    return states


def _check_passages(vlm: VLM, batches: list[list[Sample]]) -> None:
    """`_check_passage` for a batch with images and for one without."""
    decoder = decoder_of(vlm.model)
    checked: set[bool] = set()
    for batch in batches:
        if batch[0].multimodal not in checked:
            inputs = inputs_of(batch, vlm.device)
            call = decoder_call(vlm, decoder, inputs)
            gives_tuple = tuple_given(decoder, vlm.layers, call)
            _check_passage(vlm, inputs, Passage(decoder, vlm.layers, call, gives_tuple))
            checked.add(batch[0].multimodal)


def _check_passage(vlm: VLM, inputs: dict[str, Tensor], passage: Passage) -> None:
    """A ModelError unless the layers one by one give what the model as a whole gives.

    It is looked at where no test of ours has looked: in families that are not in `FAMILIES`.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: LayerOutput) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = vlm.layers[-1].register_forward_hook(keep)
    try:
        vlm.model(**inputs, use_cache=False)
    finally:
        handle.remove()
    state = State(passage)
    for layer in vlm.layers[:-1]:
        state.advance(state.output(layer))
    if not outputs or not torch.equal(outputs[0], state.output(vlm.layers[-1])):
        raise ModelError(
            f"the decoder layers of this {vlm.model.config.model_type} model give other hidden "
            "states one by one than in the model as a whole: LUQ cannot quantize it layer by layer"
        )


def decoder_call(vlm: VLM, decoder: nn.Module, inputs: dict[str, Tensor]) -> DecoderCall:
    """How the model calls its decoder, or another of its modules, for one batch.

    What comes after it is not computed.
    """
    calls: list[DecoderCall] = []

    def capture(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.append((arguments, options))
        raise Captured

    handle = decoder.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        with suppress(Captured):
            vlm.model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return calls[0]


def tuple_given(decoder: nn.Module, layers: nn.ModuleList, call: DecoderCall) -> bool:
    """Whether the layers return their hidden states in a tuple: the first is asked."""
    outputs: list[LayerOutput] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: LayerOutput) -> None:
        outputs.append(output)
        raise Captured

    handle = layers[0].register_forward_hook(keep)
    try:
        with suppress(Captured):
            decoder(*call[0], **call[1])
    finally:
        handle.remove()
    return isinstance(outputs[0], tuple)


@torch.no_grad()
def pass_through(layer: nn.Module, states: list[State]) -> None:
    """Turn every state from a layer's input into the next layer's."""
    for state in states:
        state.advance(state.output(layer))
