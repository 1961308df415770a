"""What compiled code gives of a packed weight in the CPU's memory.

Few tokens are answered straight from the stored bits, one after the other. For many, rows are
decoded a tile at a time, and all tokens are multiplied with a tile while it is in the cache.
"""

import ctypes
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

TILE = 1 << 19  # weights decoded at a time: 2 MiB in fp32
LANES = 16  # floats of a register, and columns of a trellis tile, in the C files


@dataclass(frozen=True)
class CpuKernel(ABC):
    """A weight [out, in] in the CPU's memory."""

    library: ctypes.CDLL
    shape: tuple[int, int]

    few_tokens: ClassVar[int]  # which are faster one at a time than by tiles; measured

    @abstractmethod
    def linear(self, inputs: Float32[Tensor, "tokens in"]) -> Float32[Tensor, "tokens out"]:
        """inputs W^T straight from the stored bits, a token at a time."""

    @abstractmethod
    def decode(self, first: int, tile: Float32[Tensor, "rows in"]) -> None:
        """Write rows from `first` on, as many as the tile has."""

    def unpack(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The weight that `dequantize` gives, bit for bit."""
        weight = torch.empty(*self.shape, dtype=dtype)
        if dtype == torch.float32:
            self.decode(0, weight)
            return weight
        room = self._tile()
        for first in range(0, len(weight), len(room)):
            part = weight[first : first + len(room)]
            self.decode(first, room[: len(part)])
            part.copy_(room[: len(part)])
        return weight

    def tiled(
        self, inputs: Float[Tensor, "tokens in"], dtype: torch.dtype
    ) -> Float[Tensor, "tokens out"]:
        """inputs W^T of many tokens.

        Args:
            inputs: Of any type.
            dtype: In which torch multiplies; the weights are rounded to it.
        """
        x = self.turned(inputs).to(dtype)
        outputs = torch.empty(len(x), self.shape[0], dtype=dtype)
        room = self._tile()
        for first in range(0, self.shape[0], len(room)):
            tile = room[: self.shape[0] - first]
            self.decode(first, tile)
            outputs[:, first : first + len(tile)] = x @ tile.to(dtype).T
        return self.turned_back(outputs)

    def eight_bits(
        self, inputs: Float32[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        """The product with inputs that are rounded to 8 bits, in integers; None: no such code."""
        return None

    def turned(self, inputs: Float[Tensor, "tokens in"]) -> Float[Tensor, "tokens width"]:
        """What stands for the inputs where rows are decoded in a rotated space."""
        return inputs

    def turned_back(self, outputs: Float[Tensor, "tokens out"]) -> Float[Tensor, "tokens out"]:
        """What undoes a rotation of the rows."""
        return outputs

    @property
    def width(self) -> int:
        """Columns of a tile."""
        return self.shape[1]

    def _tile(self) -> Float32[Tensor, "rows in"]:
        """Room for a tile: whole strips of 16 rows."""
        strips = max(1, TILE // (LANES * self.width))
        return torch.empty(min(LANES * strips, self.shape[0]), self.width)
