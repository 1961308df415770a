"""Rounding and range of a weight on a grid, as numbers that gradients can tune.

| symbol | in the code | meaning |
|---|---|---|
| W | `weight` | what is rounded [out, in] |
| V | `offset` | what is added before rounding, in steps of the grid, [out, in] in [-1/2, 1/2] |
| a, b | `low`, `high` | factors on both ends of a group's range [out, groups] |
| s, z | `scale`, `zero` | of the grid, [out, groups] |
| q | `codes` | q = clamp(round(W / s + V) + z, 0, levels - 1); it means (q - z) s |

With L levels the range of a group is [-z s, (L - 1 - z) s] before tuning; tuned it is s = (b high -
a low) / (L - 1) and z = round(-a low / s). Roundings pass gradients on as they are (the straight-
through estimator), and numbers step by the sign of their gradient: SignRound (Cheng et al.,
arXiv 2309.05516), which starts from nearest codes. Here it may start from any codes: W is then a
point that is rounded to them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from luq.formats.base import GridCodes, of_columns

LARGEST_OFFSET = 0.5
LEAST_RANGE = 0.1  # the smallest factor on an end of a range
LARGEST_RANGE = 1.2
# How far from the middle between two codes a start lies at least, in steps.
MARGIN = 0.01
SMALLEST_SCALE = 2.0**-24  # the smallest positive fp16 number


def straight_through(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), with the gradient of x."""
    return x + (function(x) - x).detach()


def _rounded(x: Tensor) -> Tensor:
    return straight_through(torch.round, x)


def _stored(scale: Tensor) -> Tensor:
    """The scale as fp16 has it, never zero."""
    return straight_through(lambda s: s.half().float().clamp_min(SMALLEST_SCALE), scale)


class TunedRounding:
    """The rounding of one weight, on its way.

    Args:
        start: codes and grid that it starts from.
        weight: W [out, in], in fp32; weights that the start does not round to their codes count as
            the nearest points that it does.
    """

    def __init__(self, start: GridCodes, weight: Float[Tensor, "out in"]) -> None:
        self.start = start
        scale = self._of_columns(start.scale)
        zero = self._of_columns(start.zero)
        place = weight / scale + zero  # in codes
        nearest = LARGEST_OFFSET - MARGIN
        # the places that are rounded to a code; those of the first and the last one have no end
        lowest = torch.where(start.codes > 0, start.codes - nearest, -torch.inf)
        highest = torch.where(start.codes < start.levels - 1, start.codes + nearest, torch.inf)
        place = torch.maximum(torch.minimum(place, highest), lowest)
        self.weight = (place - zero) * scale
        self.offset = torch.zeros_like(weight)
        self.low = torch.ones_like(start.scale)
        self.high = torch.ones_like(start.scale)

    @property
    def parameters(self) -> list[Tensor]:
        """What is tuned."""
        ends = [self.high] if self.start.is_symmetric else [self.low, self.high]
        return [self.offset, *ends]

    def values(self) -> Float[Tensor, "out in"]:
        """What the codes mean now, with gradients for `parameters`."""
        codes, scale, zero = self._coded()
        return (codes - self._of_columns(zero)) * self._of_columns(scale)

    @torch.no_grad()
    def stored(self) -> GridCodes:
        """Codes and grid as they are stored."""
        codes, scale, zero = self._coded()
        return self.start._replace(codes=codes, scale=scale, zero=zero)

    @torch.no_grad()
    def step(self, length: float) -> None:
        """Move every number by `length` against the sign of its gradient, and forget gradients."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad.sign_(), alpha=length)
                parameter.grad = None
        self.offset.clamp_(-LARGEST_OFFSET, LARGEST_OFFSET)
        self.low.clamp_(LEAST_RANGE, LARGEST_RANGE)
        self.high.clamp_(LEAST_RANGE, LARGEST_RANGE)

    def _coded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [out, in], scales and zeros [out, groups]."""
        start = self.start
        steps = start.levels - 1
        if start.is_symmetric:
            scale = _stored(start.scale * self.high)
            zero = start.zero
        else:
            low = -start.zero * start.scale * self.low
            high = (steps - start.zero) * start.scale * self.high
            scale = _stored((high - low) / steps)
            zero = _rounded(-low / scale).clamp(0, steps)
        place = self.weight / self._of_columns(scale) + self.offset
        codes = (_rounded(place) + self._of_columns(zero)).clamp(0, steps)
        return codes, scale, zero

    def _of_columns(self, by_group: Tensor) -> Tensor:
        return of_columns(by_group, self.start.group_size, self.start.codes.shape[1])
