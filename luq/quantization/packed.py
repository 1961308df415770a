"""Packed weights: what a tier stores for one linear, and the only way back to numbers.

Each format is a set of named buffers plus the [out, in] shape. Everything that is scored goes through
`dequantize` of exactly these buffers, and `ledger` counts them.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from luq.quantization.packing import unpack_bits, unpack_codes, unpack_trits


class PackedWeight(ABC):
    """One linear's weight as stored. `buffers` are what safetensors writes; `meta` is a few JSON numbers."""

    format: ClassVar[str]
    classes: ClassVar[dict[str, str]]  # buffer name -> ledger class

    def __init__(self, buffers: dict[str, Tensor], shape: tuple[int, int], **meta: Any):
        self.buffers, self.shape, self.meta = buffers, shape, meta

    @abstractmethod
    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out, in] that the buffers mean."""

    @property
    @abstractmethod
    def nominal_bits(self) -> float:
        """Code bits per weight, the paper's convention: no scales, no masks."""

    def ledger(self) -> dict[str, int]:
        """Bytes per tensor class; their sum is what safetensors writes for the buffers."""
        total: dict[str, int] = {}
        for name, buffer in self.buffers.items():
            total[self.classes[name]] = total.get(self.classes[name], 0) + buffer.numel() * buffer.element_size()
        return total

    def to(self, device: torch.device | str) -> "PackedWeight":
        return type(self)({k: v.to(device) for k, v in self.buffers.items()}, self.shape, **self.meta)


class FloatWeight(PackedWeight):
    """16-bit weights, as they came."""

    format = "float16"
    classes: ClassVar = {"weight": "weights"}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.buffers["weight"].to(dtype)

    @property
    def nominal_bits(self) -> float:
        return 16.0


class IntegerWeight(PackedWeight):
    """Integers on a grid per row and group of columns: (code - zero) * scale.

    Buffers: codes [bits, ceil(out * in / 8)], scales fp16 [out, groups], and for asymmetric grids
    zeros [bits, ceil(out * groups / 8)]; symmetric grids have the fixed zero 2**(bits-1).
    """

    format = "integer"
    classes: ClassVar = {"codes": "codes", "scales": "scales", "zeros": "zeros"}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, columns = self.shape
        scales = self.buffers["scales"].float()
        codes = unpack_codes(self.buffers["codes"], self.shape).float().view(rows, scales.shape[1], -1)
        zeros: Tensor | float = 2.0 ** (self.buffers["codes"].shape[0] - 1)
        if "zeros" in self.buffers:
            zeros = unpack_codes(self.buffers["zeros"], tuple(scales.shape)).float().unsqueeze(-1)
        return ((codes - zeros) * scales.unsqueeze(-1)).view(rows, columns).to(dtype)

    @property
    def nominal_bits(self) -> float:
        return float(self.buffers["codes"].shape[0])


class TernaryWeight(PackedWeight):
    """-1, 0 or 1 times a scale per row and group of columns. Buffers: codes [ceil(out * in / 5)], scales fp16 [out, groups]."""

    format = "ternary"
    classes: ClassVar = {"codes": "codes", "scales": "scales"}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        scales = self.buffers["scales"].float()
        codes = unpack_trits(self.buffers["codes"], self.shape).float().view(self.shape[0], scales.shape[1], -1)
        return ((codes - 1) * scales.unsqueeze(-1)).view(self.shape).to(dtype)

    @property
    def nominal_bits(self) -> float:
        return math.log2(3)


class BinaryWeight(PackedWeight):
    """BiLLM's weight: signs in three groups per row and block of columns, each with a mean and a scale.

    Columns marked in `salient` are stored as two binary orders; the others are split by `flags` into a
    concentrated and a sparse group of one order. Buffers, all bits packed: signs [out, in], salient [in],
    residual_signs [out, salient columns], flags [out, other columns]; scales fp16 [out, blocks, 8] holds
    (mean, scale) of the concentrated, the sparse, the salient and the residual part. Quantized twice: scales are
    bytes [out, blocks, 7], without the residual's mean, which is zero, and tops fp16 [ceil(out / 32), blocks, 7] the
    largest magnitudes of 32 rows; means count from 128 in 127ths, scales from 0 in 255ths.
    """

    format = "binary"
    classes: ClassVar = {
        "signs": "codes",
        "residual_signs": "codes",
        "salient": "masks",
        "flags": "masks",
        "scales": "scales",
        "tops": "scales",
    }
    kinds: ClassVar = (0, 1, 2, 3, 4, 5, 7)  # of the eight numbers that are stored where there are tops
    zero: ClassVar = (128, 0, 128, 0, 128, 0, 0)
    limit: ClassVar = (127, 255, 127, 255, 127, 255, 255)
    share: ClassVar = 32  # rows of a top

    @classmethod
    def quantize_numbers(cls, numbers: Tensor) -> dict[str, Tensor]:
        """The buffers scales and tops for numbers [out, blocks, 8], the seventh of which are not stored."""
        kept = numbers[..., cls.kinds]
        rows, zero, limit = len(kept), torch.tensor(cls.zero).to(kept), torch.tensor(cls.limit).to(kept)
        padded = torch.nn.functional.pad(kept.abs(), (0, 0, 0, 0, 0, -rows % cls.share))
        tops = padded.view(-1, cls.share, *kept.shape[1:]).amax(1).half()
        step = tops.float().repeat_interleave(cls.share, 0)[:rows] / limit
        codes = torch.where(step > 0, kept / step.clamp_min(1e-30), 0.0).round() + zero
        return {"scales": codes.clamp(0, 255).to(torch.uint8), "tops": tops}

    def numbers(self) -> Tensor:
        """(mean, scale) of the four parts, fp32 [out, blocks, 8]."""
        scales = self.buffers["scales"]
        if "tops" not in self.buffers:
            return scales.float()
        zero, limit = (torch.tensor(v, device=scales.device, dtype=torch.float32) for v in (self.zero, self.limit))
        step = self.buffers["tops"].float().repeat_interleave(self.share, 0)[: len(scales)] / limit
        found = torch.zeros(*scales.shape[:2], 8, device=scales.device)
        found[..., self.kinds] = (scales.float() - zero) * step
        return found

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, columns = self.shape
        salient = unpack_bits(self.buffers["salient"], (columns,))
        count = int(salient.sum())
        flags = torch.zeros(rows, columns, dtype=torch.bool, device=salient.device)
        flags[:, ~salient] = unpack_bits(self.buffers["flags"], (rows, columns - count))
        signs = unpack_bits(self.buffers["signs"], (rows, columns)).float() * 2 - 1
        residual = torch.zeros(rows, columns, device=salient.device)
        residual[:, salient] = unpack_bits(self.buffers["residual_signs"], (rows, count)).float() * 2 - 1
        scales = self.numbers()
        block = torch.arange(columns, device=salient.device) // int(self.meta["block"])
        mean = [scales[:, block, 2 * i] for i in range(4)]
        step = [scales[:, block, 2 * i + 1] for i in range(4)]
        plain = torch.where(flags, mean[1] + step[1] * signs, mean[0] + step[0] * signs)
        double = mean[2] + step[2] * signs + mean[3] + step[3] * residual
        return torch.where(salient, double, plain).to(dtype)

    @property
    def nominal_bits(self) -> float:
        """1 + share of salient weights (BiLLM, equation 14); the paper rounds it to 1.08."""
        columns = self.shape[1]
        return 1.0 + int(unpack_bits(self.buffers["salient"], (columns,)).sum()) / columns
