"""A small stand-in for a checkpoint's model, by which its passes are timed before it is loaded.

It is of the model's own classes, has the model's own widths, tokenizer and processor, but one
decoder layer and one block that computes in each tower, and random numbers for weights: none is
read.
"""

from typing import Any

import torch
from torch import Tensor, nn

from luq.config.quantizer import VISION
from luq.models import devices
from luq.models.checkpoint import Checkpoint
from luq.models.decoder import decoder_of
from luq.models.loading import load_config, load_skeleton
from luq.models.parts import stacks_of
from luq.models.processors import load_processor
from luq.models.quiet import quiet
from luq.models.vlm import VLM, wrapped

STD = 0.02  # of weights, as models are initialized
TILE = 1 << 20  # random numbers that are drawn; weights repeat them


class Replica:
    """The stand-in, and how many times each of its stacks the model has.

    Args:
        source: of the model.

    Raises:
        ConfigError: this machine does not have the device.
        ModelError: transformers cannot build the model.
    """

    def __init__(self, source: Checkpoint) -> None:
        devices.require(source.config.device)
        device = devices.resolve(source.config.device)
        model = load_skeleton(source.folder)
        skeleton = wrapped(source.config, model, None)
        self.blocks = 0  # of the model's towers, in all
        for stack in stacks_of(model, skeleton.parts[VISION]).values():
            self.blocks += len(stack)
            _pass_by(stack)
        decoder = decoder_of(model)
        decoder.layers = nn.ModuleList(list(skeleton.layers)[:1])
        settings = load_config(source.folder)
        with quiet():
            processor = load_processor(source.folder, settings.model_type, source.config)
        self.bytes = _fill(model, getattr(torch, source.dtype), device)  # those that were filled
        self.vlm: VLM = wrapped(source.config, model.to(device), processor)

    @property
    def stacks(self) -> list[nn.ModuleList]:
        """The lists of blocks of its towers."""
        return list(stacks_of(self.vlm.model, self.vlm.parts[VISION]).values())


def _pass_by(stack: nn.ModuleList) -> None:
    """Let all blocks of a tower but the first give what they are given.

    They stay in their places: models look up what single blocks give.
    """
    gives_tuple: list[bool] = []
    first: Any = stack[0]

    def learn(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        gives_tuple[:] = [isinstance(output, tuple)]

    def given(*arguments: Any, **options: Any) -> Any:
        hidden = arguments[0] if arguments else options["hidden_states"]
        return (hidden,) if gives_tuple[0] else hidden

    first.register_forward_hook(learn)
    for index in range(1, len(stack)):
        block: Any = object.__new__(type(first))
        nn.Module.__init__(block)
        for name, value in vars(first).items():
            if not name.startswith("_"):  # a module's own tables: of parameters, hooks, ...
                setattr(block, name, value)
        block.forward = given
        stack[index] = block


def _fill(model: Any, dtype: torch.dtype, device: str) -> int:
    """Give every parameter numbers, of a type; embeddings that are no head's weight get zeros.

    Of these only rows that are looked up are ever touched.

    Returns:
        Bytes of the others.
    """
    filled_bytes = 0
    generator = torch.Generator().manual_seed(0)
    tile = (torch.randn(TILE, generator=generator) * STD).to(dtype)
    table = model.get_input_embeddings().weight
    if table is model.get_output_embeddings().weight or _is_tied(model):
        table = None
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            filled = torch.zeros(parameter.shape, dtype=dtype, device=device)
            if parameter is not table:
                _repeat_(filled, tile.to(device))
                filled_bytes += filled.numel() * filled.element_size()
            setattr(module, name, nn.Parameter(filled, requires_grad=False))
    model.tie_weights()
    return filled_bytes


def _is_tied(model: Any) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))


def _repeat_(tensor: Tensor, tile: Tensor) -> None:
    """Fill a tensor with a tile, over and over; vectors, which are norms and biases, with ones."""
    if tensor.dim() < 2:
        tensor.fill_(1.0)
        return
    flat = tensor.view(-1)
    for start in range(0, flat.numel(), len(tile)):
        piece = flat[start : start + len(tile)]
        piece.copy_(tile[: len(piece)])
