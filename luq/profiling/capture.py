"""Layer-output vectors of chosen tokens.

Which tokens are kept is drawn before the forward pass: at most `tokens` per modality, the same ones in
every layer. On disk they take layers x 3 x tokens x hidden floats, in memory those of one layer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.models.scratch import Scratch, Slot
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


class LayerOutputs(Sequence[dict[str, Tensor]]):
    """Forward hooks that pick the chosen rows out of each layer's output; then the sequence of what they picked."""

    def __init__(self, layers: nn.ModuleList, chosen: dict[str, Tensor], folder: Path | None):
        self.chosen, self.start, self.scratch = chosen, 0, Scratch(folder)
        self.rows: list[dict[str, list[Slot]]] = [{name: [] for name in chosen} for _ in layers]
        self.hooks = [layer.register_forward_hook(self._keep(i)) for i, layer in enumerate(layers)]

    def _keep(self, layer: int):
        def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            flat = hidden.reshape(-1, hidden.shape[-1])
            for name, positions in self.chosen.items():
                here = (
                    positions[(positions >= self.start) & (positions < self.start + len(flat))]
                    - self.start
                )
                self.rows[layer][name].append(self.scratch.put(flat[here.to(flat.device)]))

        return hook

    def advance(self, tokens: int) -> None:
        self.start += tokens

    def finish(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Tensor]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Of one layer: modality -> fp32 [tokens, hidden]."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return {
            name: torch.cat([self.scratch.get(s) for s in slots]).float()
            for name, slots in self.rows[index].items()
        }


@torch.no_grad()
def layer_outputs(
    vlm: VLM, calibration: CalibrationSet, tokens: int, seed: int, folder: Path | None = None
) -> LayerOutputs:
    """Run the calibration set once; per layer and modality the kept output vectors [<= tokens, hidden], in a file in `folder`."""
    vlm.restore()
    outputs = LayerOutputs(
        vlm.layers, choose_tokens(calibration.image_mask(), tokens, seed), folder
    )
    try:
        for batch in calibration.batches():
            vlm.model.base_model(
                **inputs_of(batch, vlm.device), use_cache=False
            )  # no head: it would unfold its weight per sample
            outputs.advance(sum(s.tokens for s in batch))
    finally:
        outputs.finish()
    return outputs
