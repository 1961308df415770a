"""Block refinement: a layer is tuned on calibration tokens while its linears are packed.

Before a group of linears is packed, it is fitted in closed form to the inputs that the packed
linears before it give, and the last linear to all that the layer's output lacks
(`luq.quantization.refit`). When all are packed, those on a grid have their rounding and their
ranges tuned together (`luq.quantization.tuning`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from luq.config import RefineConfig
from luq.errors import DataError
from luq.formats.layer_file import PackedLayer
from luq.models.vlm import VLM
from luq.quantization.layer_calls import shared_inputs
from luq.quantization.refit import follow, observed, refit
from luq.quantization.rounding import TunedRounding
from luq.quantization.states import State
from luq.quantization.tuning import (
    Lesson,
    Lessons,
    RoundingTuner,
    TrialLinear,
    tune,
)

SEED = 5  # of the order of lessons
LESSON_TOKENS = 512  # most tokens of a lesson, or one sample if that has more
# Tensors of a batch that wait beside each other: what both walks have, the target, and the inputs
# of three groups of linears (as many as a usual layer has, but for the last).
WAITING = 6


@torch.no_grad()
def lessons_of(
    layer: nn.Module, states: Sequence[State], float_states: Sequence[State], share: float
) -> Lessons:
    """What a layer should make of its inputs: what the 16-bit layer makes of the 16-bit model's.

    Args:
        layer: with its 16-bit linears.
        states: what the layer receives.
        float_states: what it receives in the 16-bit model, batch by batch the same samples.
        share: of the batches that is held out.

    Raises:
        DataError: there are fewer than two batches, of which one could be held out.
    """
    *groups, last = shared_inputs(layer, list(states))  # the last one is not given its inputs
    firsts = [group[0] for group in groups]
    lessons: list[Lesson] = []
    for state, float_state in zip(states, float_states, strict=True):
        if state.is_called:
            target, inputs = observed(layer, firsts, float_state)
            parked = {name: state.parked(given) for name, given in inputs.items()}
            lessons.append(Lesson(state, state.parked(target), parked, last))
    split = Lessons.of(lessons, share)
    if not split.taught or (share > 0 and not split.held_out):
        raise DataError(
            f"the calibration set makes {len(lessons)} batch of up to {LESSON_TOKENS} tokens: "
            "refinement needs at least two, to learn from and to hold out. Raise "
            "calibration.tokens, or set quantizer.refine.fit=false and quantizer.refine.steps=0"
        )
    return split


@dataclass
class LayerRefiner:
    """The refinement of one layer (`luq.quantization.layer.Refiner`).

    Args:
        vlm: the model.
        index: the layer.
        lessons: what it learns from.
        settings: steps and rates.
    """

    vlm: VLM
    index: int
    lessons: Lessons
    settings: RefineConfig

    def __post_init__(self) -> None:
        self.layer = self.vlm.layers[self.index]
        self.generator = torch.Generator().manual_seed(SEED + self.index)
        self.trials: dict[str, TrialLinear] = {}

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Put the layer's weights into it so that they can be tuned."""
        for name, weight in weights.items():
            bias = self.vlm.bias(self.index, name)
            self.trials[name] = TrialLinear(weight.float().clone(), bias)
        self.vlm.install(self.index, dict(self.trials))

    def weight(self, name: str) -> Tensor:
        """What is to be packed of a linear."""
        return self.trials[name].weight.detach()

    def before(self, names: Sequence[str], packed: PackedLayer) -> None:
        """Fit what is packed next to the inputs that it is given."""
        if not self.settings.fit:
            return
        if len(names) == 1 and len(packed) == len(self.trials) - 1:
            refit(self.layer, names[0], self.trials[names[0]], self.lessons)
        elif names[0] in self.lessons.taught[0].inputs:
            originals = self.vlm.original(self.index)
            pairs = [(self.trials[name], originals[name]) for name in names]
            follow(self.layer, names, pairs, self.lessons)

    def end(self, packed: PackedLayer) -> PackedLayer:
        """Tune roundings and ranges of all linears that are on a grid."""
        if self.settings.steps == 0:
            return packed
        names: list[str] = []
        roundings: list[TunedRounding] = []
        for name, weight in packed.items():
            coded = weight.grid_codes()
            if coded is not None:
                names.append(name)
                roundings.append(TunedRounding(coded, self.weight(name)))
        if not names:
            return packed
        linears = [self.trials[name] for name in names]
        self.vlm.install(self.index, {name: self.trials[name] for name in names})
        length = self.settings.rate / self.settings.steps
        tuner = RoundingTuner(linears, roundings, length)
        tune(self.layer, self.lessons, tuner, self.settings, self.generator)
        tuned = {
            name: packed[name].with_codes(rounding.stored())
            for name, rounding in zip(names, roundings, strict=True)
        }
        return packed | tuned
