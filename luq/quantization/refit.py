"""Linears fitted anew to what stands before them, in closed form.

| symbol | in the code | meaning |
|---|---|---|
| X | `inputs` | inputs of the linear [tokens, in] |
| R | `residuals` | what its output lacks [tokens, width] |
| w | `weights` | what a token's squared error counts, as in `luq.quantization.tuning` |
| D | `change` | what is added to the weight [width, in] |
| A, B | `metric`, `cross` | A = X^T w X, B = R^T w X |
| r | `ridge` | how much a change is held back |

The error sum_t w_t |R_t - D X_t|^2 is least at D = B A^-1. Of few tokens that learns noise: so D =
B (A + r mean(diag A) I)^-1, with the r that has the least error on the held-out tokens, and no
change where none is better.

`follow`: R = X_f W^T - X W'^T, so that the linear gives what the 16-bit weight W gives for its
inputs X_f in the 16-bit model (the aim of GPTAQ, Li et al., arXiv 2504.02692, which puts it into
the error feedback). `refit`: a linear whose output is added to the layer's makes up for all that
the layer's output lacks, R = Y - Y'.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luq.quantization.hessian import add_product_, mirror_
from luq.quantization.states import State
from luq.quantization.tuning import Lesson, Lessons, TrialLinear

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
def observed(
    layer: nn.Module, names: Sequence[str], state: State
) -> tuple[Tensor, dict[str, Tensor]]:
    """The layer's output of a batch, and what some of its linears are given there, by name."""
    inputs: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs[name] = given[0]

        return layer.get_submodule(name).register_forward_pre_hook(note)

    hooks = [listen(name) for name in names]
    try:
        output = state.output(layer)
    finally:
        for hook in hooks:
            hook.remove()
    return output, inputs


@torch.no_grad()
def refit(layer: nn.Module, name: str, linear: TrialLinear, lessons: Lessons) -> float:
    """Fit a linear whose output is added to the layer's; any other one is left as it is.

    Args:
        layer: with the linear in it.
        name: where it stands.
        linear: the one that is changed.
        lessons: what the layer learns from.

    Returns:
        The share of the held-out error that is left.
    """
    if not _is_added(layer, linear, lessons.held_out[0]):
        return 1.0

    def see(lesson: Lesson) -> Seen:
        output, inputs = observed(layer, [name], lesson.state)
        target = lesson.target.get().float()
        residuals = (target - output.float()).flatten(0, -2)
        rows = inputs[name].float().flatten(0, -2)
        return Seen(rows, residuals, lesson.weights(target).flatten())

    fitted = _fitted(lessons, see)
    linear.weight += fitted.change
    return fitted.left


@torch.no_grad()
def follow(
    layer: nn.Module,
    names: Sequence[str],
    pairs: Sequence[tuple[TrialLinear, Tensor]],
    lessons: Lessons,
) -> float:
    """Fit linears that share an input, so that they give what they give in the 16-bit model.

    Args:
        layer: with the linears in it.
        names: where they stand.
        pairs: each of them with its 16-bit weight.
        lessons: what the layer learns from.

    Returns:
        The share of the held-out error that is left.
    """
    first = names[0]
    originals = torch.cat([original.float() for _, original in pairs])
    current = torch.cat([linear.weight for linear, _ in pairs])

    def see(lesson: Lesson) -> Seen:
        _, inputs = observed(layer, [first], lesson.state)
        rows = inputs[first].float().flatten(0, -2)
        float_rows = lesson.inputs[first].get().float().flatten(0, -2)
        importance = lesson.importance(lesson.target.get(), names).flatten().float()
        return Seen(rows, float_rows @ originals.T - rows @ current.T, importance)

    fitted = _fitted(lessons, see)
    sizes = [len(original) for _, original in pairs]
    for (linear, _), change in zip(pairs, torch.split(fitted.change, sizes), strict=True):
        linear.weight += change
    return fitted.left


class Fitted(NamedTuple):
    """What is added to a weight, and the share of the held-out error that is left."""

    change: Float[Tensor, "width in"]
    left: float


def _fitted(lessons: Lessons, see: Callable[[Lesson], Seen]) -> Fitted:
    """The change with the ridge that is best on the held-out lessons, learnt from all of them."""
    held = [see(lesson) for lesson in lessons.held_out]
    columns = held[0].inputs.shape[1]
    width = held[0].residuals.shape[1]
    metric = torch.zeros(columns, columns, device=held[0].inputs.device)
    cross = torch.zeros(width, columns, device=held[0].inputs.device)
    for lesson in lessons.taught:
        _add(see(lesson), metric, cross)
    before = _error(held, None)
    best, best_ridge = before, 0.0
    for ridge in RIDGES:
        error = _error(held, _change(metric, cross, ridge))
        if error < best:
            best, best_ridge = error, ridge
    if best_ridge == 0:
        return Fitted(torch.zeros_like(cross), 1.0)
    for part in held:
        _add(part, metric, cross)
    return Fitted(_change(metric, cross, best_ridge), best / before)


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


def _add(part: Seen, metric: Tensor, cross: Tensor) -> None:
    weighted = part.inputs * part.weights[:, None]
    add_product_(metric, weighted, part.inputs)
    cross.addmm_(part.residuals.T, weighted)


def _change(metric: Tensor, cross: Tensor, ridge: float) -> Float[Tensor, "width in"]:
    """D = B (A + r mean(diag A) I)^-1."""
    damped = metric.clone()
    mirror_(damped)
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
