"""What putting one layer, one linear or one block of the vision tower in a tier costs, measured
with the weights that the tier really stores.

All others stay in 16 bit, and so do their inputs.

Symbols: W [out, in] a linear's weight, D = W_stored - W, x [in] its input and g [out] the gradient
of the calibration loss by its output, both of one token; E a tensor that the decoder is given
for a prompt with its images.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luq.allocation.blocks import BlockError
from luq.calibration.samples import CalibrationSet
from luq.config.quantizer import VISION
from luq.formats import kernels
from luq.formats.base import PackedWeight
from luq.formats.layer_file import PackedLayer
from luq.models.parts import blocks_of
from luq.models.vlm import VLM
from luq.models.weight_files import plain_name
from luq.quantization.gradients import listening, next_token_loss, send_back
from luq.quantization.layer import runtime_modules
from luq.quantization.rest import ImageRuns
from luq.quantization.rest import runtime_modules as part_modules_of
from luq.quantization.states import first_inputs

Errors = dict[str, float]  # of the linears of one layer
Modules = dict[str, nn.Module]
MEASURED = "measured"  # a label of modules that stand in the model for a while
WHOLE = "layer"  # stands for all linears of a layer


def output_errors(
    vlm: VLM, samples: CalibrationSet, layers: Iterable[PackedLayer], folder: Path | None = None
) -> list[float]:
    """Per layer |Y_q - Y|^2 / |Y|^2 over the calibration tokens, Y the layer's 16-bit output.

    Args:
        vlm: the model.
        samples: what it sees.
        layers: the packed layers to measure, one per decoder layer in order.
        folder: where activations may wait on disk, as for `first_inputs`.
    """
    measured = _errors_of_parts(vlm, samples, layers, folder, lambda modules: {WHOLE: modules})
    return [errors[WHOLE] for errors in measured]


def linear_output_errors(
    vlm: VLM, samples: CalibrationSet, layers: Iterable[PackedLayer], folder: Path | None = None
) -> list[Errors]:
    """Per layer and linear the same error of the layer's output, with that linear alone packed."""

    def each(modules: Modules) -> dict[str, Modules]:
        return {name: {name: module} for name, module in modules.items()}

    return _errors_of_parts(vlm, samples, layers, folder, each)


@torch.no_grad()
def _errors_of_parts(
    vlm: VLM,
    samples: CalibrationSet,
    layers: Iterable[PackedLayer],
    folder: Path | None,
    parts_of: Callable[[Modules], dict[str, Modules]],
) -> list[Errors]:
    """Per layer |Y_q - Y|^2 / |Y|^2 of each part of its packed linears, the others in 16 bit."""
    vlm.restore()
    states = first_inputs(vlm, samples, folder)
    errors: list[Errors] = []
    for index, packed in enumerate(layers):
        parts = parts_of(runtime_modules(vlm, index, packed, MEASURED, cache=True))
        layer = vlm.layers[index]
        squared_errors = dict.fromkeys(parts, 0.0)
        squared_norm = 0.0
        for state in states:
            full = state.output(layer)
            for name, modules in parts.items():
                vlm.install(index, modules)
                try:
                    quantized = state.output(layer)
                finally:
                    vlm.install(index, None)
                difference = quantized.double() - full.double()
                squared_errors[name] += float(difference.square().sum())
            state.advance(full)
            squared_norm += float(full.double().square().sum())
        errors.append({name: error / squared_norm for name, error in squared_errors.items()})
    return errors


@torch.no_grad()
def block_errors(vlm: VLM, samples: CalibrationSet, packed: PackedLayer) -> list[BlockError]:
    """Per block of the vision tower sum_E |E_q - E|^2 / |E|^2 over the samples with images.

    E are the tensors that the decoder is given in 16 bit: embeddings, in some families states for
    cross-attention or features for later layers. So a block counts by what is left of its error
    behind tower and projector: one that the model does not look at costs nothing.

    Args:
        vlm: the model.
        samples: what it sees.
        packed: the tower's packed weights.

    Raises:
        DataError: no sample has an image.
    """
    vlm.restore()
    runs = ImageRuns(vlm, samples)
    full = [_tensors_in(runs.run(batch)) for batch in runs.batches]
    errors: list[BlockError] = []
    for block, paths in blocks_of(vlm.model, vlm.parts[VISION]).items():
        names = tuple(plain_name(path) for path in paths)
        weights = {name: packed[name] for name in names if name in packed}
        vlm.install_part(VISION, part_modules_of(vlm, VISION, weights, MEASURED, cache=True))
        try:
            error = _error_of_calls(runs, full)
        finally:
            vlm.install_part(VISION, None)
        errors.append(BlockError(plain_name(block), names, error))
    return errors


def _error_of_calls(runs: ImageRuns, full: list[dict[str, Tensor]]) -> float:
    """sum_E |E_q - E|^2 / |E|^2, E_q with the tower that stands in the model.

    Args:
        runs: of the model.
        full: E of each batch, by name.
    """
    squared_errors: dict[str, float] = {}
    squared_norms: dict[str, float] = {}
    for batch, tensors in zip(runs.batches, full, strict=True):
        quantized = _tensors_in(runs.run(batch))
        for name, tensor in tensors.items():
            is_other = quantized[name] != tensor  # masks may hold infinities
            difference = quantized[name][is_other].double() - tensor[is_other].double()
            error = float(difference.square().sum())
            squared_errors[name] = squared_errors.get(name, 0.0) + error
            norm = float(tensor.double().square().sum())
            squared_norms[name] = squared_norms.get(name, 0.0) + norm
    shares = [error / squared_norms[name] for name, error in squared_errors.items() if error > 0]
    return sum(shares, 0.0)


def _tensors_in(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of real numbers in nested tuples, lists and dicts, by their places."""
    if isinstance(value, Tensor):
        return {name: value} if value.is_floating_point() else {}
    places: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        places = value.items()
    elif isinstance(value, list | tuple):
        places = enumerate(value)
    tensors: dict[str, Tensor] = {}
    for place, item in places:
        tensors |= _tensors_in(item, f"{name}.{place}")
    return tensors


@contextmanager
def _differentiable(weights: list[nn.Parameter]) -> Iterator[None]:
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None


def delta_losses(vlm: VLM, samples: CalibrationSet, layers: Iterable[PackedLayer]) -> list[Errors]:
    """Per layer and linear the sum over its weights of |gradient of the calibration loss x D|.

    The loss is the mean next-token cross-entropy over the text tokens.

    Source: AutoScheme (arXiv 2512.04746), there on activations, here on weights.
    """
    vlm.restore()
    by_layer: list[dict[str, nn.Parameter]] = []
    for linears in vlm.originals:
        by_layer.append({name: linear.weight for name, linear in linears.items()})
    parameters = [weight for layer in by_layer for weight in layer.values()]
    losses: list[Errors] = []
    with _differentiable(parameters), torch.enable_grad():
        for loss in next_token_loss(vlm, samples):
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        tokens = _predicted_tokens(samples)
        for weights, packed in zip(by_layer, layers, strict=True):
            errors: Errors = {}
            for name, weight in weights.items():
                difference = packed[name].dequantize(torch.float32).to(weight) - weight.detach()
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                total = float((gradient.double() * difference).abs().sum())
                errors[name] = total / max(tokens, 1)
            losses.append(errors)
    return losses


def _predicted_tokens(samples: CalibrationSet) -> int:
    """Tokens whose prediction counts in the loss: text, and not the first of a sample."""
    return sum(int((~sample.image_mask[1:]).sum()) for sample in samples.samples)


def fisher_losses(vlm: VLM, samples: CalibrationSet, layers: Iterable[PackedLayer]) -> list[Errors]:
    """Per layer and linear half the mean over text tokens of (g . D x)^2, in nats per token.

    To second order a change of weights raises the KL to the 16-bit model by half its Fisher
    quadratic form. This is that form with the loss's own gradients, where what different tokens'
    errors do to each other is left out. One backward pass, by hidden states and not by weights.

    Args:
        vlm: the model, all of it in memory.
        samples: what it sees.
        layers: the packed layers to measure, one per decoder layer in order.
    """
    vlm.restore()
    listeners: list[dict[str, _FisherSum]] = []
    for index, packed in enumerate(layers):
        weights = vlm.original(index)
        listeners.append({name: _FisherSum(weights[name], packed[name]) for name in weights})
    with listening(vlm, listeners):
        for batch in samples.batches():
            send_back(vlm, batch)
    tokens = max(_predicted_tokens(samples), 1)
    losses: list[Errors] = []
    for sums in listeners:
        losses.append({name: total.value / (2 * tokens) for name, total in sums.items()})
    return losses


class _FisherSum:
    """The sum over tokens of (g . D x)^2 of one linear, as a hook of its forward pass."""

    def __init__(self, weight: Tensor, packed: PackedWeight):
        self.value = 0.0
        self._weight = weight
        self._packed = packed.to(weight.device)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()

        def add(gradient: Tensor) -> None:
            difference = kernels.unpack(self._packed, torch.float32) - self._weight.float()
            change = (gradient.float() * (x.float() @ difference.T)).sum(dim=-1)  # g . D x
            self.value += float(change.double().square().sum())

        output.register_hook(add)  # type: ignore[no-untyped-call]  # torch's own signature
