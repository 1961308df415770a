"""Weights as llama.cpp stores them: rows of blocks, which a GGUF file takes as they are."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.gguf_blocks import BLOCK_TYPES, BlockType
from luq.formats.gguf_codebooks import CODEBOOK_TYPES, CodebookType

# Every type, by llama.cpp's name in small letters.
KINDS: dict[str, BlockType | CodebookType] = {**BLOCK_TYPES, **CODEBOOK_TYPES}


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
    def kind(self) -> BlockType | CodebookType:
        """The type of its blocks."""
        name = self.meta.get("type")
        if not isinstance(name, str) or name not in KINDS:
            raise self.refused("meta 'type'", f"one of {', '.join(KINDS)}", name)
        return KINDS[name]

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
        values = kind.decode(rows.reshape(-1, kind.bytes))
        return values.view(len(rows), self.shape[1]).to(dtype)

    @property
    def nominal_bits(self) -> float:
        return self.kind.nominal_bits
