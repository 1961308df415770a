"""Gradients of the calibration loss by what linears give, and what tokens count by them.

| symbol | in the code | meaning |
|---|---|---|
| g_t | `gradient` | gradient of the loss by the outputs of some linears for token t |
| G_t | `squares` | squared length of the gradient by the outputs of one linear, for token t |
| w_t | `token_weights` | what token t counts in the Hessian of these linears: |g_t| over its mean |

An error D x_t of the outputs changes the loss by g_t . D x_t. If D x_t points anywhere, the square
of that is |g_t|^2 |D x_t|^2 over the width of the outputs, on average: errors of tokens count as
|g_t|^2 does (GuidedQuant, Kim et al., arXiv 2505.07004; for image tokens VLMQ, arXiv 2508.03351).
Here they count as |g_t|, for squares leave few tokens that say anything: in the value projections
of layers 15 and 25 of SmolLM2-135M the first tokens of 16 samples have nine tenths of all |g_t|^2,
so that 8,192 tokens say as much as 17 that are alike, (sum_t G_t)^2 / sum_t G_t^2.

By modality, each token counts as the mean |g_t| of its kind, image or other (MBQ, Li et al., CVPR
2025, arXiv 2412.19509, which weighs the errors of both kinds so).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, Sample, inputs_of
from luq.errors import DataError, ModelError
from luq.formats import tensor_files
from luq.models.vlm import VLM

IGNORED = -100  # a target that torch leaves out of the cross-entropy
# The least that a token counts, of the mean: no column of a Hessian that tokens use is ever dead.
LEAST_WEIGHT = 0.01
Squares = dict[str, Float[Tensor, " tokens"]]  # by linear of one layer; all samples' tokens
# Of a linear: what is done with its inputs and outputs in the forward pass.
Listener = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


def token_weights(squares: Squares, linears: Sequence[str]) -> Float[Tensor, " tokens"]:
    """What all tokens count in a Hessian that some linears of a layer share; 1 on average."""
    lengths = torch.stack([squares[name] for name in linears]).sum(0).sqrt()
    mean = float(lengths.mean())
    if mean == 0:
        return torch.ones_like(lengths)
    return (lengths / mean).clamp_min(LEAST_WEIGHT)


def by_modality(squares: Squares, images: Bool[Tensor, " tokens"]) -> Squares:
    """The squares as they were, had each token the mean length of gradient of its kind.

    Args:
        squares: of the linears of one layer.
        images: True for tokens that stand for a piece of an image.
    """
    averaged: Squares = {}
    for name, values in squares.items():
        lengths = values.sqrt()
        mean_squares = torch.zeros_like(values)
        for kind in (images, ~images):
            if kind.any():
                mean_squares[kind] = lengths[kind].mean().square()
        averaged[name] = mean_squares
    return averaged


def squared_gradients(vlm: VLM, samples: CalibrationSet) -> list[Squares]:
    """Per layer and linear |gradient of the summed next-token loss by its output|^2 of each token.

    Args:
        vlm: the model, all of it in memory, in 16 bit.
        samples: what it sees; the tokens are in the order of its batches.

    Raises:
        ModelError: a linear is not given each token once.
        DataError: a gradient is not finite.
    """
    vlm.restore()
    listeners: list[dict[str, _SquareSums]] = []
    for index, linears in enumerate(vlm.originals):
        listeners.append({name: _SquareSums(f"layer {index} {name}") for name in linears})
    with listening(vlm, listeners):
        for batch in samples.batches():
            send_back(vlm, batch)
            tokens = sum(sample.tokens for sample in batch)
            for by_linear in listeners:
                for sums in by_linear.values():
                    sums.end_batch(tokens)
    return [{name: sums.total() for name, sums in layer.items()} for layer in listeners]


class _SquareSums:
    """Squared gradients by the output of one linear, batch by batch, as a hook of its forward pass.

    Args:
        where: the linear, for errors.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._batches: list[Tensor] = []
        self._squares: Tensor | None = None  # of the batch that is under way

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        def add(gradient: Tensor) -> None:
            squares = gradient.float().square().sum(-1).flatten().cpu()
            known = self._squares
            self._squares = squares if known is None else torch.cat([known, squares])

        output.register_hook(add)  # type: ignore[no-untyped-call]  # torch's own signature

    def end_batch(self, tokens: int) -> None:
        """A batch has gone through the model; a linear that it did not call has no gradients."""
        squares = self._squares
        self._squares = None
        if squares is None:
            squares = torch.zeros(tokens)
        if len(squares) != tokens:
            raise ModelError(
                f"{self.where} is given {len(squares)} tokens of a batch of {tokens}: "
                "tokens count by gradients only where linears are given each token once. Set "
                "quantizer.token_weights=count"
            )
        if not bool(torch.isfinite(squares).all()):
            raise DataError(
                f"{self.where}: the gradient of the calibration loss is NaN or infinite. Load the "
                "model in another type (model.dtype=float32), or set quantizer.token_weights=count"
            )
        self._batches.append(squares)

    def total(self) -> Float[Tensor, " tokens"]:
        """Of all batches."""
        return torch.cat(self._batches)


def write_squares(by_layer: Sequence[Squares], file: Path) -> None:
    """Write what `squared_gradients` gives."""
    tensors: dict[str, Tensor] = {}
    for index, squares in enumerate(by_layer):
        tensors |= {f"{index}.{name}": tensor for name, tensor in squares.items()}
    tensor_files.save(tensors, file)


def read_squares(file: Path, layers: int) -> list[Squares]:
    """What `write_squares` wrote of a model with so many layers."""
    by_layer: list[Squares] = [{} for _ in range(layers)]
    for key, tensor in load_file(file).items():
        index, _, name = key.partition(".")
        by_layer[int(index)][name] = tensor
    return by_layer


def next_token_loss(vlm: VLM, samples: CalibrationSet) -> Iterator[Tensor]:
    """Per batch the summed cross-entropy (nats) of the next token, image tokens left out."""
    for batch in samples.batches():
        yield _batch_loss(vlm, batch)


def _batch_loss(vlm: VLM, batch: list[Sample]) -> Tensor:
    inputs = inputs_of(batch, vlm.device)
    logits = vlm.model(**inputs, use_cache=False).logits[:, :-1].float()
    targets = inputs["input_ids"][:, 1:].clone()
    targets[vlm.image_mask(targets)] = IGNORED
    return nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="sum"
    )


@contextmanager
def listening(vlm: VLM, listeners: Sequence[Mapping[str, Listener]]) -> Iterator[None]:
    """Let the linears of each layer be heard, by name, and gradients go from their outputs on."""
    hooks = [vlm.layers[0].register_forward_pre_hook(_with_gradient, with_kwargs=True)]
    for linears, by_linear in zip(vlm.originals, listeners, strict=True):
        hooks += [linears[name].register_forward_hook(hear) for name, hear in by_linear.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def send_back(vlm: VLM, batch: list[Sample]) -> None:
    """Send the loss of a batch back through the decoder; no gradient by a weight is computed."""
    with torch.enable_grad():
        _batch_loss(vlm, batch).backward()  # type: ignore[no-untyped-call]  # torch's own signature


def _with_gradient(
    module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the first layer, with hidden states from which gradients are known on."""
    if arguments:
        hidden, *others = arguments
        return (hidden.detach().requires_grad_(), *others), options
    return (), options | {"hidden_states": options["hidden_states"].detach().requires_grad_()}
