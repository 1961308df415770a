"""The parts beside the decoder's linears into tiers: embeddings, head, vision tower, projector.

| part | H, the Hessian of its inputs |
|---|---|
| embeddings | I: a lookup gives a row as it is, all its columns alike |
| head | of the decoder's outputs after its last norm |
| embeddings that are the head | I + H / mean(diag H), H of those outputs: both uses alike |
| vision tower | of each linear, block by block, images going through the packed blocks before |
| projector | of each linear, images going through the packed tower if there is one |
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luq.calibration.samples import CalibrationSet, Sample, inputs_of
from luq.config import LayerTiers, TierConfig
from luq.config.quantizer import EMBEDDINGS, HEAD, VISION
from luq.errors import DataError, ModelError
from luq.formats.embedding import TiedLinear
from luq.formats.layer_file import PackedLayer, read_layer
from luq.formats.part_modules import part_modules
from luq.formats.stored_module import StoredModule
from luq.models.decoder import decoder_of
from luq.models.parts import Modules, scale_of, stacks_of
from luq.models.vlm import VLM, tensors_of
from luq.models.weight_files import plain_name
from luq.quantization.hessian import HessianSum
from luq.quantization.layer import Hessian, hessians, packed_weight
from luq.quantization.layer_calls import Groups, shared_inputs
from luq.quantization.methods import Quantizer, make_quantizer
from luq.quantization.states import (
    Captured,
    DecoderCall,
    Passage,
    State,
    decoder_call,
    inputs_of_first,
    pass_through,
    tuple_given,
)

UNDER_WAY = "under way"  # what stands in a model while a part is packed has no key yet


@torch.no_grad()
def quantize_part(
    vlm: VLM,
    part: str,
    tiers: LayerTiers,
    samples: CalibrationSet | None,
    folder: Path | None = None,
) -> PackedLayer:
    """All modules of a part in their tiers; the part has its 16-bit modules again afterwards.

    Args:
        vlm: the model, with whatever parts stand before this one.
        part: one of `luq.config.quantizer.PARTS`.
        tiers: how they are stored, by plain name.
        samples: what the model sees; None only for tiers that need no data, and for embeddings.
        folder: where activations may wait on disk, as for `first_inputs`.

    Returns:
        The packed weights by the modules' plain names. Linears that no image reaches are left out.

    Raises:
        ModelError: the model has no such part, or one that cannot be packed.
        DataError: a Hessian is none, or no sample has an image.
    """
    if not vlm.parts.get(part):
        raise ModelError(f"this {vlm.model.config.model_type} model has no {part} to pack")
    packer = _Packer(vlm, part, tiers)
    try:
        if part == EMBEDDINGS:
            packer.pack_tables(samples)
        elif samples is None or tiers.data_free:
            packer.pack(list(vlm.parts[part]), {})
        elif part == HEAD:
            hessian = _head_hessian(vlm, samples)
            packer.pack(list(vlm.parts[part]), dict.fromkeys(vlm.parts[part], hessian))
        else:
            _pack_seeing(packer, ImageRuns(vlm, samples), folder)
    finally:
        vlm.install_part(part, None)
    return packer.packed


class _Packer:
    """Packs modules of a part, and puts them into the model for those that come after them."""

    def __init__(self, vlm: VLM, part: str, tiers: LayerTiers) -> None:
        self.vlm = vlm
        self.part = part
        self.tiers = tiers
        self.packed: PackedLayer = {}
        self._quantizers: dict[TierConfig, Quantizer] = {
            tier: make_quantizer(tier) for tier in tiers.distinct
        }

    @property
    def modules(self) -> Modules:
        """The part's 16-bit modules, by path."""
        return self.vlm.parts[self.part]

    @property
    def left(self) -> list[str]:
        """The paths of those that are not packed yet."""
        return [path for path in self.modules if plain_name(path) not in self.packed]

    def passes(self, groups: Groups, prefix: str = "") -> list[Groups]:
        """The groups whose Hessians are made together, before any of these linears is packed.

        Args:
            groups: linears that share an input; all together, or one by one if one of their tiers
                wants it so.
            prefix: of their names, to be their paths.
        """
        tiers = [self._tier_of(f"{prefix}{name}") for group in groups for name in group]
        if any(tier.sees_packed_groups for tier in tiers):
            return [(group,) for group in groups]
        return [groups] if groups else []

    def _tier_of(self, path: str) -> TierConfig:
        return self.tiers.of_linear(plain_name(path))

    def pack(self, paths: list[str], by_path: dict[str, Hessian]) -> None:
        """Pack some modules, and let them stand in the model.

        Args:
            paths: of the modules; those of one Hessian come one after another.
            by_path: their Hessians; empty for a tier that needs none.
        """
        packed: PackedLayer = {}
        for path in paths:
            weight, _ = tensors_of(self.modules[path])
            where = f"{self.part} {path}"
            quantizer = self._quantizers[self._tier_of(path)]
            packed[plain_name(path)] = packed_weight(quantizer, weight, by_path.get(path), where)
        self.packed |= packed
        modules = runtime_modules(self.vlm, self.part, packed, UNDER_WAY, cache=True)
        self.vlm.install_part(self.part, modules, UNDER_WAY)

    def pack_tables(self, samples: CalibrationSet | None) -> None:
        """Pack the embeddings.

        Args:
            samples: for the Hessian of a head that shares a table; None: it is not looked at.
        """
        shared = self.vlm.model.get_input_embeddings()
        has_tied_head = any(isinstance(module, nn.Linear) for module in self.modules.values())
        for path, table in self.modules.items():
            if not isinstance(table, nn.Embedding):
                continue  # the head that shares one
            if type(table) is not nn.Embedding and scale_of(table) is None:
                raise ModelError(
                    f"{path} is a {type(table).__name__}, whose rows LUQ does not know how to "
                    "look up: leave quantizer.embeddings out"
                )
            if self.tiers.data_free:
                self.pack([path], {})
                continue
            hessian = torch.eye(table.embedding_dim, device=self.vlm.device)
            if samples is not None and has_tied_head and table is shared:
                hessian += _of_mean_one(_head_hessian(self.vlm, samples))
            self.pack([path], {path: hessian})


def _of_mean_one(hessian: Hessian) -> Hessian:
    """A Hessian whose mean diagonal is one, so that it counts as much as that of lookups, I."""
    return hessian / torch.diagonal(hessian).mean()


def _head_hessian(vlm: VLM, samples: CalibrationSet) -> Hessian:
    """H of what the head is given: hidden states after the last norm.

    All tokens of all samples count as in the Hessians of layers.
    """
    head = vlm.model.get_output_embeddings()
    total: HessianSum | None = None
    for batch in samples.batches():
        hidden = _inputs_of_module(vlm, head, batch)
        total = total or HessianSum(hidden.shape[-1], hidden.device)
        total.add(hidden, samples.weights(batch))
    if total is None:
        raise DataError("the calibration set has no samples")
    return total.mean()


def _inputs_of_module(vlm: VLM, module: nn.Module, batch: list[Sample]) -> Tensor:
    """What a module is given first when the model runs on a batch."""
    inputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append(arguments[0])
        raise Captured

    handle = module.register_forward_pre_hook(keep)
    try:
        with suppress(Captured):
            vlm.model(**inputs_of(batch, vlm.device), use_cache=False)
    finally:
        handle.remove()
    return inputs[0]


class ImageRuns:
    """Runs of a model's vision tower and projector on the calibration images.

    Each goes through the model as it stands up to its decoder, which is not called.
    """

    def __init__(self, vlm: VLM, samples: CalibrationSet) -> None:
        self.vlm = vlm
        self.batches = [batch for batch in samples.batches() if batch[0].multimodal]
        if not self.batches:
            raise DataError(
                "no calibration sample has an image: calibrate with images "
                "(calibration=multimodal), or give vision and projector a tier that needs no data "
                "(rtn4)"
            )

    def run(self, batch: list[Sample]) -> DecoderCall:
        """One batch: how the decoder would be called."""
        return decoder_call(self.vlm, decoder_of(self.vlm.model), inputs_of(batch, self.vlm.device))

    def groups(self, paths: list[str]) -> Groups:
        """Linears that are given the same tensor, in the order of the forward pass.

        Linears that no image of the first batch reaches are left out.
        """
        groups: list[list[str]] = []
        inputs: list[Tensor] = []  # of each group; held, so that no later tensor is taken for one

        def note(path: str, hidden: Tensor) -> None:
            if any(path in group for group in groups):
                return
            for group, known in zip(groups, inputs, strict=True):
                if known is hidden:
                    group.append(path)
                    return
            groups.append([path])
            inputs.append(hidden)

        self._listen(paths, note, self.batches[:1])
        return tuple(tuple(group) for group in groups)

    def hessians(self, groups: Groups) -> dict[str, Hessian]:
        """One Hessian per group of linears, with all tokens of the images counted alike."""
        sums: dict[str, HessianSum] = {}

        def add(path: str, hidden: Tensor) -> None:
            if path not in sums:
                sums[path] = HessianSum(hidden.shape[-1], hidden.device)
            sums[path].add(hidden)

        self._listen([group[0] for group in groups], add, self.batches)
        by_path: dict[str, Hessian] = {}
        for group in groups:
            by_path |= dict.fromkeys(group, sums[group[0]].mean())
        return by_path

    def _listen(self, paths: list[str], hear: Any, batches: list[list[Sample]]) -> None:
        """Call `hear` with the path and the input of modules whenever they are called."""
        hooks: list[Any] = []

        def listen(path: str) -> None:
            def pass_on(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                hear(path, arguments[0])

            module = self.vlm.model.get_submodule(path)
            hooks.append(module.register_forward_pre_hook(pass_on))

        for path in paths:
            listen(path)
        try:
            for batch in batches:
                self.run(batch)
        finally:
            for hook in hooks:
                hook.remove()


def _pack_seeing(packer: _Packer, runs: ImageRuns, folder: Path | None) -> None:
    """Pack tower or projector for what images give: lists of blocks, then what is in no list."""
    if packer.part == VISION:
        for path in stacks_of(packer.vlm.model, packer.modules):
            _pack_stack(packer, runs, path, folder)
    # What no passage goes through, a run of the whole tower for each group of linears.
    for part in packer.passes(runs.groups(packer.left)):
        packer.pack([path for group in part for path in group], runs.hessians(part))


def _pack_stack(packer: _Packer, runs: ImageRuns, path: str, folder: Path | None) -> None:
    """Pack a list of blocks one after another; none if they are not called one after another."""
    vlm = packer.vlm
    stack: Any = vlm.model.get_submodule(path)
    owner = vlm.model.get_submodule(path.rpartition(".")[0])
    if not _is_chain(runs, owner, stack):
        return
    states = inputs_of_first(vlm, owner, stack, runs.batches, folder)
    for index, block in enumerate(stack):
        prefix = f"{path}.{index}."
        try:
            groups = shared_inputs(block, states)
        except ModelError:
            return  # a linear of the block is not called: what is left is packed run by run
        for part in packer.passes(groups, prefix):
            by_path = {
                f"{prefix}{name}": hessian
                for name, hessian in hessians(block, states, part).items()
            }
            packer.pack(list(by_path), by_path)
        pass_through(block, states)


def _is_chain(runs: ImageRuns, owner: nn.Module, stack: nn.ModuleList) -> bool:
    """Whether blocks one by one give what the tower gives that calls them, bit for bit.

    It is not so where a tower calls its blocks several times for a batch, or in another order, or
    where others than the blocks' owner call them.
    """
    outputs: list[Tensor] = []
    owner_calls: list[nn.Module] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    batch = runs.batches[0]
    handles = [
        owner.register_forward_pre_hook(lambda module, arguments: owner_calls.append(module)),
        stack[-1].register_forward_hook(keep),
    ]
    try:
        runs.run(batch)
    finally:
        for handle in handles:
            handle.remove()
    if len(outputs) != 1 or len(owner_calls) != 1:
        return False
    call = decoder_call(runs.vlm, owner, inputs_of(batch, runs.vlm.device))
    state = State(Passage(owner, stack, call, tuple_given(owner, stack, call)))
    for block in stack[:-1]:
        state.advance(state.output(block))
    return torch.equal(outputs[0], state.output(stack[-1]))


def runtime_modules(
    vlm: VLM, part: str, packed: PackedLayer, tier: str, cache: bool
) -> dict[str, StoredModule]:
    """The modules that compute with a part's packed weights in a loaded model, by path.

    Args:
        vlm: the model that they are for.
        part: which part.
        packed: its packed weights, by plain name.
        tier: a label that the modules carry.
        cache: keep unpacked weights; never done where the model is streamed.
    """
    here = {name: weight.to(vlm.device) for name, weight in packed.items()}
    keep_unpacked = cache and not vlm.config.stream
    return part_modules(
        vlm.parts[part], here, tier, lambda linear: tensors_of(linear)[1], keep_unpacked
    )


def install_parts(vlm: VLM, folders: dict[str, Path], cache: bool = True) -> int:
    """Put packed parts into a model, and 16-bit ones where there are none; only what differs is
    read.

    Args:
        vlm: the model.
        folders: by part, named by the artefact's key.
        cache: keep unpacked weights in memory: quicker.

    Returns:
        How many parts changed.
    """
    changed = 0
    for part in vlm.parts:
        folder = folders.get(part)
        if vlm.standing_parts.get(part) == (None if folder is None else folder.name):
            continue
        vlm.install_part(part, None)
        if folder is not None:
            packed = read_layer(folder, vlm.folder)
            modules = runtime_modules(vlm, part, packed, folder.name, cache)
            vlm.install_part(part, modules, folder.name)
        changed += 1
    return changed


def assert_parts_installed(vlm: VLM, folders: dict[str, Path]) -> None:
    """A ModelError unless the parts are those of their folders, bit for bit."""
    for part, originals in vlm.parts.items():
        packed = read_layer(folders[part], vlm.folder) if part in folders else {}
        for path in originals:
            module = vlm.model.get_submodule(path)
            stored = packed.get(plain_name(path))
            if stored is None and isinstance(module, TiedLinear) and part in folders:
                continue
            buffers = module.packed.buffers if isinstance(module, StoredModule) else {}
            expected = {} if stored is None else stored.buffers
            if buffers.keys() != expected.keys() or not all(
                torch.equal(buffers[name].cpu(), tensor) for name, tensor in expected.items()
            ):
                where = folders.get(part, "16 bit")
                raise ModelError(f"{path} in memory is not what {where} holds: start again")
