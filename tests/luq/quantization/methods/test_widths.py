"""Linears whose columns no group or block divides: the last one is shorter, stored and counted."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luq.config import (
    ArbRcTier,
    BillmTier,
    GptqTier,
    RtnTier,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.formats import kernels
from luq.formats.base import PackedWeight
from luq.formats.layer_file import layer_size, read_layer, write_layer
from luq.quantization.methods import make_quantizer
from tests.conftest import correlated, loss
from tests.luq.formats import (
    test_binary,
    test_integer,
    test_row_column,
    test_ternary,
    test_trellis,
)
from tests.luq.formats.weights import copies

TIERS: dict[str, TierConfig] = {
    "rtn3": RtnTier(bits=3),
    "rtn2, symmetric, clip search": RtnTier(bits=2, symmetric=True, clip_steps=8),
    "gptq3": GptqTier(bits=3),
    "gptq4, clip search on the way": GptqTier(bits=4, clip_steps=8),
    "gptq2, act-order": GptqTier(
        bits=2, act_order=True, static_groups=True, clip_steps=8, descent=1
    ),
    "gptq8, symmetric, act-order": GptqTier(bits=8, symmetric=True, act_order=True),
    "ternary": TernaryTier(clip_steps=8),
    "ternary, act-order": TernaryTier(act_order=True, static_groups=True, descent=1),
    "arb_rc": ArbRcTier(),
    "billm": BillmTier(),
    "billm, act-order": BillmTier(act_order=True),
    "billm_faithful": BillmTier(faithful=True),
    "trellis2": TrellisTier(bits=2, window=8),
}
GROUPED = {name: tier for name, tier in TIERS.items() if name != "trellis2"}
DECODERS: dict[str, Callable[[Any], Tensor]] = {
    "integer": test_integer.decode,
    "ternary": test_ternary.decode,
    "binary": test_binary.decode,
    "row_column": test_row_column.decode,
    "trellis": test_trellis.decode,
}


def sized(tier: TierConfig, size: int) -> TierConfig:
    """The tier with so many columns per group, or per block where it has no groups."""
    values: dict[str, Any] = {"block": size}
    if hasattr(tier, "group_size"):
        values = {"group_size": size}
    return replace(tier, **values)


@cache
def linear(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of its inputs."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    return weight, correlated(600, columns, seed=1)


def quantize(tier: TierConfig, rows: int, columns: int) -> PackedWeight:
    weight, hessian = linear(rows, columns)
    return make_quantizer(tier).quantize(weight, None if tier.data_free else hessian)


def assert_stored(packed: PackedWeight) -> None:
    """What is stored means the same bit by bit, by torch, by C and in products."""
    decoded = packed.dequantize()
    assert torch.equal(decoded, DECODERS[packed.format](packed))
    assert torch.equal(kernels.unpack(packed, torch.float32), decoded)
    inputs = torch.randn(2, packed.shape[1], generator=torch.Generator().manual_seed(0))
    products = kernels.linear(inputs, packed)
    assert products is None or torch.allclose(products, inputs @ decoded.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", TIERS)
@given(
    rows=st.integers(1, 11),
    columns=st.integers(1, 80),
    size=st.one_of(st.integers(1, 90), st.sampled_from([16, 32, 64])),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_rows_columns_and_groups_are_stored_and_decoded(
    name: str, rows: int, columns: int, size: int
) -> None:
    tier = TIERS[name]
    if name in GROUPED:
        tier = sized(tier, size)
    packed = quantize(tier, rows, columns)
    assert packed.shape == (rows, columns)
    assert_stored(packed)


# columns, and columns of a group: 4 x 128 + 64, 128 + 64, 13 x 64 + 28, 128 + 2, 100
WIDTHS = [(576, 128), (192, 128), (860, 64), (130, 128), (100, 128)]
CASES = [(name, columns, size) for name in TIERS for columns, size in WIDTHS]
CASES += [("rtn3", 3420, 128), ("gptq2, act-order", 3420, 128)]  # 26 x 128 + 92


@pytest.mark.parametrize(("name", "columns", "size"), CASES)
def test_widths_of_real_models(name: str, columns: int, size: int, tmp_path: Path) -> None:
    tier = TIERS[name]
    if name in GROUPED:
        tier = sized(tier, size)
    rows = 3 if columns > 1000 else 9
    packed = quantize(tier, rows, columns)
    assert_stored(packed)
    write_layer(tmp_path, copies(packed))
    layer = read_layer(tmp_path)
    measured = layer_size(tmp_path, layer)
    assert sum(measured.ledger.values()) == measured.bytes
    assert measured.nominal_bits == pytest.approx(packed.nominal_bits)
    for restored in layer.values():
        assert torch.equal(restored.dequantize(), packed.dequantize())


# Bytes of a row of 576 columns in groups of 128: of codes, of the masks and of the numbers of its
# five groups. In one column of 16 arb_rc has a second sign, also in the short block.
STORED: dict[str, tuple[float, float, dict[str, float]]] = {
    "rtn3": (3, 576 * 3 / 8, {"scales": 10, "zeros": 5 * 3 / 8}),
    "gptq8, symmetric, act-order": (8, 576, {"scales": 10}),
    "ternary": (1.585, 576 / 5, {"scales": 10}),
    "arb_rc": (1 + 36 / 576, (576 + 36) / 8, {"scales": 5 * 4 + (576 + 36) * 2 / 40, "masks": 1.8}),
    "trellis2": (2, 576 * 2 / 8 * 48 / 40, {"scales": 2 * 3 / 40}),
}


@pytest.mark.parametrize("name", STORED)
def test_the_short_group_is_counted(name: str) -> None:
    nominal, codes, others = STORED[name]
    packed = quantize(TIERS[name], 40, 576)
    assert packed.nominal_bits == pytest.approx(nominal, abs=1e-3)
    expected = {"codes": codes, **others}
    assert packed.ledger() == {part: round(40 * size) for part, size in expected.items()}


@pytest.mark.parametrize(("faithful", "numbers"), [(False, 7), (True, 16)])
def test_a_short_block_of_billm_has_numbers_of_its_own(faithful: bool, numbers: int) -> None:
    packed = quantize(BillmTier(faithful=faithful), 64, 576)
    tops = 0 if faithful else 2 * 5 * 7 * 2
    assert packed.ledger()["scales"] == 64 * 5 * numbers + tops
    assert 1 < packed.nominal_bits < 1.4


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_wider_than_the_columns_is_one_group_per_row(name: str) -> None:
    wide = quantize(sized(TIERS[name], 128), 9, 100)
    exact = quantize(sized(TIERS[name], 100), 9, 100)
    assert wide.meta == exact.meta
    assert "group_size" not in wide.meta
    assert wide.buffers.keys() == exact.buffers.keys()
    for buffer, tensor in wide.buffers.items():
        assert torch.equal(tensor, exact.buffers[buffer])


# columns, a size that does not divide them, and a size that does: somewhat wider groups
SIMILAR = [(576, 128, 144), (192, 128, 192), (130, 128, 130), (864, 200, 216)]


@pytest.mark.parametrize(("columns", "size", "wider"), SIMILAR)
@pytest.mark.parametrize("name", GROUPED)
def test_short_groups_are_no_worse_than_groups_that_divide(
    name: str, columns: int, size: int, wider: int
) -> None:
    weight, hessian = linear(33, columns)
    short = loss(weight, quantize(sized(TIERS[name], size), 33, columns).dequantize(), hessian)
    even = loss(weight, quantize(sized(TIERS[name], wider), 33, columns).dequantize(), hessian)
    assert short < 1.06 * even


@pytest.mark.parametrize("columns", [100, 130, 576])
def test_trellis_codes_of_any_width_beat_scalar_codes(columns: int) -> None:
    weight, hessian = linear(33, columns)
    trellis = loss(weight, quantize(TrellisTier(bits=2), 33, columns).dequantize(), hessian)
    scalar = loss(weight, quantize(GptqTier(bits=2), 33, columns).dequantize(), hessian)
    assert trellis < 0.7 * scalar
