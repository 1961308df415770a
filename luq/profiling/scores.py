"""Scores of a layer beside its entropy: from one pass over the calibration set, or from weights.

Each is a list over layers; the layer with the least value goes low first.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.config import MODALITIES
from luq.errors import DataError
from luq.models.vlm import VLM
from luq.profiling.capture import LayerOutput, Positions, hidden_states

FORWARD = ("variance", "lim")
WEIGHTS = ("zd", "kurtosis")
CHUNK = 1 << 24  # weights that are looked at in fp64 at a time: 128 MiB
Z_SCORE = 1  # above which a weight counts for zd (arXiv 2406.17415)


class _Moments:
    """Running sums over one layer's tokens: of outputs, their squares, and cos(input, output)."""

    def __init__(self) -> None:
        self.tokens = 0
        self.cosine = torch.zeros((), dtype=torch.float64)
        self.total = torch.zeros((), dtype=torch.float64)  # [hidden] from the first token on
        self.squares = torch.zeros((), dtype=torch.float64)

    def add(
        self, before: Float[Tensor, "tokens hidden"], after: Float[Tensor, "tokens hidden"]
    ) -> None:
        before = before.double()
        after = after.double()
        self.tokens += len(after)
        self.cosine = self.cosine + nn.functional.cosine_similarity(before, after, dim=-1).sum()
        self.total = self.total + after.sum(0)
        self.squares = self.squares + after.square().sum(0)

    def variance(self) -> float:
        """Mean over the hidden dimensions of the variance over tokens: E[x^2] - E[x]^2."""
        mean = self.total / self.tokens
        return float((self.squares / self.tokens - mean.square()).mean())

    def lim(self) -> float:
        """1 - mean cosine between a token's vector before the layer and after it."""
        return 1 - float(self.cosine) / self.tokens


class _MomentHooks:
    """Forward hooks that add what passes through each layer to the moments of its modality."""

    def __init__(self, layers: nn.ModuleList) -> None:
        self.moments: dict[str, list[_Moments]] = {}
        for modality in MODALITIES:
            self.moments[modality] = [_Moments() for _ in layers]
        self.places: Positions = {}
        self.hooks = []
        for index, layer in enumerate(layers):
            hook = partial(self._add, index)
            self.hooks.append(layer.register_forward_hook(hook, with_kwargs=True))

    def begin(self, image_mask: Bool[Tensor, " tokens"], device: torch.device) -> None:
        """Say which tokens of the next batch stand for pieces of images, and where they will be."""
        masks = {"all": torch.ones_like(image_mask), "image": image_mask, "text": ~image_mask}
        self.places = {}
        for modality, mask in masks.items():
            if mask.any():
                self.places[modality] = mask.nonzero()[:, 0].to(device)

    def finish(self) -> None:
        """Take the hooks off."""
        for hook in self.hooks:
            hook.remove()

    def _add(
        self,
        index: int,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: LayerOutput,
    ) -> None:
        before = hidden_states(args[0] if args else kwargs["hidden_states"])
        after = hidden_states(output)
        for modality, places in self.places.items():
            self.moments[modality][index].add(before[places], after[places])


@torch.no_grad()
def forward_scores(vlm: VLM, calibration: CalibrationSet) -> dict[str, dict[str, list[float]]]:
    """Variance and layer input modification of every layer, in one pass over the samples.

    Returns:
        modality -> score -> value per layer. A modality without tokens is left out.

    Raises:
        DataError: The model calls a layer for none of the samples.
    """
    vlm.restore()
    hooks = _MomentHooks(vlm.layers)
    try:
        for batch in calibration.batches():
            hooks.begin(torch.cat([sample.image_mask for sample in batch]), vlm.device)
            vlm.model.base_model(**inputs_of(batch, vlm.device), use_cache=False)
    finally:
        hooks.finish()
    for index, moments in enumerate(hooks.moments["all"]):
        if moments.tokens == 0:
            raise DataError(
                f"layer {index} is called for no calibration sample: calibrate with images "
                "(calibration=multimodal)"
            )
    scores: dict[str, dict[str, list[float]]] = {}
    for modality, layers in hooks.moments.items():
        if layers[0].tokens > 0:
            scores[modality] = {
                "variance": [moments.variance() for moments in layers],
                "lim": [moments.lim() for moments in layers],
            }
    return scores


def _chunks(weight: Float[Tensor, "out in"]) -> Iterator[Float64[Tensor, "rows in"]]:
    """A weight a few rows at a time, since the whole would not fit in memory in fp64."""
    rows = max(1, CHUNK // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        yield weight[start : start + rows].double()


def weight_scores(vlm: VLM) -> dict[str, list[float]]:
    """Scores from the weights alone: averages over a layer's linears, weighted by their sizes.

    zd: share of a linear's weights more than one standard deviation above its mean. kurtosis:
    their fourth standardized moment.

    Returns:
        score -> value per layer.
    """
    zd: list[float] = []
    kurtosis: list[float] = []
    for layer in range(len(vlm.layers)):
        weights = list(vlm.original(layer).values())
        outliers = 0
        fourth_moments = 0.0  # of all linears, each times its number of weights
        for weight in weights:
            n = weight.numel()
            mean = sum(float(chunk.sum()) for chunk in _chunks(weight)) / n
            variance = sum(float((c - mean).square().sum()) for c in _chunks(weight)) / n
            std = variance**0.5
            outliers += sum(int(((c - mean) > Z_SCORE * std).sum()) for c in _chunks(weight))
            fourth_powers = sum(float((c - mean).pow(4).sum()) for c in _chunks(weight))
            fourth_moments += fourth_powers / std**4
        total = sum(weight.numel() for weight in weights)
        zd.append(outliers / total)
        kurtosis.append(fourth_moments / total)
    return {"zd": zd, "kurtosis": kurtosis}
