"""A walk through a model, layer by layer: what each layer receives from those before it.

The inputs of layer 0 are captured once. Which packed layers they pass through on their way to layer
l decides what l is quantized for: this allocation's own layers (`exact`, the paper's way), those of
the model all in the high tier (`high`), or the 16-bit layers (`float`).
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from luq.calibration.samples import CalibrationSet
from luq.errors import ModelError
from luq.formats.layer_file import PackedLayer, read_layer
from luq.formats.linear import installed_tiers
from luq.models.vlm import VLM
from luq.quantization.gradients import Squares
from luq.quantization.layer import runtime_modules
from luq.quantization.states import BATCH_TOKENS, State, first_inputs, pass_through

FLOAT = ""  # stands for a 16-bit layer where others have the key of a packed one


class Walk:
    """The hidden states of one calibration set, at one layer of one model.

    They only ever move forward: who asks for a layer that they have passed, or passed by another
    way, starts them again.

    Args:
        vlm: the model.
        samples: the calibration set.
        folder: where hidden states may wait on disk.
        batch_tokens: most tokens of a batch.
        copies: tensors of the states' size that wait in memory beside each other.
        squares: gradients by which tokens count (`luq.quantization.gradients`).
    """

    def __init__(
        self,
        vlm: VLM,
        samples: CalibrationSet,
        folder: Path | None = None,
        batch_tokens: int = BATCH_TOKENS,
        copies: int = 1,
        squares: Sequence[Squares] | None = None,
    ):
        self.vlm = vlm
        self.samples = samples
        self.folder = folder
        self.batch_tokens = batch_tokens
        self.copies = copies
        self.squares = squares
        self._states: list[State] | None = None
        self._passed: list[str] = []  # keys of the layers that the states went through

    @property
    def states(self) -> list[State]:
        """The hidden states where they are now."""
        if self._states is None:
            raise LookupError("the walk has not begun, or an error ended it")
        return self._states

    def inputs(self, index: int, before: Sequence[Path]) -> list[State]:
        """What layer `index` receives.

        Args:
            index: the decoder layer.
            before: folders of the packed layers 0 .. that stand before it; layers beyond them are
                16-bit.
        """
        self.vlm.restore()
        way = [folder.name for folder in before[:index]]
        way += [FLOAT] * (index - len(way))
        states = self._states
        if states is None or self._passed != way[: len(self._passed)]:
            states = first_inputs(
                self.vlm, self.samples, self.folder, self.batch_tokens, self.copies, self.squares
            )
            self._passed = []
        # An error on the way leaves some batches ahead of others: such states are not kept.
        self._states = None
        for layer in range(len(self._passed), index):
            packed = packed_layer(self.vlm, layer, before[layer]) if layer < len(before) else None
            self._pass(layer, packed, states)
            self._passed.append(way[layer])
        self._states = states
        return states

    def _pass(self, index: int, packed: PackedLayer | None, states: list[State]) -> None:
        if packed is not None:
            modules = runtime_modules(self.vlm, index, packed, "passed", cache=True)
            self.vlm.install(index, modules)
        try:
            pass_through(self.vlm.layers[index], states)
        finally:
            self.vlm.install(index, None)


class FloatWalk(Walk):
    """The same samples on their way through the 16-bit model, beside a walk through packed layers.

    A class of its own, so that both can be held.
    """


def packed_layer(vlm: VLM, index: int, folder: Path) -> PackedLayer:
    """The packed weights of one layer of a model.

    Raises:
        ModelError: they are not those of the layer's linears.
    """
    packed = read_layer(folder, vlm.folder)
    linears = vlm.originals[index]
    if set(packed) != set(linears):
        raise ModelError(
            f"{folder} holds {', '.join(sorted(packed))}, but layer {index} has the linears "
            f"{', '.join(sorted(linears))}: delete it and run again"
        )
    return packed


def install(vlm: VLM, folders: Sequence[Path], cache: bool = True) -> int:
    """Put packed layers into a model; only what differs is read.

    Args:
        vlm: the model.
        folders: one per decoder layer, named by its artefact's key.
        cache: keep unpacked weights in memory: quicker.

    Returns:
        How many layers changed.
    """
    changed = 0
    for index, folder in enumerate(folders):
        if vlm.standing.get(index) != folder.name:
            packed = packed_layer(vlm, index, folder)
            modules = runtime_modules(vlm, index, packed, folder.name, cache)
            vlm.install(index, modules, folder.name)
            changed += 1
    return changed


def assert_installed(vlm: VLM, folders: Sequence[Path]) -> None:
    """A ModelError unless every layer's linears are those of its folder, bit for bit."""
    for index, folder in enumerate(folders):
        labels = installed_tiers(vlm.layers[index], tuple(vlm.originals[index]))
        if labels != {folder.name}:
            raise ModelError(f"layer {index} should be {folder}, but its linears are from {labels}")
        for name, weight in read_layer(folder, vlm.folder).items():
            module = vlm.layers[index].get_submodule(name)
            buffers = dict(module.named_buffers(recurse=False))
            for buffer, stored in weight.buffers.items():
                if not torch.equal(buffers[buffer].cpu(), stored):
                    raise ModelError(
                        f"{buffer} of layer {index} {name} in memory is not what {folder} holds: "
                        "start again"
                    )
