"""Block refinement: a layer is tuned on calibration tokens while its linears are packed.

After a group of linears is packed, the linears that are still 16-bit are tuned so that the layer's
output is again nearest to the 16-bit model's; what is then packed is the tuned weight, by its own
method. The last linear before the output is refitted in closed form. When all are packed, those on
a grid have their rounding and their ranges tuned together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from luq.config import RefineConfig
from luq.errors import DataError
from luq.formats.layer_file import PackedLayer
from luq.models.vlm import VLM
from luq.quantization.refit import is_refitted, refit
from luq.quantization.rounding import TunedRounding
from luq.quantization.states import State
from luq.quantization.tuning import (
    Lesson,
    Lessons,
    RoundingTuner,
    TrialLinear,
    WeightTuner,
    tune,
)

SEED = 5  # of the order of lessons
LESSON_TOKENS = 512  # most tokens of a lesson, or one sample if that has more
# Tensors of a batch that wait beside each other: what both walks have, and the target.
WAITING = 3


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
    lessons: list[Lesson] = []
    for state, float_state in zip(states, float_states, strict=True):
        if state.is_called:
            lessons.append(Lesson(state, state.parked(float_state.output(layer))))
    split = Lessons.of(lessons, share)
    if not split.taught or (share > 0 and not split.held_out):
        raise DataError(
            f"the calibration set makes {len(lessons)} batch of up to {LESSON_TOKENS} tokens: "
            "refinement needs at least two, to learn from and to hold out. Raise "
            "calibration.tokens, or set quantizer.refine.steps=0"
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
        """Refit a linear that is the last to be packed and ends the layer."""
        if len(names) == 1 and len(packed) == len(self.trials) - 1:
            refit(self.layer, self.trials[names[0]], self.lessons)

    def between(self, packed: PackedLayer) -> None:
        """Tune what is not packed yet; what will be refitted needs no tuning."""
        rest = [trial for name, trial in self.trials.items() if name not in packed]
        if not rest or (len(rest) == 1 and is_refitted(self.layer, rest[0], self.lessons)):
            return
        tune(self.layer, self.lessons, WeightTuner(rest), self.settings, self.generator)

    def end(self, packed: PackedLayer) -> PackedLayer:
        """Tune roundings and ranges of all linears that are on a grid."""
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
