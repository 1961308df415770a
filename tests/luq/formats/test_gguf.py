"""llama.cpp's blocks, against the `gguf` package."""

import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from luq.config.quantizer.gguf import GGUF_TYPES
from luq.errors import StoreError
from luq.formats.gguf import KINDS, GgufWeight
from luq.formats.gguf_blocks import BlockType
from luq.formats.gguf_codebooks import CODEBOOK_TYPES, CodebookType, MovedType
from tests.luq.formats.weights import GENERATOR, blocks_of_gguf, gguf_weight

KIND = BlockType | CodebookType
ALL = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
# Digits of base 3 are written in one way, and read from any byte.
PACKED_BY_PLACE = [kind for name, kind in KINDS.items() if name != "tq1_0"]
CODEBOOKS = pytest.mark.parametrize("kind", CODEBOOK_TYPES.values(), ids=CODEBOOK_TYPES)


def decoded(blocks: torch.Tensor, kind: KIND) -> torch.Tensor:
    """By the package."""
    return torch.from_numpy(quants.dequantize(blocks.numpy(), by_package(kind)))


def by_package(kind: KIND) -> GGMLQuantizationType:
    return GGMLQuantizationType[kind.name.upper()]


@ALL
def test_blocks_are_as_large_as_the_package_says(kind: KIND) -> None:
    assert GGML_QUANT_SIZES[by_package(kind)] == (kind.weights, kind.bytes)


def test_the_tiers_know_the_sizes_of_blocks() -> None:
    assert {name: (kind.bits, kind.weights) for name, kind in GGUF_TYPES.items()} == {
        name: (kind.stored_bits, kind.weights) for name, kind in KINDS.items()
    }


@ALL
def test_any_bytes_mean_what_they_mean_to_the_package(kind: KIND) -> None:
    blocks = blocks_of_gguf(200, kind)
    assert torch.equal(kind.decode(blocks), decoded(blocks, kind))


@pytest.mark.parametrize("kind", PACKED_BY_PLACE, ids=lambda kind: kind.name)
def test_any_bytes_are_written_as_they_were_read(kind: KIND) -> None:
    blocks = blocks_of_gguf(200, kind)
    assert torch.equal(kind.write(kind.read(blocks)), blocks)


@pytest.mark.parametrize("name", ["tq1_0", "tq2_0", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_what_the_package_writes_is_read_and_written_alike(name: str) -> None:
    kind = KINDS[name]
    values = torch.randn(30, kind.weights, generator=GENERATOR)
    blocks = torch.from_numpy(quants.quantize(values.numpy(), by_package(kind)))
    numbers = kind.read(blocks)
    assert int(numbers.codes.max()) < kind.levels
    assert torch.equal(kind.write(numbers), blocks)


@ALL
def test_rows_are_decoded_alone(kind: KIND) -> None:
    weight = gguf_weight(7, 2 * kind.weights, kind.name)
    values = weight.dequantize()
    assert values.shape == (7, 2 * kind.weights)
    index = torch.tensor([5, 0, 5])
    assert torch.equal(weight.rows(index), values[index])


@ALL
def test_all_bytes_are_counted(kind: KIND) -> None:
    weight = gguf_weight(6, 512, kind.name)
    assert weight.ledger() == {"blocks": 6 * 512 * kind.stored_bits // 8}
    assert weight.nominal_bits < kind.stored_bits


def test_nominal_bits_are_those_of_codes_alone() -> None:
    names = {
        "q8_0": 8,
        "q6_k": 6,
        "q5_k": 5,
        "q4_k": 4,
        "q3_k": 3,
        "q2_k": 2,
        "iq4_nl": 4,
        "iq4_xs": 4,
    }
    assert {name: gguf_weight(2, 256, name).nominal_bits for name in names} == names
    assert gguf_weight(2, 256, "tq1_0").nominal_bits == pytest.approx(1.585, abs=1e-3)


@CODEBOOKS
def test_points_are_those_of_the_package(kind: CodebookType) -> None:
    quant = quants._type_traits[by_package(kind)]
    quant.init_grid()
    points = torch.from_numpy(quant.grid).reshape(-1, kind.point)
    assert torch.equal(kind.points, points.to(torch.int32))


@CODEBOOKS
def test_codes_of_a_codebook_are_whole_numbers_in_steps(kind: CodebookType) -> None:
    blocks = blocks_of_gguf(50, kind)
    numbers = kind.read(blocks)
    step = numbers.scale.float()[:, None] * numbers.sub_scales
    means = decoded(blocks, kind).view(50, kind.subs, -1) / step[:, :, None]
    assert torch.equal(means.round().to(torch.int8).view(50, -1), numbers.codes)
    largest = 9 if isinstance(kind, MovedType) else max(kind.numbers)
    assert int(numbers.codes.abs().max()) == largest
    assert set(numbers.sub_scales.flatten().tolist()) <= set(kind.multiples.tolist())


def test_nominal_bits_of_codebooks_are_those_of_points_signs_and_moves() -> None:
    nominal = {
        "iq3_s": 3.25,
        "iq3_xxs": 2.875,
        "iq2_s": 2.25,
        "iq2_xs": 2,
        "iq2_xxs": 1.875,
        "iq1_m": 1.5,
        "iq1_s": 1.40625,
    }
    assert {name: kind.nominal_bits for name, kind in CODEBOOK_TYPES.items()} == nominal


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    blocks = torch.zeros(4, 84, dtype=torch.uint8)
    with pytest.raises(StoreError, match="whole blocks of 256 weights of q2_k"):
        GgufWeight({"blocks": blocks}, (4, 255), type="q2_k")


def test_a_row_of_another_number_of_bytes_is_refused() -> None:
    with pytest.raises(
        StoreError, match=r"'blocks' must be uint8 \[4, 84\], but is uint8 \[4, 83\]"
    ):
        GgufWeight({"blocks": torch.zeros(4, 83, dtype=torch.uint8)}, (4, 256), type="q2_k")


@pytest.mark.parametrize("name", ["q4", "Q4_K", "", 12, None, ["q4_k"]])
def test_an_unknown_type_is_refused(name: object) -> None:
    weight = gguf_weight(4, 256, "q4_k")
    with pytest.raises(StoreError, match="meta 'type' must be one of q8_0, "):
        GgufWeight(weight.buffers, weight.shape, type=name)
    with pytest.raises(StoreError, match="meta 'type' must be one of q8_0, "):
        GgufWeight(weight.buffers, weight.shape)
