"""Layer-output vectors of chosen tokens, held in bounded memory.

Which tokens are kept is drawn before the forward pass: at most `tokens` per modality, the same ones in
every layer. Memory is layers x 3 x tokens x hidden, whatever the size of the calibration set.
"""

import numpy as np
import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.models.vlm import VLM


def choose_tokens(image_mask: Tensor, tokens: int, seed: int) -> dict[str, Tensor]:
    """Sorted positions in the token stream per modality (`all`, `image`, `text`), at most `tokens` each."""
    rng = np.random.default_rng([seed, 11])
    positions = {
        "all": torch.arange(image_mask.numel()),
        "image": torch.nonzero(image_mask)[:, 0],
        "text": torch.nonzero(~image_mask)[:, 0],
    }
    return {
        name: where[torch.from_numpy(np.sort(rng.permutation(len(where))[:tokens]))]
        for name, where in positions.items()
        if len(where)
    }


class LayerOutputs:
    """Forward hooks that pick the chosen rows out of each layer's output."""

    def __init__(self, layers: nn.ModuleList, chosen: dict[str, Tensor]):
        self.chosen, self.start = chosen, 0
        self.rows: list[dict[str, list[Tensor]]] = [{name: [] for name in chosen} for _ in layers]
        self.hooks = [layer.register_forward_hook(self._keep(i)) for i, layer in enumerate(layers)]

    def _keep(self, layer: int):
        def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            flat = hidden.reshape(-1, hidden.shape[-1])
            for name, positions in self.chosen.items():
                here = positions[(positions >= self.start) & (positions < self.start + len(flat))] - self.start
                self.rows[layer][name].append(flat[here.to(flat.device)].float().cpu())

        return hook

    def advance(self, tokens: int) -> None:
        self.start += tokens

    def collect(self) -> list[dict[str, Tensor]]:
        """Per layer: modality -> [tokens, hidden]."""
        for hook in self.hooks:
            hook.remove()
        return [{name: torch.cat(parts) for name, parts in layer.items()} for layer in self.rows]


@torch.no_grad()
def layer_outputs(vlm: VLM, calibration: CalibrationSet, tokens: int, seed: int) -> list[dict[str, Tensor]]:
    """Run the calibration set once; per layer and modality the kept output vectors [<= tokens, hidden]."""
    vlm.restore()
    outputs = LayerOutputs(vlm.layers, choose_tokens(calibration.image_mask(), tokens, seed))
    for batch in calibration.batches():
        vlm.model.base_model(**inputs_of(batch, vlm.device), use_cache=False)  # no head: it would unfold its weight per sample
        outputs.advance(sum(s.tokens for s in batch))
    return outputs.collect()
