"""Block refinement: layers are tuned on calibration tokens while they are quantized."""

from dataclasses import dataclass

from luq.config.checks import require, require_above, require_between, require_count
from luq.config.quantizer.base import LARGEST_STEPS


@dataclass(frozen=True)
class RefineConfig:
    """How a layer's output is brought nearest to what the 16-bit model gives there."""

    # Fit each linear, before it is packed, to the inputs that the packed ones before it give.
    fit: bool = False
    steps: int = 0  # of tuning the rounding of linears on a grid; 0: none
    # How far rounding offsets and ends of ranges move at most: `rate` / 2 in all, in steps of the
    # grid and as a share of the range.
    rate: float = 1.0
    batch: int = 2048  # tokens of a step
    # Share of the calibration tokens that no step sees: by them the best step is chosen.
    held_out: float = 0.125

    def __post_init__(self) -> None:
        require_between(
            "quantizer.refine.steps", self.steps, 0, LARGEST_STEPS, f"in [0, {LARGEST_STEPS}]"
        )
        require_above("quantizer.refine.rate", self.rate, 0, "a number above 0")
        require_count("quantizer.refine.batch", self.batch, 1)
        require_between("quantizer.refine.held_out", self.held_out, 0, 0.5, "in [0, 0.5]")
        chooses = not self.fit or self.held_out > 0
        require(chooses, "quantizer.refine.held_out", self.held_out, "above 0 for a fit")

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return self.fit or self.steps > 0
