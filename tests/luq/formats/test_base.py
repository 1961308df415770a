"""What every format does alike: it refuses buffers and numbers that are not its own."""

import math

import pytest
import torch

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.known import FORMATS, restore
from tests.luq.formats.weights import (
    binaries,
    coded,
    damaged,
    floats,
    gguf_weight,
    integers,
    row_columns,
    ternaries,
)

WEIGHTS: dict[str, PackedWeight] = {
    "float16": floats(9, 20),
    "integer": integers(9, 20, 3, 2, symmetric=True),
    "integer with zeros": integers(9, 20, 3, 2, symmetric=False),
    "ternary": ternaries(9, 20, 2),
    "binary": binaries(9, 20, 8, 0.3),
    "binary quantized twice": binaries(40, 20, 8, 0.3, twice=True),
    "row_column": row_columns(9, 20, 8, 0.3),
    "trellis": coded(20, 40, 2),
    "gguf": gguf_weight(9, 256, "q4_k"),
}
BUFFERS = [(name, buffer) for name, weight in WEIGHTS.items() for buffer in weight.buffers]


def test_every_format_is_tested() -> None:
    assert {weight.format for weight in WEIGHTS.values()} == set(FORMATS)
    assert all(kind.format == name for name, kind in FORMATS.items())


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_stored_weight_comes_back(name: str) -> None:
    weight = WEIGHTS[name]
    again = restore(weight.format, weight.buffers, weight.shape, **weight.meta)
    assert torch.equal(again.dequantize(), weight.dequantize())
    again.check_content()


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_skeleton_without_content_is_checked_too(name: str) -> None:
    skeleton = WEIGHTS[name].to("meta")
    assert skeleton.ledger() == WEIGHTS[name].ledger()
    first = next(iter(skeleton.buffers))
    with pytest.raises(StoreError, match=first):
        damaged(skeleton, first, skeleton.buffers[first].unsqueeze(0))


@pytest.mark.parametrize(("name", "buffer"), BUFFERS)
def test_a_buffer_of_another_type_is_refused(name: str, buffer: str) -> None:
    stored = WEIGHTS[name].buffers[buffer]
    for dtype in {torch.int32, torch.float32, torch.int8}:
        with pytest.raises(StoreError, match=f"format {WEIGHTS[name].format}.*'{buffer}'"):
            damaged(WEIGHTS[name], buffer, stored.to(dtype))


@pytest.mark.parametrize(("name", "buffer"), BUFFERS)
def test_a_buffer_of_another_shape_is_refused(name: str, buffer: str) -> None:
    stored = WEIGHTS[name].buffers[buffer]
    for dimension in range(stored.dim()):
        doubled = torch.cat([stored, stored, stored], dimension)
        with pytest.raises(StoreError, match="must be"):
            damaged(WEIGHTS[name], buffer, doubled)
        with pytest.raises(StoreError, match="must be"):
            damaged(WEIGHTS[name], buffer, stored.narrow(dimension, 0, 0))
    for tensor in (stored.unsqueeze(0), stored.reshape(-1)[0]):
        with pytest.raises(StoreError, match=buffer):
            damaged(WEIGHTS[name], buffer, tensor)


@pytest.mark.parametrize(("name", "buffer"), BUFFERS)
def test_a_missing_buffer_is_refused(name: str, buffer: str) -> None:
    if buffer == "zeros":
        pytest.skip("a symmetric grid has none")
    match = "scales" if buffer == "tops" else f"'{buffer}' must be there, but is missing"
    with pytest.raises(StoreError, match=match):
        damaged(WEIGHTS[name], buffer, None)


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_unknown_buffer_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="'extra' must be absent"):
        damaged(WEIGHTS[name], "extra", torch.zeros(1))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    ("number", "value"), [("surplus", 1), ("damping", -0.1), ("damping", "a"), ("damping", True)]
)
def test_unknown_and_senseless_numbers_are_refused(name: str, number: str, value: object) -> None:
    weight = WEIGHTS[name]
    with pytest.raises(StoreError, match=number):
        type(weight)(weight.buffers, weight.shape, **{**weight.meta, number: value})


@pytest.mark.parametrize("damping", [math.nan, math.inf])
def test_damping_is_finite(damping: float) -> None:
    weight = WEIGHTS["integer"]
    with pytest.raises(StoreError, match="damping"):
        type(weight)(weight.buffers, weight.shape, damping=damping)
    assert type(weight)(weight.buffers, weight.shape, damping=0.5).meta == {"damping": 0.5}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_linear_has_rows_and_columns(name: str) -> None:
    weight = WEIGHTS[name]
    for shape in ((0, weight.shape[1]), (weight.shape[0], -1)):
        with pytest.raises(StoreError, match="shape"):
            type(weight)(weight.buffers, shape, **weight.meta)


@pytest.mark.parametrize(
    ("name", "number", "values"),
    [
        ("binary", "block", (-8, 0, 21, 8.0, "8", None, True)),
        ("row_column", "block", (-8, 0, 21, 8.0, "8", None, True)),
        ("trellis", "bits", (-1, 0, 5, 99, 2.0, True, None)),
        ("trellis", "window", (1, 17, 40, -12, 12.0)),
        ("trellis", "seed", (-1, 2**31, 1.5)),
    ],
)
def test_numbers_out_of_range_are_refused(
    name: str, number: str, values: tuple[object, ...]
) -> None:
    weight = WEIGHTS[name]
    for value in values:
        with pytest.raises(StoreError, match=f"'{number}' must be a whole number"):
            type(weight)(weight.buffers, weight.shape, **{**weight.meta, number: value})
    without = {key: value for key, value in weight.meta.items() if key != number}
    with pytest.raises(StoreError, match=number):
        type(weight)(weight.buffers, weight.shape, **without)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_ledger_is_the_bytes_of_the_buffers(name: str) -> None:
    weight = WEIGHTS[name]
    total = sum(buffer.numel() * buffer.element_size() for buffer in weight.buffers.values())
    assert sum(weight.ledger().values()) == total
    for buffer, stored in weight.buffers.items():
        assert weight.ledger()[weight.classes[buffer]] >= stored.numel() * stored.element_size()


@pytest.mark.parametrize(
    ("rows", "columns", "block"), [(9, 20, 1), (9, 20, 20)], ids=["a column", "all columns"]
)
def test_a_block_may_be_as_small_and_as_large_as_columns_go(
    rows: int, columns: int, block: int
) -> None:
    for weight in (binaries(rows, columns, block, 0.3), row_columns(rows, columns, block, 0.3)):
        assert weight.dequantize().shape == (rows, columns)


def test_the_seed_may_be_zero() -> None:
    weight = WEIGHTS["trellis"]
    again = type(weight)(weight.buffers, weight.shape, **{**weight.meta, "seed": 0})
    assert not torch.equal(again.dequantize(), weight.dequantize())
