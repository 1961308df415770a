"""Scores of a layer beside its entropy: from one forward pass over the calibration set, or from the weights alone.

Each is a list over layers; the layer with the least value goes low first.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.models.vlm import VLM

FORWARD = ("variance", "lim")
WEIGHTS = ("zd", "kurtosis")
CHUNK = 1 << 24  # weights that are looked at in fp32 at a time


class _Moments:
    """Running sums over the chosen tokens of one layer: of its outputs, their squares and cos(input, output)."""

    def __init__(self) -> None:
        self.tokens, self.cosine = 0, 0.0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, before: Tensor, after: Tensor) -> None:
        before, after = before.double(), after.double()
        self.tokens += len(after)
        self.cosine += float(nn.functional.cosine_similarity(before, after, dim=-1).sum())
        self.total = self.total + after.sum(0)
        self.squares = self.squares + after.square().sum(0)

    def variance(self) -> float:
        """Mean over the hidden dimensions of the variance over tokens."""
        mean = torch.as_tensor(self.total) / self.tokens
        return float((torch.as_tensor(self.squares) / self.tokens - mean.square()).mean())

    def lim(self) -> float:
        """1 - mean cosine between a token's vector before the layer and after it."""
        return 1 - self.cosine / self.tokens


@torch.no_grad()
def forward_scores(vlm: VLM, calibration: CalibrationSet) -> dict[str, dict[str, list[float]]]:
    """{modality: {score: values [layers]}} of variance and lim, in one pass; a modality without tokens is left out."""
    vlm.restore()
    moments = {m: [_Moments() for _ in vlm.layers] for m in ("all", "image", "text")}
    masks: dict[str, Tensor] = {}

    def keep(index: int):
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            before, after = (
                t.reshape(-1, t.shape[-1])
                for t in (hidden, output[0] if isinstance(output, tuple) else output)
            )
            for modality, mask in masks.items():
                if mask.any():
                    moments[modality][index].add(before[mask], after[mask])

        return hook

    hooks = [
        layer.register_forward_hook(keep(i), with_kwargs=True) for i, layer in enumerate(vlm.layers)
    ]
    try:
        for batch in calibration.batches():
            image = torch.cat([s.image_mask for s in batch]).to(vlm.device)
            masks.update(all=torch.ones_like(image), image=image, text=~image)
            vlm.model.base_model(**inputs_of(batch, vlm.device), use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
    return {
        modality: {"variance": [m.variance() for m in layers], "lim": [m.lim() for m in layers]}
        for modality, layers in moments.items()
        if layers[0].tokens
    }


def _chunks(weight: Tensor) -> Iterator[Tensor]:
    rows = max(1, CHUNK // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        yield weight[start : start + rows].double()


def weight_scores(vlm: VLM) -> dict[str, list[float]]:
    """zd: share of a linear's weights more than one standard deviation above its mean. kurtosis: fourth standardized moment.

    Both are averages over a layer's linears, weighted by their sizes.
    """
    found: dict[str, list[float]] = {"zd": [], "kurtosis": []}
    for index in range(len(vlm.layers)):
        zd = kurtosis = 0.0
        weights = vlm.original(index).values()
        for weight in weights:
            n = weight.numel()
            mean = sum(float(c.sum()) for c in _chunks(weight)) / n
            std = (sum(float((c - mean).square().sum()) for c in _chunks(weight)) / n) ** 0.5
            zd += sum(int(((c - mean) > std).sum()) for c in _chunks(weight))
            kurtosis += sum(float((c - mean).pow(4).sum()) for c in _chunks(weight)) / std**4
        total = sum(w.numel() for w in weights)
        found["zd"].append(zd / total)
        found["kurtosis"].append(kurtosis / total)
    return found
