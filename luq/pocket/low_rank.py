"""Low-rank changes of a decoder's linears: what is trained of a grafted language model.

A linear W [out, in] becomes W + SCALE B A with A [rank, in] and B [out, rank] (LoRA, Hu et al.,
arXiv 2106.09685). B is zero at first. While it is trained, peft keeps the parts apart; a graft
adds them up.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCALE = 2  # of the changes
DECODER = "model.language_model."  # before the names of the decoder's parts
PEFT = ".default.weight"  # how peft ends the names of A and B
PLAIN = ".weight"


def attach(model: Any, rank: int) -> None:
    """Give every linear of the decoder a change, which is zero."""
    settings = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=list(LINEARS))
    inject_adapter_in_model(settings, model.model.language_model)


def parts(model: nn.Module) -> dict[str, nn.Parameter]:
    """A and B of every change, as `LINEAR.lora_A.weight` and `LINEAR.lora_B.weight`."""
    named = model.named_parameters()
    return {name.replace(PEFT, PLAIN): part for name, part in named if name.endswith(PEFT)}


def freeze_in_bfloat16(model: nn.Module) -> None:
    """Keep the weights that are changed in the type of the products they are used in."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = module.get_base_layer().weight
            weight.data = weight.data.bfloat16()


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Without the changes the decoder is the original one."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The decoder's linears, none of which has a change yet, by their names in the model."""
    decoder_linears = {}
    for name, module in model.named_modules():
        if name.startswith(DECODER) and name.endswith(LINEARS) and isinstance(module, nn.Linear):
            decoder_linears[name] = module
    return decoder_linears


def part_shapes(model: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of what `parts` gives once the changes are attached."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, linear in linears(model).items():
        shapes[f"{name}.lora_A.weight"] = (rank, linear.in_features)
        shapes[f"{name}.lora_B.weight"] = (linear.out_features, rank)
    return shapes


def merge(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """W + SCALE B A for every linear of a model without changes; `tensors` as in `parts`."""
    for name, linear in linears(model).items():
        first = tensors[f"{name}.lora_A.weight"].float()
        second = tensors[f"{name}.lora_B.weight"].float()
        linear.weight.data = linear.weight.data + SCALE * second @ first
