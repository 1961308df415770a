"""CUDA without a GPU: tensors that have shapes, types and a device, and no numbers.

Under torch's FakeTensorMode a build for CPUs makes `cuda` tensors. Operations on tensors of two
devices raise there, and so does whatever needs a number: on a GPU the host would wait for it. Such
waits are noted with the function of ours that asks, and given a number that lets the work go on: a
mask has as many places as half of its length, where they are listed and where they are counted.
What touches no CUDA tensor is computed as ever, for the host has its numbers.

Indexing asks for a CUDA device before the fakes are asked: it is put together here from the
operators that it stands for.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

# What the host is told: that all is well, and a number that is a place and a code.
ANSWERS: dict[Any, Callable[[Tensor], Any]] = {
    Tensor.nonzero: lambda tensor: torch.zeros(max(1, len(tensor) // 2), tensor.dim()).long(),
    Tensor.__bool__: lambda tensor: True,
    Tensor.__int__: lambda tensor: 0,
    Tensor.__index__: lambda tensor: 0,
    Tensor.__float__: lambda tensor: 1.0,
    Tensor.item: lambda tensor: 0,
}
# Methods that ask for a device, and functions that do the same and do not.
SAME: dict[Any, Callable[[Tensor], Tensor]] = {
    Tensor.contiguous: lambda tensor: tensor.clone(memory_format=torch.contiguous_format),
    Tensor.__invert__: torch.bitwise_not,
}


class FakeCuda(TorchFunctionMode):
    """Notes by function of `luq` how often the host waits for the device."""

    def __init__(self, numbers: FakeTensorMode) -> None:
        super().__init__()
        self.numbers = numbers
        self.waits: Counter[str] = Counter()
        self.counts = WeakTensorKeyDictionary()  # what was summed of a mask -> how many places

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not any(map(_is_cuda, tree_leaves((args, kwargs)))):
            with _real():
                return func(*args, **kwargs)
        if func is Tensor.__getitem__:
            return self._get(*args)
        if func is Tensor.__setitem__:
            return self._set(*args)
        if func is Tensor.copy_:
            return self._copy(*args)
        if func is Tensor.to and not isinstance(args[0], FakeTensor):
            return self._sent(*args)
        if func in ANSWERS and args[0].device.type == "cuda":
            return self._answer(func, args[0])
        if func in SAME:
            return SAME[func](args[0])
        if func is Tensor.sum and args[0].dtype == torch.bool and len(args) == 1 and not kwargs:
            count = func(*args)
            self.counts[count] = max(1, args[0].numel() // 2)
            return count
        return self._brought(func(*args, **kwargs))

    def _sent(self, tensor: Tensor, *args: Any) -> Tensor:
        """What goes to the device leaves its numbers behind."""
        dtypes = [tensor.dtype]
        for arg in args:
            if isinstance(arg, torch.dtype):
                dtypes.append(arg)
            elif isinstance(arg, Tensor):
                dtypes.append(arg.dtype)
        return torch.empty(tensor.shape, dtype=dtypes[-1], device="cuda")

    def _brought(self, result: Any) -> Any:
        """What comes to the host is zeros there, and the host has waited for it."""
        if not isinstance(result, FakeTensor) or result.device.type != "cpu":
            return result
        self.waits[_asker()] += 1
        with _real():
            return torch.zeros(result.shape, dtype=result.dtype)

    def _answer(self, func: Any, tensor: Tensor) -> Any:
        self.waits[_asker()] += 1
        if func is Tensor.__int__ and tensor in self.counts:
            return self.counts[tensor]
        with _real():
            answer = ANSWERS[func](tensor)
        return torch.empty_like(answer, device="cuda") if isinstance(answer, Tensor) else answer

    def _get(self, tensor: Tensor, key: Any) -> Tensor:
        view, indices = self._view(tensor, key)
        if any(index is not None for index in indices):
            return torch.ops.aten.index.Tensor(view, indices)
        return view

    def _set(self, tensor: Tensor, key: Any, value: Any) -> None:
        view, indices = self._view(tensor, key)
        if not isinstance(value, Tensor):
            value = torch.full((), value, dtype=view.dtype, device=view.device)
        if any(index is not None for index in indices):
            view = torch.ops.aten.index.Tensor(view, indices)
        self._copy(view, value)

    def _copy(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Nothing is copied, where there are no numbers: shapes must fit, and devices."""
        torch.broadcast_to(value, tensor.shape)
        if value.dim() > 0:
            torch.empty_like(tensor) + torch.empty_like(value, dtype=tensor.dtype)
        return tensor

    def _view(self, tensor: Tensor, key: Any) -> tuple[Tensor, list[Tensor | None]]:
        """What slices and numbers leave, and what tensors still pick out of it, by dimension."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [item for item in keys if not isinstance(item, Tensor)]:
            place = next(i for i, item in enumerate(keys) if item is Ellipsis)
            taken = sum(item is not None and item is not Ellipsis for item in keys)
            keys[place : place + 1] = [slice(None)] * (tensor.dim() - taken)
        indices: list[Tensor | None] = []
        for item in keys:
            dim = len(indices)
            if item is None:
                tensor = tensor.unsqueeze(dim)
                indices.append(None)
            elif isinstance(item, slice):
                start, stop, step = item.start, item.stop, item.step or 1
                tensor = torch.ops.aten.slice.Tensor(tensor, dim, start, stop, step)
                indices.append(None)
            elif isinstance(item, list | tuple):
                indices.append(torch.empty(len(item), dtype=torch.int64, device=tensor.device))
            elif isinstance(item, Tensor) and item.dim() > 0:
                indices.append(self._places(item))
            else:
                tensor = torch.ops.aten.select.int(tensor, dim, int(item))
        return tensor, indices

    def _places(self, index: Tensor) -> Tensor:
        """A mask has as many places as numbers say: the host waits to know."""
        if index.dtype != torch.bool:
            return index
        self.waits[_asker()] += 1
        assert index.dim() == 1, "masks of several dimensions are not told here"
        return torch.empty(max(1, len(index) // 2), dtype=torch.int64, device=index.device)


def _is_cuda(leaf: Any) -> bool:
    """Whether an argument is a CUDA tensor or device."""
    if isinstance(leaf, Tensor):
        return leaf.device.type == "cuda"
    return isinstance(leaf, str | torch.device) and str(leaf).startswith("cuda")


def _asker() -> str:
    """The innermost function of `luq` on the way here."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("luq."):
            return f"{name.removeprefix('luq.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


@contextmanager
def _real() -> Iterator[None]:
    """Tensors as they are, without fakes."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with torch._C.DisableTorchFunction(), unset_fake_temporarily():
        yield


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Within it, `torch.empty(..., device="cuda")` and all that is made of it is fake."""
    to_list = FakeTensor.tolist

    def tolist(tensor: FakeTensor) -> Any:
        if tensor.device.type != "cuda":
            return to_list(tensor)
        cuda.waits[_asker()] += 1
        with _real():
            return torch.zeros(tensor.shape, dtype=torch.int64).tolist()

    with (
        FakeTensorMode(allow_non_fake_inputs=True) as numbers,
        FakeCuda(numbers) as cuda,
        torch.no_grad(),
    ):
        FakeTensor.tolist = tolist  # type: ignore[method-assign]
        try:
            yield cuda
        finally:
            FakeTensor.tolist = to_list  # type: ignore[method-assign]
