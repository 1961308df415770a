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
from luq.models.families import LINEARS
from luq.models.vlm import VLM
from luq.quantization.walk import first_inputs, modules, output


def output_errors(
    vlm: VLM, calibration: CalibrationSet, layers: Iterable[PackedLayer], folder: Path | None = None
) -> list[float]:
    """Per layer |Y_q - Y|^2 / |Y|^2 over the calibration tokens, Y the layer's 16-bit output. `folder`: as for first_inputs."""
    vlm.restore()
    states, errors = first_inputs(vlm, calibration, folder), []
    for index, packed in enumerate(layers):
        standing, layer, wrong, size = (
            modules(vlm, index, packed, "measured", cache=True),
            vlm.layers[index],
            0.0,
            0.0,
        )
        for state in states:
            vlm.install(index, standing)
            try:
                quantized = output(layer, state)
            finally:
                vlm.install(index, None)
            state.hidden = full = output(layer, state)
            wrong += float((quantized.double() - full.double()).square().sum())
            size += float(full.double().square().sum())
        errors.append(wrong / size)
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


def next_token_loss(vlm: VLM, calibration: CalibrationSet) -> Iterator[Tensor]:
    """Per batch the summed cross-entropy (nats) of the next token; image tokens are not predicted."""
    for batch in calibration.batches():
        inputs = inputs_of(batch, vlm.device)
        logits = vlm.model(**inputs, use_cache=False).logits[:, :-1].float()
        wanted = inputs["input_ids"][:, 1:].clone()
        wanted[vlm.image_mask(wanted)] = -100
        yield nn.functional.cross_entropy(
            logits.transpose(1, 2), wanted, ignore_index=-100, reduction="sum"
        )


def delta_losses(
    vlm: VLM, calibration: CalibrationSet, layers: Iterable[PackedLayer]
) -> list[float]:
    """Per layer the sum over its weights of |gradient of the calibration loss x actual quantization error|.

    The loss is the mean next-token cross-entropy over the text tokens (AutoScheme of arXiv 2512.04746, on the weights).
    """
    vlm.restore()
    parameters = [
        [vlm.originals[i][name].weight for name in LINEARS] for i in range(len(vlm.layers))
    ]
    with _differentiable([weight for layer in parameters for weight in layer]), torch.enable_grad():
        tokens = 0
        for loss, batch in zip(
            next_token_loss(vlm, calibration), calibration.batches(), strict=True
        ):
            loss.backward()
            tokens += sum(int((~s.image_mask[1:]).sum()) for s in batch)
        return [
            sum(
                float(
                    (
                        weight.grad.double()
                        * (weight.detach() - packed[name].dequantize(torch.float32).to(weight))
                    )
                    .abs()
                    .sum()
                )
                for name, weight in zip(LINEARS, layer, strict=True)
            )
            / max(tokens, 1)
            for layer, packed in zip(parameters, layers, strict=True)
        ]
