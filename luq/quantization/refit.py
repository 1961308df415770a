"""The last linear of a layer fitted anew to what stands before it, in closed form.

| symbol | in the code | meaning |
|---|---|---|
| X | `inputs` | inputs of the linear [tokens, in] |
| R | `residuals` | what the layer's output lacks, Y - Y' [tokens, width] |
| w | `weights` | what a token's squared error counts, as in `luq.quantization.tuning` |
| D | `change` | what is added to the weight [width, in] |
| A, B | `metric`, `cross` | A = X^T w X, B = R^T w X |
| r | `ridge` | how much a change is held back |

Where the linear's output is added to the layer's, the error sum_t w_t |R_t - D X_t|^2 is least at
D = B A^-1. Of few tokens that learns noise: D = B (A + r mean(diag A) I)^-1, with the r that has
the least error on the held-out tokens; none where no change is better.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luq.quantization.tuning import LEAST_SQUARE, Lesson, Lessons, TrialLinear

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# How near the layer's output must follow a change of the linear's, as a share of the change.
ADDED_WITHIN = 1e-2
PROBE = 1.0  # what the linear's output is changed by, in its own root mean square


class Seen(NamedTuple):
    """What a lesson says of the linear."""

    inputs: Float[Tensor, "tokens in"]
    residuals: Float[Tensor, "tokens width"]
    weights: Float[Tensor, " tokens"]


@torch.no_grad()
def refit(layer: nn.Module, linear: TrialLinear, lessons: Lessons) -> float:
    """Fit a linear whose output is added to the layer's; any other one is left as it is.

    Args:
        layer: with the linear in it.
        linear: the one that is changed.
        lessons: what the layer learns from.

    Returns:
        The share of the held-out error that is left.
    """
    if not is_refitted(layer, linear, lessons):
        return 1.0
    columns = linear.in_features
    metric = torch.zeros(columns, columns, device=linear.weight.device)
    cross = torch.zeros(linear.weight.shape, device=linear.weight.device)
    for lesson in lessons.taught:
        _add(seen(layer, linear, lesson), metric, cross)
    held = [seen(layer, linear, lesson) for lesson in lessons.held_out]
    before = _error(held, None)
    best, best_ridge = before, 0.0
    for ridge in RIDGES:
        error = _error(held, _change(metric, cross, ridge))
        if error < best:
            best, best_ridge = error, ridge
    if best_ridge > 0:
        for part in held:
            _add(part, metric, cross)
        linear.weight += _change(metric, cross, best_ridge)
    return best / before if before > 0 else 1.0


@torch.no_grad()
def is_refitted(layer: nn.Module, linear: TrialLinear, lessons: Lessons) -> bool:
    """Whether `refit` fits a linear."""
    return bool(lessons.held_out) and _is_added(layer, linear, lessons.held_out[0])


def _is_added(layer: nn.Module, linear: TrialLinear, lesson: Lesson) -> bool:
    """Whether a change of the linear's output changes the layer's output by just that."""
    changes: list[Tensor] = []

    def change(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(output.shape, generator=generator).to(output)
        changes.append(noise * PROBE * output.square().mean().sqrt())
        return output + changes[-1]

    before = lesson.state.output(layer)
    handle = linear.register_forward_hook(change)
    try:
        after = lesson.state.output(layer)
    finally:
        handle.remove()
    if len(changes) != 1 or changes[0].shape != after.shape:
        return False
    difference = (after - before - changes[0]).norm()
    return bool(difference <= ADDED_WITHIN * changes[0].norm())


def seen(layer: nn.Module, linear: TrialLinear, lesson: Lesson) -> Seen:
    """Inputs of the linear, and what the layer's output lacks."""
    inputs: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        output = lesson.state.output(layer).float()
    finally:
        handle.remove()
    target = lesson.target.get().float()
    weights = lesson.importance(target) / target.square().mean(-1).clamp_min(LEAST_SQUARE)
    rows = inputs[0].float().flatten(0, -2)
    return Seen(rows, (target - output).flatten(0, -2), weights.flatten())


def _add(part: Seen, metric: Tensor, cross: Tensor) -> None:
    weighted = part.inputs * part.weights[:, None]
    metric.addmm_(weighted.T, part.inputs)
    cross.addmm_(part.residuals.T, weighted)


def _change(metric: Tensor, cross: Tensor, ridge: float) -> Float[Tensor, "width in"]:
    """D = B (A + r mean(diag A) I)^-1."""
    damped = metric.clone()
    diagonal = torch.diagonal(damped)
    diagonal += ridge * float(diagonal.mean())
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed) != 0:  # nothing was seen, or only NaN
        return torch.zeros_like(cross)
    return torch.cholesky_solve(cross.T, factor).T


def _error(parts: list[Seen], change: Tensor | None) -> float:
    """sum_t w_t |R_t - D X_t|^2."""
    total = 0.0
    for part in parts:
        rest = part.residuals if change is None else part.residuals - part.inputs @ change.T
        total += float((part.weights * rest.square().sum(-1)).sum())
    return total
