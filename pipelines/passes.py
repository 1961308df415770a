"""Seconds of a model's passes, measured on its replica.

| symbol | in the code | meaning |
|---|---|---|
| n | `tokens` | places of a batch, those of padding too |
| b | `batch` | sequences of a batch |

A pass takes a + k n seconds in a decoder layer (k the products, a what it takes to start them), and
likewise in the other parts; a step that decodes one token of each sequence takes a + k b. What
attention takes beyond its linears, which grows with the square of a sequence's length, is in k as
at the length that was measured.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from luq.calibration.samples import Sample, inputs_of
from luq.models.computing import answered_in, computed_in
from luq.models.decoder import decoder_of
from luq.models.quiet import quiet
from luq.models.replica import Replica
from luq.models.stopwatch import ENOUGH, TURNS, fitted, timed

PRODUCTS = 5e10  # floating-point operations of one measurement, about: half a second on a core
MOST_TOKENS = 2048  # of one measurement
FEWEST_TOKENS = 64
SEQUENCES = 8  # that decode together
STEPS = 3  # of decoding
FIRST_TOKEN = 3  # of random texts; what comes before are marks of beginnings and ends


class Line(NamedTuple):
    """Seconds of work that grows evenly."""

    fixed: float
    each: float

    def seconds(self, count: float, calls: float = 1) -> float:
        """Of so many units in so many calls."""
        return self.fixed * calls + self.each * count

    @staticmethod
    def through(points: Sequence[tuple[float, float]]) -> "Line":
        """The line through points (units, seconds); neither number is below zero."""
        if len({units for units, _ in points}) == 1:
            units, seconds = min(points, key=lambda point: point[1])
            return Line(0.0, seconds / units)
        fixed, each = fitted([(1.0, units) for units, _ in points], [s for _, s in points])
        return Line(fixed, each)


@dataclass
class Call:
    """One call of the model, and what its parts took."""

    batch: int
    tokens: int
    seconds: float = 0.0
    layers: float = 0.0
    blocks: float = 0.0
    head: float = 0.0

    @property
    def other(self) -> float:
        """What is in none of these parts: embeddings, masks, projector."""
        return max(0.0, self.seconds - self.layers - self.blocks - self.head)


@dataclass(frozen=True)
class Passes:
    """Seconds of passes on this machine.

    `layer` (as questions are computed), `calibration` (as the samples are) and `other` by tokens,
    `block` by images (one block of a tower), `step` of one layer by sequences, `head` by places,
    `step_other` of one step beside its layers and head.
    """

    layer: Line
    calibration: Line
    step: Line
    block: Line
    other: Line
    step_other: float
    head: Line


class Computes(NamedTuple):
    """In which types products are computed, as the settings say."""

    calibration: str
    evaluation: str


def measure(replica: Replica, samples: Sequence[Sample], computes: Computes) -> Passes:
    """Time passes.

    Args:
        replica: of the model.
        samples: with images, as the model is asked; none for a language model.
        computes: how they are computed.
    """
    meter = _Meter(replica)
    vlm = replica.vlm
    weights = sum(linear.weight.numel() for linear in vlm.originals[0].values())
    room = int(PRODUCTS / (2 * weights))
    room = max(FEWEST_TOKENS, min(MOST_TOKENS, room))
    with torch.no_grad(), quiet(), answered_in(computes.evaluation, vlm):
        shown = _shown(meter, samples, room)
        texts = [[_text(vlm, room // SEQUENCES)] * count for count in (1, SEQUENCES)]
        prefills = shown + [meter.run(text) for text in texts]
        steps = [meter.step([_text(vlm, 2)] * count) for count in (1, SEQUENCES)]
    calibration: Line | None = None
    if computes.calibration != computes.evaluation:
        with torch.no_grad(), quiet():
            calibration = _calibration_line(meter, room, computes.calibration)
    through_layer = [call for call in prefills if call.layers > 0]
    layer = Line.through([(call.tokens, call.layers) for call in through_layer])
    return Passes(
        layer,
        calibration or layer,
        Line.through([(call.batch, call.layers) for call in steps]),
        Line.through([(call.batch, call.blocks) for call in shown] or [(1, 0.0)]),
        Line.through([(call.tokens, call.other) for call in (shown or prefills)]),
        min(call.other for call in steps),
        Line.through([(call.batch, call.head) for call in (*prefills, *steps)]),
    )


def _shown(meter: "_Meter", samples: Sequence[Sample], room: int) -> list[Call]:
    """Passes of samples with images: of one, and of as many as there is room for.

    Where there is no room for one, the layer is left out: it is timed with texts.
    """
    if not samples:
        return []
    first = samples[0]
    if first.tokens > room:
        with without_layers(meter.replica):
            return [meter.run([first])]
    counts = [1]
    if not first.is_alone and room // first.tokens > 1:
        counts.append(room // first.tokens)
    return [meter.run([first] * count) for count in counts]


def _text(vlm: Any, tokens: int) -> Sample:
    """Random tokens."""
    generator = torch.Generator().manual_seed(0)
    most = min(vlm.model.config.get_text_config().vocab_size, len(vlm.processor.tokenizer))
    ids = torch.randint(FIRST_TOKEN, most, (tokens,), generator=generator)
    ids[vlm.image_mask(ids)] = FIRST_TOKEN
    return Sample("random", ids, torch.zeros_like(ids, dtype=torch.bool))


def _calibration_line(meter: "_Meter", tokens: int, compute: str) -> Line:
    """A layer's passes as calibration samples are computed."""
    points: list[tuple[float, float]] = []
    for length in (tokens // 2, tokens):
        with computed_in(compute, meter.vlm.device):
            call = meter.run([_text(meter.vlm, length)])
        points.append((length, call.layers))
    return Line.through(points)


class _Meter:
    """Hooks that time the parts of a replica."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.vlm = replica.vlm
        self.calls: list[Call] = []
        model = self.vlm.model
        self._time(model, self._end_call, begin=self._begin_call)
        self._time(self.vlm.layers[0], self._add_to("layers"))
        self._time(model.get_output_embeddings(), self._add_to("head"))
        for stack in replica.stacks:
            self._time(stack[0], self._add_to("blocks"))

    def run(self, samples: list[Sample]) -> Call:
        """A pass of a batch, the quickest of a few; its head sees each sequence's last place."""
        self.calls.clear()
        inputs = inputs_of(samples, self.vlm.device)
        inputs.pop("labels", None)  # a processor's, of which a loss would be made
        for _ in range(TURNS):
            self.vlm.model(**inputs, use_cache=False, logits_to_keep=1)
            if self.calls[-1].seconds > ENOUGH:
                break
        return min(self.calls, key=lambda call: call.seconds)

    def step(self, samples: list[Sample]) -> Call:
        """The quickest of a few steps of decoding."""
        self.calls.clear()
        self.vlm.model.generate(
            **inputs_of(samples, self.vlm.device),
            do_sample=False,
            min_new_tokens=STEPS + 1,
            max_new_tokens=STEPS + 1,
        )
        return min(self.calls[1:], key=lambda call: call.layers)

    def _time(self, module: nn.Module, end: Callable[[float], None], begin: Any = None) -> None:
        clocks: list[Any] = []

        def before(_: nn.Module, arguments: Any, options: Any) -> None:
            if begin is not None:
                begin(options)
            clock = timed(self.vlm.device)
            clocks.append((clock, clock.__enter__()))

        def after(_: nn.Module, arguments: Any, options: Any, output: Any) -> None:
            clock, spent = clocks.pop()
            clock.__exit__(None, None, None)
            end(spent.seconds)

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after, with_kwargs=True)

    def _begin_call(self, options: dict[str, Any]) -> None:
        given = options.get("input_ids")
        ids: Tensor = options["inputs_embeds"] if given is None else given
        batch, length = ids.shape[:2]
        self.calls.append(Call(batch, batch * length))

    def _end_call(self, seconds: float) -> None:
        self.calls[-1].seconds += seconds

    def _add_to(self, part: str) -> Callable[[float], None]:
        def add(seconds: float) -> None:
            call = self.calls[-1]
            setattr(call, part, getattr(call, part) + seconds)

        return add


@contextmanager
def without_layers(replica: Replica) -> Iterator[None]:
    """The replica without its decoder layer: what is left is what asking takes beside it."""
    decoder = decoder_of(replica.vlm.model)
    layers = decoder.layers
    decoder.layers = nn.ModuleList([])
    try:
        yield
    finally:
        decoder.layers = layers
