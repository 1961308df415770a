"""In which type a model's products are computed, where that is not its own."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from luq.models.vlm import VLM


def computed_in(compute: str, device: torch.device) -> AbstractContextManager[object]:
    """Products of linears in a type, as `CalibrationConfig.compute` says, with fp32 sums."""
    if compute == "model":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, compute))


@contextmanager
def answered_in(compute: str, vlm: VLM) -> Iterator[None]:
    """As `computed_in`, but for the head.

    A logit in bfloat16 has 8 bits: near 20 it is a multiple of 1/8, so that many would be equal.
    """
    if compute == "model":
        yield
        return
    head: nn.Module = vlm.model.get_output_embeddings()
    exactly = torch.autocast(vlm.device.type, enabled=False)

    def enter(module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        exactly.__enter__()  # type: ignore[no-untyped-call]  # of torch
        hidden, *others = arguments
        return hidden.to(module.weight.dtype), *others

    def leave(module: Any, arguments: Any, output: Any) -> None:
        exactly.__exit__(None, None, None)

    hooks = [
        head.register_forward_pre_hook(enter),
        head.register_forward_hook(leave, always_call=True),
    ]
    try:
        with computed_in(compute, vlm.device):
            yield
    finally:
        for hook in hooks:
            hook.remove()
