"""BiLLM's binary weights: signs in three groups per row and block of columns."""

from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8
from torch import Tensor

from luq.formats.base import BufferSpec, PackedWeight
from luq.formats.kernels import cpu, cpu_weights
from luq.formats.packing import BITS_PER_BYTE, bytes_of_bits, unpack_bits

NUMBERS = 8  # mean and scale of four parts
# Which of the eight are stored where there are tops: the residual's mean is zero.
STORED_NUMBERS = (0, 1, 2, 3, 4, 5, 7)
ZERO_CODES = (128, 0, 128, 0, 128, 0, 0)  # the byte that means zero: means have both signs
CODE_LIMITS = (127, 255, 127, 255, 127, 255, 255)  # steps from zero to the top
ROWS_OF_TOP = 32


class SalientColumns(NamedTuple):
    """Which columns are salient."""

    mask: UInt8[Tensor, " in"]
    rank: Int32[Tensor, " in"]  # columns of the same kind that stand before a column
    places: Int64[Tensor, " salient"]
    other_places: Int64[Tensor, " others"]


class BinaryWeight(PackedWeight):
    """Signs in three groups per row and block of columns, each with a mean and a scale.

    Columns marked in `salient` are stored as two binary orders; the others are split by `flags`
    into a concentrated and a sparse group of one order. A weight is mean + scale * sign, in salient
    columns the sum of two such terms.

    Buffers, all bits packed: signs [out, in], salient [in], residual_signs [out, salient columns],
    flags [out, other columns]; scales fp16 [out, blocks, 8] holds (mean, scale) of the
    concentrated, the sparse, the salient and the residual part. Quantized twice, scales are bytes
    [out, blocks, 7], without the residual's mean, which is zero, and tops fp16
    [ceil(out / 32), blocks, 7] the largest magnitudes of 32 rows; means count from 128 in 127ths,
    scales from 0 in 255ths. Meta: block, columns of a block.
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
    numbers_of_meta: ClassVar = ("block",)

    def expected_buffers(self) -> dict[str, BufferSpec]:
        rows, columns = self.shape
        blocks = -(-columns // self.block)
        residual_bytes = self.free_dimension("residual_signs", 0, dimensions=1)
        flag_bytes = self.free_dimension("flags", 0, dimensions=1)
        self._check_mask_sizes(residual_bytes, flag_bytes)
        specs = {
            "signs": BufferSpec(torch.uint8, (bytes_of_bits(rows * columns),)),
            "salient": BufferSpec(torch.uint8, (bytes_of_bits(columns),)),
            "flags": BufferSpec(torch.uint8, (flag_bytes,)),
            "residual_signs": BufferSpec(torch.uint8, (residual_bytes,)),
            "scales": BufferSpec(torch.float16, (rows, blocks, NUMBERS)),
        }
        if "tops" in self.buffers:
            stored = len(STORED_NUMBERS)
            shares = -(-rows // ROWS_OF_TOP)
            specs["scales"] = BufferSpec(torch.uint8, (rows, blocks, stored))
            specs["tops"] = BufferSpec(torch.float16, (shares, blocks, stored))
        return specs

    def _check_mask_sizes(self, residual_bytes: int, flag_bytes: int) -> None:
        """Both sizes must belong to one number of salient columns; which one, only content says."""
        rows, columns = self.shape
        # residual_bytes = ceil(rows * count / 8) solved for count
        least = (BITS_PER_BYTE * (residual_bytes - 1)) // rows + 1 if residual_bytes else 0
        most = min(BITS_PER_BYTE * residual_bytes // rows, columns)
        for count in range(least, most + 1):
            if bytes_of_bits(rows * (columns - count)) == flag_bytes:
                return
        got = f"{residual_bytes} and {flag_bytes} bytes"
        expected = f"as long as some number of salient columns of {columns} makes them"
        raise self.refused("buffers 'residual_signs' and 'flags'", expected, got)

    def check_content(self) -> None:
        rows, columns = self.shape
        count = int(self._salient().sum())
        expected_sizes = {
            "residual_signs": bytes_of_bits(rows * count),
            "flags": bytes_of_bits(rows * (columns - count)),
        }
        for name, size in expected_sizes.items():
            if len(self.buffers[name]) != size:
                expected = f"{size} bytes for the {count} columns that buffer 'salient' marks"
                raise self.refused(f"buffer {name!r}", expected, len(self.buffers[name]))

    @property
    def block(self) -> int:
        """Columns of a block."""
        return self.meta_number("block", 1, self.shape[1])

    def _salient(self) -> Bool[Tensor, " in"]:
        return unpack_bits(self.buffers["salient"], (self.shape[1],))

    @staticmethod
    def quantize_numbers(numbers: Float32[Tensor, "out blocks 8"]) -> dict[str, Tensor]:
        """The buffers scales and tops for numbers of which the seventh is zero and not stored.

        Args:
            numbers: (mean, scale) of the four parts, fp32 [out, blocks, 8].
        """
        stored = numbers[..., STORED_NUMBERS]
        rows = len(stored)
        zero_codes = torch.tensor(ZERO_CODES).to(stored)
        limits = torch.tensor(CODE_LIMITS).to(stored)
        padding = (0, 0, 0, 0, 0, -rows % ROWS_OF_TOP)
        padded = torch.nn.functional.pad(stored.abs(), padding)
        tops = padded.view(-1, ROWS_OF_TOP, *stored.shape[1:]).amax(1).half()
        steps = _steps(tops, rows, limits)
        # number = (code - zero code) step, of which the code is rounded;
        # the clamp only avoids 0 / 0, which torch.where discards
        codes = torch.where(steps > 0, stored / steps.clamp_min(1e-30), 0.0).round() + zero_codes
        return {"scales": codes.clamp(0, 255).to(torch.uint8), "tops": tops}

    @staticmethod
    def decode_numbers(buffers: dict[str, Tensor]) -> Float32[Tensor, "out blocks 8"]:
        """(mean, scale) of the four parts, from the buffers scales and, if there is one, tops."""
        scales = buffers["scales"]
        if "tops" not in buffers:
            return scales.float()
        zero_codes = torch.tensor(ZERO_CODES, device=scales.device, dtype=torch.float32)
        limits = torch.tensor(CODE_LIMITS, device=scales.device, dtype=torch.float32)
        steps = _steps(buffers["tops"], len(scales), limits)
        numbers = torch.zeros(*scales.shape[:2], NUMBERS, device=scales.device)
        numbers[..., STORED_NUMBERS] = (scales.float() - zero_codes) * steps
        return numbers

    def numbers(self) -> Float32[Tensor, "out blocks 8"]:
        """(mean, scale) of the four parts, fp32 [out, blocks, 8]."""
        return self.decode_numbers(self.buffers)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        rows, columns = self.shape
        salient, _, places, other_places = self._salient_columns
        flags = torch.zeros(rows, columns, dtype=torch.bool, device=salient.device)
        flags[:, other_places] = unpack_bits(self.buffers["flags"], (rows, len(other_places)))
        sign = unpack_bits(self.buffers["signs"], (rows, columns)).float() * 2 - 1
        residual_bits = unpack_bits(self.buffers["residual_signs"], (rows, len(places)))
        residual_sign = torch.zeros(rows, columns, device=salient.device)
        residual_sign[:, places] = residual_bits.float() * 2 - 1
        block = torch.arange(columns, device=salient.device) // self.block
        numbers = self.numbers()
        mean = [numbers[:, block, 2 * part] for part in range(4)]
        scale = [numbers[:, block, 2 * part + 1] for part in range(4)]
        concentrated = mean[0] + scale[0] * sign
        sparse = mean[1] + scale[1] * sign
        plain = torch.where(flags, sparse, concentrated)
        double = mean[2] + scale[2] * sign + mean[3] + scale[3] * residual_sign
        return torch.where(salient.bool(), double, plain).to(dtype)

    @property
    def nominal_bits(self) -> float:
        """1 + share of salient weights (BiLLM, equation 14); the paper rounds it to 1.08."""
        return 1.0 + int(self._salient().sum()) / self.shape[1]

    def cpu_kernel(self) -> cpu_weights.BinaryKernel | None:
        rows = self.shape[0]
        # with fewer rows several counts of columns have residual signs of the same bytes
        library = cpu.library_for(*self.buffers.values()) if rows >= BITS_PER_BYTE else None
        if library is None:
            return None
        residual_signs = self.buffers["residual_signs"]
        return cpu_weights.BinaryKernel(
            library,
            self.shape,
            self.block,
            BITS_PER_BYTE * residual_signs.numel() // rows,
            self.buffers["signs"],
            self.buffers["salient"],
            self.buffers["flags"],
            residual_signs,
            self.buffers["scales"],
            self.buffers.get("tops"),
        )

    @cached_property
    def _salient_columns(self) -> SalientColumns:
        """Computed once: a GPU would have to be waited for."""
        salient = self._salient()
        # cumsum counts the column itself too
        rank = torch.where(salient, salient.cumsum(0), (~salient).cumsum(0)) - 1
        places = salient.nonzero()[:, 0]
        other_places = (~salient).nonzero()[:, 0]
        return SalientColumns(salient.to(torch.uint8), rank.int(), places, other_places)

    def gpu_linear(
        self, inputs: Float[Tensor, "tokens in"]
    ) -> Float32[Tensor, "tokens out"] | None:
        from luq.formats.kernels import gpu  # imports triton, which is optional

        return gpu.binary_linear(
            inputs,
            signs=self.buffers["signs"],
            flags=self.buffers["flags"],
            residual_signs=self.buffers["residual_signs"],
            salient=self._salient_columns.mask,
            rank=self._salient_columns.rank,
            salient_columns=len(self._salient_columns.places),
            numbers=self.numbers(),
            block=self.block,
        )


def _steps(
    tops: Float[Tensor, "shares blocks 7"], rows: int, limits: Float32[Tensor, "7"]
) -> Float32[Tensor, "out blocks 7"]:
    """What one step of a code means, for every row."""
    return tops.float().repeat_interleave(ROWS_OF_TOP, 0)[:rows] / limits
