"""BiLLM's binary weights: signs in three groups per row and block of columns."""

from typing import ClassVar

import torch
from torch import Tensor

from luq.formats.base import PackedWeight
from luq.formats.packing import unpack_bits


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
    kinds: ClassVar = (
        0,
        1,
        2,
        3,
        4,
        5,
        7,
    )  # of the eight numbers that are stored where there are tops
    zero: ClassVar = (128, 0, 128, 0, 128, 0, 0)
    limit: ClassVar = (127, 255, 127, 255, 127, 255, 255)
    share: ClassVar = 32  # rows of a top

    @classmethod
    def quantize_numbers(cls, numbers: Tensor) -> dict[str, Tensor]:
        """The buffers scales and tops for numbers [out, blocks, 8], the seventh of which are not stored."""
        kept = numbers[..., cls.kinds]
        rows, zero, limit = (
            len(kept),
            torch.tensor(cls.zero).to(kept),
            torch.tensor(cls.limit).to(kept),
        )
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
        zero, limit = (
            torch.tensor(v, device=scales.device, dtype=torch.float32)
            for v in (self.zero, self.limit)
        )
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
        residual[:, salient] = (
            unpack_bits(self.buffers["residual_signs"], (rows, count)).float() * 2 - 1
        )
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
