"""What putting one layer in a tier costs, measured with the weights that the tier really stores.

All other layers stay in 16 bit, and so do the inputs of the layer.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.formats.layer_file import PackedLayer
from luq.models.vlm import VLM
from luq.quantization.layer import runtime_modules
from luq.quantization.states import first_inputs

IGNORED = -100  # a target that torch leaves out of the cross-entropy


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
    vlm.restore()
    states = first_inputs(vlm, samples, folder)
    errors: list[float] = []
    for index, packed in enumerate(layers):
        modules = runtime_modules(vlm, index, packed, "measured", cache=True)
        layer = vlm.layers[index]
        squared_error = 0.0
        squared_norm = 0.0
        for state in states:
            vlm.install(index, modules)
            try:
                quantized = state.output(layer)
            finally:
                vlm.install(index, None)
            full = state.output(layer)
            state.advance(full)
            squared_error += float((quantized.double() - full.double()).square().sum())
            squared_norm += float(full.double().square().sum())
        errors.append(squared_error / squared_norm)
    return errors


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


def next_token_loss(vlm: VLM, samples: CalibrationSet) -> Iterator[Tensor]:
    """Per batch the summed cross-entropy (nats) of the next token, image tokens left out."""
    for batch in samples.batches():
        inputs = inputs_of(batch, vlm.device)
        logits = vlm.model(**inputs, use_cache=False).logits[:, :-1].float()
        targets = inputs["input_ids"][:, 1:].clone()
        targets[vlm.image_mask(targets)] = IGNORED
        yield nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="sum"
        )


def delta_losses(vlm: VLM, samples: CalibrationSet, layers: Iterable[PackedLayer]) -> list[float]:
    """Per layer the sum over its weights of |gradient of the calibration loss x quantization
    error|.

    The loss is the mean next-token cross-entropy over the text tokens, the errors are those of the
    weights that are really stored.

    Source: AutoScheme (arXiv 2512.04746), there on activations, here on weights.
    """
    vlm.restore()
    by_layer: list[dict[str, nn.Parameter]] = []
    for linears in vlm.originals:
        by_layer.append({name: linear.weight for name, linear in linears.items()})
    parameters = [weight for layer in by_layer for weight in layer.values()]
    losses: list[float] = []
    with _differentiable(parameters), torch.enable_grad():
        tokens = 0
        batches = samples.batches()
        for loss, batch in zip(next_token_loss(vlm, samples), batches, strict=True):
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
            for sample in batch:
                tokens += int((~sample.image_mask[1:]).sum())
        for weights, packed in zip(by_layer, layers, strict=True):
            total = 0.0
            for name, weight in weights.items():
                stored = packed[name].dequantize(torch.float32).to(weight)
                error = weight.detach() - stored
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                total += float((gradient.double() * error).abs().sum())
            losses.append(total / max(tokens, 1))
    return losses
