"""Layer-output vectors of chosen tokens.

Which tokens are chosen is drawn before the forward pass: at most `tokens` per modality, the same
ones in every layer. On disk their vectors take layers x 3 x tokens x hidden floats, in memory those
of one layer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, inputs_of
from luq.errors import DataError
from luq.models.computing import computed_in
from luq.models.scratch import Scratch, Slot
from luq.models.vlm import VLM

TOKEN_CHOICE = 11  # tells this use of a seed from the project's others
# By modality: `all`, `image`, `text`. Each has a number of tokens of its own, hence "_".
Positions = dict[str, Int64[Tensor, "_"]]
Rows = dict[str, Float32[Tensor, "_ hidden"]]
LayerOutput = Tensor | tuple[Any, ...]
Hook = Callable[[nn.Module, tuple[Any, ...], LayerOutput], None]


def hidden_states(output: LayerOutput) -> Float[Tensor, "tokens hidden"]:
    """What a decoder layer gives, with the batch's samples one after the other.

    Some families' layers return a tuple that begins with it.
    """
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden.reshape(-1, hidden.shape[-1])


def choose_tokens(image_mask: Bool[Tensor, " tokens"], tokens: int, seed: int) -> Positions:
    """Draw which tokens of a calibration set are looked at.

    Args:
        image_mask: True where a token stands for a piece of an image, over all samples.
        tokens: How many to draw of each modality, at most.
        seed: Of the draw.

    Returns:
        Sorted positions in the token stream by modality. A modality without tokens is left out. The
        same tokens give the same draw: without images, `text` is `all`.
    """
    rng = np.random.default_rng([seed, TOKEN_CHOICE])
    candidates = {
        "all": torch.arange(image_mask.numel()),
        "image": torch.nonzero(image_mask)[:, 0],
        "text": torch.nonzero(~image_mask)[:, 0],
    }
    chosen: Positions = {}
    for modality, positions in candidates.items():
        if len(positions) == 0:
            continue
        if len(positions) == image_mask.numel() and "all" in chosen:
            chosen[modality] = chosen["all"]
            continue
        indices = np.sort(rng.permutation(len(positions))[:tokens])
        chosen[modality] = positions[torch.from_numpy(indices)]
    return chosen


class LayerOutputs(Sequence[Rows]):
    """Forward hooks that pick the chosen tokens' vectors out of each layer's output.

    Afterwards it is the sequence of what they picked, layer by layer.
    """

    def __init__(self, layers: nn.ModuleList, chosen: Positions, folder: Path | None) -> None:
        self.chosen = chosen
        self.start = 0  # position of the next batch's first token
        self.scratch = Scratch(folder)
        self.slots: list[dict[str, list[Slot]]] = []
        self.hooks = []
        for layer in layers:
            slots: dict[str, list[Slot]] = {modality: [] for modality in chosen}
            self.slots.append(slots)
            self.hooks.append(layer.register_forward_hook(self._pick_into(slots)))

    def _pick_into(self, slots: dict[str, list[Slot]]) -> Hook:
        """A hook that stores the chosen rows of a layer's output."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: LayerOutput) -> None:
            rows = hidden_states(output)
            end = self.start + len(rows)
            for modality, positions in self.chosen.items():
                in_batch = positions[(positions >= self.start) & (positions < end)]
                indices = (in_batch - self.start).to(rows.device)
                slots[modality].append(self.scratch.put(rows[indices]))

        return hook

    def advance(self, tokens: int) -> None:
        """Say that a batch of so many tokens has passed."""
        self.start += tokens

    def finish(self) -> None:
        """Take the hooks off."""
        for hook in self.hooks:
            hook.remove()

    def __len__(self) -> int:
        return len(self.slots)

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rows]: ...
    def __getitem__(self, index: int | slice) -> Rows | list[Rows]:
        """The vectors of one layer by modality [tokens, hidden]."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        rows: Rows = {}
        for modality, slots in self.slots[index].items():
            pieces = [self.scratch.get(slot) for slot in slots]
            rows[modality] = torch.cat(pieces).float()
        return rows


@torch.no_grad()
def layer_outputs(
    vlm: VLM, calibration: CalibrationSet, tokens: int, seed: int, folder: Path | None = None
) -> LayerOutputs:
    """Run the calibration set once and pick the chosen tokens' output vectors of every layer.

    Args:
        vlm: The model; it is run in 16 bit.
        calibration: The samples.
        tokens: Vectors per layer and modality, at most.
        seed: Of the choice of tokens.
        folder: Where the vectors wait, in a file without a name; None: the system's folder.

    Raises:
        DataError: The model calls a layer for none of the samples.
    """
    vlm.restore()
    chosen = choose_tokens(calibration.image_mask(), tokens, seed)
    outputs = LayerOutputs(vlm.layers, chosen, folder)
    try:
        for batch in calibration.batches():
            # Without its head: that would unfold its weight per sample, and nobody needs it.
            with computed_in(calibration.compute, vlm.device):
                vlm.model.base_model(**inputs_of(batch, vlm.device), use_cache=False)
            outputs.advance(sum(sample.tokens for sample in batch))
    finally:
        outputs.finish()
    for index, slots in enumerate(outputs.slots):
        if not all(slots.values()):
            raise DataError(
                f"layer {index} is called for no calibration sample: calibrate with images "
                "(calibration=multimodal)"
            )
    return outputs
