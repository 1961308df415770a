"""What GGUF types hold exactly: blocks are decoded by the package `gguf` and compared bit for bit."""

import gguf
import pytest
import torch

from luq.config import GgufTier, TrellisTier
from luq.errors import ConfigError
from luq.export.gguf.forms import (
    Form,
    exact_form,
    nearest_tiers,
    recoded_form,
    size_of,
    stored_rows,
)
from luq.formats.base import PackedWeight
from luq.formats.float16 import FloatWeight
from luq.formats.gguf import KINDS, GgufWeight
from luq.formats.gguf_codebooks import CODEBOOK_TYPES
from luq.formats.integer import IntegerWeight
from luq.formats.packing import pack_codes, pack_trits
from luq.formats.ternary import TernaryWeight
from luq.quantization.methods import make_quantizer

ROWS = 3


def integers(bits: int, is_symmetric: bool, group_size: int, columns: int = 512) -> IntegerWeight:
    """Any codes, the least and the largest among them, with scales of both signs."""
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (ROWS, columns), generator=generator)
    codes[:, 0] = 0
    codes[:, 1] = 2**bits - 1
    groups = -(-columns // group_size)
    scales = torch.randn(ROWS, groups, generator=generator)
    buffers = {"codes": pack_codes(codes, bits), "scales": scales.half()}
    if not is_symmetric:
        zeros = torch.randint(2**bits, (ROWS, groups), generator=generator)
        zeros[0, 0] = 2**bits - 1
        zeros[1, 0] = 0
        buffers["zeros"] = pack_codes(zeros, bits)
    meta = {"group_size": group_size} if columns % group_size else {}
    return IntegerWeight(buffers, (ROWS, columns), **meta)


def ternaries(group_size: int) -> TernaryWeight:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(3, (ROWS, 512), generator=generator)
    scales = torch.rand(ROWS, 512 // group_size, generator=generator).half()
    return TernaryWeight({"codes": pack_trits(codes), "scales": scales}, (ROWS, 512))


def decoded(rows: torch.Tensor, form: Form) -> torch.Tensor:
    """By the package `gguf`."""
    kind = gguf.GGMLQuantizationType[form.type.upper()]
    return torch.from_numpy(gguf.quants.dequantize(rows.numpy(), kind))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (integers(2, False, 256), "q2_k"),
        (integers(2, True, 256), "q2_k"),
        (integers(2, False, 128), "q4_0"),
        (integers(3, True, 256), "q3_k"),
        (integers(3, True, 128), "q4_0"),
        (integers(3, False, 256), "q4_0"),
        (integers(4, True, 32), "q4_0"),
        (integers(4, True, 128), "q4_0"),
        (integers(4, False, 256), "q4_k"),
        (integers(4, False, 64), "q5_0"),
        (integers(5, True, 512), "q5_0"),
        (integers(5, False, 256), "q5_k"),
        (integers(5, False, 64), "q8_0"),
        (integers(6, True, 256), "q6_k"),
        (integers(6, True, 128), "q8_0"),
        (integers(7, False, 128), "q8_0"),
        (integers(8, True, 128), "q8_0"),
        (integers(4, True, 128, columns=576), "q4_0"),  # its last group is shorter
        (ternaries(256), "tq2_0"),
        (ternaries(128), "q4_0"),
    ],
)
def test_the_smallest_type_that_holds_a_grid_means_the_same(
    weight: PackedWeight, expected: str
) -> None:
    form = exact_form(weight)
    assert form == Form(expected)
    rows = stored_rows(weight, form)
    assert torch.equal(decoded(rows, form), weight.dequantize())
    assert rows.numel() == size_of(form, weight.shape)


@pytest.mark.parametrize(
    "weight", [integers(8, False, 128), integers(4, True, 48, 96), integers(4, True, 24, 72)]
)
def test_grids_that_no_type_holds(weight: PackedWeight) -> None:
    assert exact_form(weight) is None


def test_trellis_codes_have_no_form_and_blocks_are_their_own() -> None:
    values = torch.linspace(-1, 1, 512).view(2, 256)
    trellis = make_quantizer(TrellisTier(bits=2)).quantize(values, torch.eye(256))
    assert exact_form(trellis) is None
    tier = GgufTier("q3_k", clip_steps=0)
    blocks = make_quantizer(tier).quantize(values, torch.eye(256))
    assert exact_form(blocks) == Form("q3_k")
    assert stored_rows(blocks, Form("q3_k")) is blocks.buffers["blocks"]


@pytest.mark.parametrize("name", CODEBOOK_TYPES)
def test_points_of_codebooks_are_written_as_they_are_and_any_weight_is_coded_so(name: str) -> None:
    values = torch.linspace(-1, 1, 512).view(2, 256)
    form = recoded_form(256, name)
    weight = GgufWeight(
        {"blocks": stored_rows(integers(8, False, 128), form)}, (ROWS, 512), type=name
    )
    assert exact_form(weight) == Form(name)
    rows = stored_rows(weight, Form(name))
    assert rows is weight.buffers["blocks"]
    assert torch.equal(decoded(rows, form), weight.dequantize())
    plain = FloatWeight({"weight": values.half()}, (2, 256))
    error = (decoded(stored_rows(plain, form), form) - values).norm() / values.norm()
    assert error < 0.45


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "f16"), (torch.bfloat16, "bf16")])
def test_numbers_stay_numbers(dtype: torch.dtype, name: str) -> None:
    weight = FloatWeight({"weight": torch.ones(2, 5).to(dtype)}, (2, 5))
    form = exact_form(weight)
    assert form == Form(name)
    assert form.bits == 16
    assert torch.equal(stored_rows(weight, form), weight.buffers["weight"])


def test_what_is_coded_again_is_near() -> None:
    weight = integers(8, False, 128)
    form = recoded_form(512, "q6_k")
    assert form == Form("q6_k", is_recoded=True)
    meant = decoded(stored_rows(weight, form), form)
    error = (meant - weight.dequantize()).norm() / weight.dequantize().norm()
    assert 0.001 < error < 0.02


def test_rows_that_are_no_whole_blocks_get_llama_cpps_type_for_them() -> None:
    assert recoded_form(384, "q4_k") == Form("q5_0", is_recoded=True)
    with pytest.raises(
        ConfigError, match=r"--recode q4_k would code again has rows of 100 weights"
    ):
        recoded_form(100, "q4_k")


def test_tiers_next_to_some_bits() -> None:
    assert nearest_tiers(2.0, 256) == ["iq1_m", "tq2_0"]
    assert nearest_tiers(3.1, 512) == ["iq3_xxs", "q3_k"]
    assert nearest_tiers(2.0, 384) == ["q4_0"]
    assert nearest_tiers(12.0, 384) == ["q8_0"]
    assert nearest_tiers(2.0, 100) == []


def test_every_type_is_one_of_the_packages() -> None:
    for kind in KINDS.values():
        sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name.upper()]]
        assert sizes == (kind.weights, kind.bytes)
