"""Weights as llama.cpp stores them: rows of blocks, which a GGUF file takes as they are."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.gguf_blocks import BLOCK_TYPES, BlockType


class GgufWeight(PackedWeight):
    """A tensor of a GGUF file.

    Buffers: blocks [out, bytes of a row]. Meta: type, llama.cpp's name in small letters.
    """

    format = "gguf"
    classes: ClassVar = {"blocks": "blocks"}  # codes and scales side by side
    numbers_of_meta: ClassVar = ("type",)

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        kind = self.kind
        if columns % kind.weights:
            whole_blocks = f"[out, in] with whole blocks of {kind.weights} weights of {kind.name}"
            raise self.refused("shape", whole_blocks, list(self.shape))
        row_bytes = columns // kind.weights * kind.bytes
        return {"blocks": BufferSpec(torch.uint8, (rows, row_bytes))}

    @property
    def kind(self) -> BlockType:
        """The type of its blocks."""
        name = self.meta.get("type")
        if not isinstance(name, str) or name not in BLOCK_TYPES:
            raise self.refused("meta 'type'", f"one of {', '.join(BLOCK_TYPES)}", name)
        return BLOCK_TYPES[name]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        return self._values(self.buffers["blocks"], dtype)

    def rows(
        self, index: Int64[Tensor, " n"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "n in"]:
        return self._values(self.buffers["blocks"][index], dtype)

    def _values(
        self, rows: UInt8[Tensor, "n row_bytes"], dtype: torch.dtype
    ) -> Float[Tensor, "n in"]:
        kind = self.kind
        numbers = kind.read(rows.reshape(-1, kind.bytes))
        return kind.values(numbers).view(len(rows), self.shape[1]).to(dtype)

    @property
    def nominal_bits(self) -> float:
        return math.log2(self.kind.levels)
