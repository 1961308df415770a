"""Tuning a layer by gradients, so that its output is nearest to what it should be.

| symbol | in the code | meaning |
|---|---|---|
| Y | `target` | the 16-bit layer's output on the 16-bit model's hidden states [tokens, width] |
| Y' | `output` | the output of the layer that is tuned, on what the packed layers before it give |
| a_t | `importance` | what token t counts in a Hessian; 1 unless tokens are weighted |
| w_t | `weights` | what its squared error counts: a_t / mean_c Y_tc^2 |

The loss is the mean relative error of a token, sum_t w_t mean_c (Y'_tc - Y_tc)^2 / sum_t a_t. In
many models the first token has activations of thousands; the next layer's norm divides each token
by its own size, and so does the loss. Where gradients say what a token counts, they say this, too:
w_t = a_t.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luq.config import RefineConfig
from luq.models.scratch import Parked
from luq.quantization.rounding import TunedRounding
from luq.quantization.states import State

CHECKS = 5  # times that the held-out error is measured during a tuning, evenly spread
LEAST_SQUARE = 1e-12  # mean squares of a token's output below it count as this


class Lesson(NamedTuple):
    """A batch of samples before a layer, and what the layer should make of it.

    `inputs`: what linears are given in the 16-bit model, by the name of the first of each group.
    `last`: the linears that are called last, whose outputs' gradient is that of the layer's.
    """

    state: State
    target: Parked
    inputs: dict[str, Parked]
    last: tuple[str, ...]

    def loss(self, layer: nn.Module) -> tuple[Tensor, float]:
        """Weighted squared errors of the layer's output, summed, and the importance of all."""
        target = self.target.get().float()
        error = self.state.output(layer).float() - target
        loss = (self.weights(target) * error.square().mean(-1)).sum()
        return loss, float(self.importance(target, self.last).sum())

    def importance(self, target: Tensor, linears: Sequence[str]) -> Float[Tensor, "batch tokens"]:
        """What each token counts for some linears."""
        weights = self.state.weights(linears)
        if weights is None:
            return torch.ones(target.shape[:-1], device=target.device)
        return weights.to(target).view(target.shape[:-1])

    def weights(self, target: Tensor) -> Float[Tensor, "batch tokens"]:
        """What a token's squared error of the layer's output counts."""
        importance = self.importance(target, self.last)
        if self.state.sees_gradients:
            return importance
        return importance / target.square().mean(-1).clamp_min(LEAST_SQUARE)

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.target.get().shape[:-1].numel()


class Lessons(NamedTuple):
    """What a layer learns from, and what its steps never see."""

    taught: list[Lesson]
    held_out: list[Lesson]

    @staticmethod
    def of(lessons: Sequence[Lesson], share: float) -> "Lessons":
        """Hold out a share, evenly spaced: batches of a length and kind stand together."""
        count = len(lessons)
        held_count = round(share * count)
        if share > 0 and count > 1:
            held_count = max(held_count, 1)
        places = {int((place + 0.5) * count / held_count) for place in range(held_count)}
        taught = [lesson for place, lesson in enumerate(lessons) if place not in places]
        held = [lesson for place, lesson in enumerate(lessons) if place in places]
        return Lessons(taught, held)

    def steps(self, tokens: int, generator: torch.Generator) -> Iterator[list[Lesson]]:
        """Lessons of a step, of at least `tokens` tokens if there are so many; without an end."""
        while True:
            batch: list[Lesson] = []
            missing = tokens
            for place in torch.randperm(len(self.taught), generator=generator).tolist():
                lesson = self.taught[place]
                batch.append(lesson)
                missing -= lesson.tokens
                if missing <= 0:
                    yield batch
                    batch = []
                    missing = tokens
            if batch and missing == tokens - sum(lesson.tokens for lesson in self.taught):
                yield batch  # all of them are fewer than a step's

    @torch.no_grad()
    def held_out_error(self, layer: nn.Module) -> float:
        """Mean relative error of a held-out token; of all where none is held out."""
        total = 0.0
        importance = 0.0
        for lesson in self.held_out or self.taught:
            loss, part = lesson.loss(layer)
            total += float(loss)
            importance += part
        return total / importance


class TrialLinear(nn.Module):
    """A linear whose weight is being tuned: any tensor [out, in] that is put there."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

    @property
    def in_features(self) -> int:
        """As of `torch.nn.Linear`."""
        return self.weight.shape[1]


@runtime_checkable
class Tuner(Protocol):
    """What is tuned, and how it steps."""

    def put(self, with_gradients: bool) -> None:
        """Put the weights as they are now into the layer."""
        ...

    def step(self, share: float) -> None:
        """Step by a share of the first step's length, along the gradients of what was put."""
        ...

    def snapshot(self) -> list[Tensor]:
        """Copies of all numbers."""
        ...

    def restore(self, numbers: list[Tensor]) -> None:
        """Take back what `snapshot` gave."""
        ...


class RoundingTuner:
    """Tunes roundings and ranges by the signs of their gradients.

    Args:
        linears: in which the weights stand.
        roundings: of these weights.
        length: of the first step.
    """

    def __init__(
        self, linears: Sequence[TrialLinear], roundings: Sequence[TunedRounding], length: float
    ) -> None:
        self.linears = linears
        self.roundings = roundings
        self.length = length
        self._values: list[Tensor] = []

    def put(self, with_gradients: bool) -> None:
        self._values = []
        for linear, rounding in zip(self.linears, self.roundings, strict=True):
            for parameter in rounding.parameters:
                parameter.requires_grad_(with_gradients)
            values = rounding.values()
            self._values.append(values)
            # batches add up their gradients here; they pass through the rounding once a step
            linear.weight = values.detach().requires_grad_(with_gradients)

    def step(self, share: float) -> None:
        for linear, values in zip(self.linears, self._values, strict=True):
            values.backward(linear.weight.grad)  # type: ignore[no-untyped-call]
        for rounding in self.roundings:
            rounding.step(self.length * share)

    def snapshot(self) -> list[Tensor]:
        return [p.detach().clone() for rounding in self.roundings for p in rounding.parameters]

    @torch.no_grad()
    def restore(self, numbers: list[Tensor]) -> None:
        parameters = [p for rounding in self.roundings for p in rounding.parameters]
        for parameter, number in zip(parameters, numbers, strict=True):
            parameter.copy_(number)


class Tuned(NamedTuple):
    """Held-out errors before and after a tuning, and after how many steps it was least."""

    before: float
    after: float
    step: int


def tune(
    layer: nn.Module,
    lessons: Lessons,
    tuner: Tuner,
    settings: RefineConfig,
    generator: torch.Generator,
) -> Tuned:
    """Tune; what has the least error on the held-out lessons stays, be it the start.

    Args:
        layer: the layer with its trial linears.
        lessons: what it learns from.
        tuner: what steps.
        settings: how many steps of how many tokens.
        generator: draws the lessons of each step.
    """
    tuner.put(with_gradients=False)
    before = lessons.held_out_error(layer)
    best = Tuned(before, before, 0)
    numbers = tuner.snapshot()
    every = max(1, settings.steps // CHECKS)
    batches = lessons.steps(settings.batch, generator)
    for step in range(settings.steps):
        _learn(layer, next(batches), tuner, 1 - step / settings.steps)
        if (step + 1) % every == 0:
            tuner.put(with_gradients=False)
            error = lessons.held_out_error(layer)
            if error < best.after:
                best = Tuned(before, error, step + 1)
                numbers = tuner.snapshot()
    tuner.restore(numbers)
    tuner.put(with_gradients=False)
    return best


def _learn(layer: nn.Module, batch: Sequence[Lesson], tuner: Tuner, share: float) -> None:
    """One step along the gradient of some lessons."""
    with torch.enable_grad():
        tuner.put(with_gradients=True)
        for lesson in batch:
            loss, importance = lesson.loss(layer)
            (loss / importance).backward()  # type: ignore[no-untyped-call]
    tuner.step(share)
