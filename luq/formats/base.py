"""Packed weights: what a tier stores for one linear, and the only way back to numbers.

A format is one class in one file. It declares its buffers (types, shapes, ledger classes), checks
them, decodes them, and says which compiled kernel answers for it. Everything that is scored goes
through `dequantize` of exactly these buffers, and `ledger` counts them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Float16, Float32, Int64, UInt8
from torch import Tensor

from luq.errors import StoreError
from luq.formats.cpu_kernel import CpuKernel
from luq.formats.packing import unpack_codes


class BufferSpec(NamedTuple):
    """Type and shape that a buffer must have."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


@dataclass(frozen=True)
class IntegerGrid:
    """Integers on a grid per row and group of columns, as layouts of other libraries need them."""

    shape: tuple[int, int]
    planes: UInt8[Tensor, "bits code_bytes"]
    scales: Float16[Tensor, "out groups"]
    zero_planes: UInt8[Tensor, "bits zero_bytes"] | None
    group_size: int  # columns per group; the last one may be shorter

    @property
    def bits(self) -> int:
        return self.planes.shape[0]

    @property
    def groups(self) -> int:
        return self.scales.shape[1]

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle of the codes, which is then not stored."""
        return self.zero_planes is None

    def codes(self) -> UInt8[Tensor, "out in"]:
        return unpack_codes(self.planes, self.shape)

    def zeros(self) -> UInt8[Tensor, "out groups"] | None:
        """The stored zero points; None for a symmetric grid."""
        if self.zero_planes is None:
            return None
        return unpack_codes(self.zero_planes, (self.shape[0], self.groups))


class GridCodes(NamedTuple):
    """Codes on a grid as plain numbers: (codes - zero) * scale, with fp16 scales in fp32.

    The last group may have fewer columns; the zeros of a symmetric grid are fixed.
    """

    codes: Float[Tensor, "out in"]
    scale: Float[Tensor, "out groups"]
    zero: Float[Tensor, "out groups"]
    levels: int
    group_size: int
    is_symmetric: bool


def group_meta(columns: int, group_size: int) -> dict[str, int]:
    """The meta of groups of which the last one is shorter; nothing where all are alike."""
    return {"group_size": group_size} if columns % group_size else {}


def of_columns(
    by_group: Float[Tensor, "out groups"], group_size: int, columns: int
) -> Float[Tensor, "out in"]:
    """What each column gets from its group; the last group may have fewer columns."""
    return by_group.repeat_interleave(group_size, 1)[:, :columns]


LARGEST_SIZE = 2**31 - 1  # rows or columns of a linear: kernels count them in 32 bits


class PackedWeight(ABC):
    """One linear's weight as stored.

    Args:
        buffers: What safetensors writes, by name. They may be on any device, also on "meta".
        shape: [out, in] of the linear.
        meta: The format's few JSON numbers.

    Raises:
        StoreError: A buffer is missing, unknown, or of another type or shape than the linear's
            shape and the numbers in `meta` say; or one of those numbers is out of range.
    """

    format: ClassVar[str]
    classes: ClassVar[dict[str, str]]  # buffer name -> ledger class
    numbers_of_meta: ClassVar[tuple[str, ...]] = ()  # beside `damping`, which any format may have

    def __init__(self, buffers: dict[str, Tensor], shape: tuple[int, int], **meta: Any) -> None:
        self.buffers = buffers
        self.shape = shape
        self.meta = meta
        self._check()

    @abstractmethod
    def expected_buffers(self) -> dict[str, BufferSpec]:
        """Type and shape of every buffer, from the linear's shape, `meta` and free dimensions.

        Raises:
            StoreError: A number or a free dimension is out of range.
        """

    @abstractmethod
    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        """The weight [out, in] that the buffers mean."""

    def rows(
        self, index: Int64[Tensor, " n"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "n in"]:
        """Some rows of what `dequantize` gives, bit for bit, as embeddings look them up.

        A format that cannot decode a row alone decodes all of them, every time.
        """
        return self.dequantize(dtype)[index]

    @property
    @abstractmethod
    def nominal_bits(self) -> float:
        """Code bits per weight, the paper's convention: no scales, no masks."""

    def check_content(self) -> None:  # noqa: B027  # most formats have nothing to check
        """Check what can only be seen in the buffers' content.

        Raises:
            StoreError: The content contradicts the buffers' shapes.
        """

    # How kernels answer. None: torch does it, by way of `dequantize`.

    @property
    def kernel_kind(self) -> tuple[object, ...]:
        """What of the weight, beside its shape, decides which compiled code answers for it."""
        return ()

    def cpu_kernel(self) -> CpuKernel | None:
        """What reads the stored bits in the CPU's memory."""
        return None

    def eight_bit_inputs(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens in"] | None:
        """The inputs as a product in 8 bits sees them; None: it has none."""
        return None

    def gpu_linear(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        """inputs W^T of a few tokens straight from the stored bits, in a GPU's memory."""
        return None

    # What a format is for layouts of other libraries. None: it has no such layout.

    def stored_floats(self) -> Float[Tensor, "out in"] | None:
        """The weight itself, where it is stored as 16-bit numbers."""
        return None

    def integer_grid(self) -> IntegerGrid | None:
        """The codes and their grid, where integers are stored."""
        return None

    # What a format is for those who tune its codes. None: it has no such codes.

    def grid_codes(self) -> GridCodes | None:
        """Codes and their grid as plain numbers, where there are such."""
        return None

    def with_codes(self, coded: GridCodes) -> "PackedWeight":
        """The same weight with other codes on another grid of as many levels and groups."""
        raise NotImplementedError(f"weights of format {self.format} have no grid")

    def ledger(self) -> dict[str, int]:
        """Bytes per tensor class; their sum is what safetensors writes for the buffers."""
        total: dict[str, int] = {}
        for name, buffer in self.buffers.items():
            ledger_class = self.classes[name]
            size = buffer.numel() * buffer.element_size()
            total[ledger_class] = total.get(ledger_class, 0) + size
        return total

    def columns_per_group(self, groups: int) -> int:
        """Columns of each of a row's `groups` groups; only the last one may be shorter.

        Meta `group_size` says it where the last one is; otherwise it is not stored.
        """
        columns = self.shape[1]
        if "group_size" not in self.meta:
            if groups < 1 or columns % groups:
                raise self.refused("buffer 'scales'", "for groups that divide the columns", groups)
            return columns // groups
        size = self.meta_number("group_size", 1, columns)
        expected = -(-columns // size)
        if groups != expected:
            raise self.refused("buffer 'scales'", f"for {expected} groups of {size}", groups)
        return size

    def to(self, device: torch.device | str) -> "PackedWeight":
        """The same weight with its buffers on `device`."""
        buffers = {name: buffer.to(device) for name, buffer in self.buffers.items()}
        return type(self)(buffers, self.shape, **self.meta)

    def _check(self) -> None:
        """Compare buffers and meta with what the format expects."""
        # A folder's JSON says the shape: it may be anything.
        for size in self.shape:
            if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
                whole_numbers = f"two whole numbers in [1, {LARGEST_SIZE}]"
                raise self.refused("shape", whole_numbers, list(self.shape))
        for name in self.meta:
            if name not in (*self.numbers_of_meta, "damping"):
                raise self.refused(f"meta {name!r}", "absent", self.meta[name])
        damping = self.meta.get("damping", 0.0)
        is_number = isinstance(damping, int | float) and not isinstance(damping, bool)
        # written so that NaN fails
        if not (is_number and 0 <= damping < float("inf")):
            raise self.refused("meta 'damping'", "a number of at least 0", damping)
        for name in self.buffers:
            if name not in self.classes:
                raise self.refused(f"buffer {name!r}", "absent", "there")
        expected = self.expected_buffers()
        for name, spec in expected.items():
            stored = self.buffer(name)
            actual = BufferSpec(stored.dtype, tuple(stored.shape))
            if actual != spec:
                raise self.refused(f"buffer {name!r}", spec, actual)
        for name in self.buffers:
            if name not in expected:
                raise self.refused(f"buffer {name!r}", "absent with these others", "there")

    def buffer(self, name: str) -> Tensor:
        """A buffer that must be there."""
        if name not in self.buffers:
            raise self.refused(f"buffer {name!r}", "there", "missing")
        return self.buffers[name]

    def free_dimension(self, name: str, dimension: int, dimensions: int = 2) -> int:
        """Length of a dimension that the linear's shape does not say."""
        shape = self.buffer(name).shape
        if len(shape) != dimensions:
            got = f"of shape {list(shape)}"
            raise self.refused(f"buffer {name!r}", f"of {dimensions} dimensions", got)
        return shape[dimension]

    def meta_number(self, name: str, low: int, high: int) -> int:
        """A whole number of `meta` in [low, high]."""
        value = self.meta.get(name)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not low <= int(value) <= high:  # type: ignore[arg-type]  # an int here
            raise self.refused(f"meta {name!r}", f"a whole number in [{low}, {high}]", value)
        return int(value)  # type: ignore[arg-type]  # an int here

    def refused(self, subject: str, expected: object, got: object) -> StoreError:
        """The error for a weight that is not as its format says."""
        rows, columns = self.shape
        return StoreError(
            f"packed weight of format {self.format}, [{rows}, {columns}]: {subject} must be"
            f" {expected}, but is {got}. Its file is damaged or was written by another version of"
            " luq: delete it and run again"
        )
