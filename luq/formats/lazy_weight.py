"""The weight of a packed linear, for libraries that ask a linear for its weight.

Most of them want to know no more than its shape, type and device: nothing is unpacked for that.
What computes with it gets the numbers. What would write it is refused, since a packed weight has
no place for other numbers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from luq.errors import ModelError
from luq.formats import kernels
from luq.formats.base import PackedWeight

_DETACH = torch.ops.aten.detach.default  # what `weight.data` is


class LazyWeight(Tensor):
    """A weight [out, in] that is unpacked whenever something computes with it.

    Args:
        packed: The stored weight.
        dtype: In which it is seen.

    Raises:
        ModelError: When something would write it.
    """

    packed: PackedWeight
    _is_hf_initialized = True  # or transformers would fill it with random numbers after loading
    # Results are plain tensors: without this torch makes them lazy weights, too.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, packed: PackedWeight, dtype: torch.dtype) -> "LazyWeight":
        stored = next(iter(packed.buffers.values()))
        weight: LazyWeight = Tensor._make_wrapper_subclass(
            cls, packed.shape, dtype=dtype, device=stored.device
        )
        weight.packed = packed
        return weight

    def __init__(self, packed: PackedWeight, dtype: torch.dtype) -> None:
        super().__init__()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch says no more of it
        return f"LazyWeight({self.packed.format}, {list(self.shape)}, {self.dtype})"

    @property
    def data(self) -> Tensor:
        """The same weight, without a history."""
        return self.detach()

    @data.setter
    def data(self, values: Tensor) -> None:
        raise _no_place()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub has no class method
        cls, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if operation is _DETACH:
            return cls(args[0].packed, args[0].dtype)
        keywords = kwargs or {}
        for place, declared in enumerate(operation._schema.arguments):
            argument = args[place] if place < len(args) else keywords.get(declared.name)
            is_written = declared.alias_info is not None and declared.alias_info.is_write
            if is_written and isinstance(argument, cls):
                raise _no_place()
        unpacked_args, unpacked_keywords = tree_map_only(cls, _unpacked, (args, keywords))
        return operation(*unpacked_args, **unpacked_keywords)


def _unpacked(weight: LazyWeight) -> Tensor:
    if weight.device.type == "meta":
        return torch.empty(weight.shape, dtype=weight.dtype, device="meta")
    return kernels.unpack(weight.packed, weight.dtype)


def _no_place() -> ModelError:
    return ModelError(
        "a packed weight cannot be changed, and no adapter be merged into it: call "
        "model.dequantize() first, which makes plain linears of the packed ones, or keep the "
        "adapter beside the model"
    )
