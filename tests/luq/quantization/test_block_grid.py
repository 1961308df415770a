"""The numbers of llama.cpp's blocks, searched."""

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luq.formats.gguf_blocks import BLOCK_TYPES, BlockType
from luq.quantization import block_grid
from luq.quantization.block_grid import BlockGrid, fit, nearest_codes

KINDS = pytest.mark.parametrize("kind", BLOCK_TYPES.values(), ids=BLOCK_TYPES)
SUPER = [kind for kind in BLOCK_TYPES.values() if kind.sub_scales]


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def groups_of(kind: BlockType, columns: int) -> Tensor:
    return torch.arange(columns) // kind.group


def rounded(weight: Tensor, grid: BlockGrid) -> Tensor:
    """The nearest values."""
    group = groups_of(grid.kind, weight.shape[1])
    return grid.decode(grid.encode(weight, group), group)


def error(weight: Tensor, grid: BlockGrid, importance: Tensor) -> float:
    return float(((rounded(weight, grid) - weight).square() * importance).sum())


@KINDS
@pytest.mark.parametrize("steps", [0, 5])
def test_what_is_stored_is_what_was_meant(kind: BlockType, steps: int) -> None:
    weight = normal(5, 512)
    weight[0, :256] = 0
    weight[1] *= 1e-3
    weight[2] *= 100
    weight[3] = weight[3].abs()
    grid = fit(kind, weight, torch.ones(512), steps)
    group = groups_of(kind, 512)
    codes = grid.encode(weight, group)
    assert 0 <= int(codes.min()) <= int(codes.max()) < kind.levels
    packed = grid.pack(codes, damping=0.01)
    assert torch.equal(packed.dequantize(), grid.decode(codes, group))
    assert packed.meta == {"type": kind.name, "damping": 0.01}


@KINDS
def test_codes_are_the_nearest(kind: BlockType) -> None:
    weight = normal(3, 256)
    grid = fit(kind, weight, torch.ones(256), 3)
    group = groups_of(kind, 256)
    every = torch.stack(
        [grid.decode(torch.full_like(weight, q), group) for q in range(kind.levels)]
    )
    least = (every - weight).abs().amin(0)
    assert torch.allclose((rounded(weight, grid) - weight).abs(), least, atol=1e-6)


# What the package quantizes with: the largest weight spans the range.
BY_PACKAGE = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0"]


@pytest.mark.parametrize("name", BY_PACKAGE)
def test_a_search_is_no_worse_than_ranges_that_span_all(name: str) -> None:
    kind = BLOCK_TYPES[name]
    weight = normal(20, 512)
    kind_of_package = GGMLQuantizationType[name.upper()]
    theirs = torch.from_numpy(
        quants.dequantize(quants.quantize(weight.numpy(), kind_of_package), kind_of_package)
    )
    ones = torch.ones(512)
    ours = error(weight, fit(kind, weight, ones, 5), ones)
    assert ours <= float((theirs - weight).square().sum()) * (1 + 1e-6)


# Least error over that of ranges that span all, as seen; tests of how much a search is worth.
LEFT = {
    "q2_k": 0.75,
    "q3_k": 0.93,
    "q4_k": 0.9,
    "q5_k": 0.95,
    "q4_0": 0.92,
    "iq4_nl": 0.95,
    "tq2_0": 0.5,
}


@pytest.mark.parametrize("name", LEFT)
def test_a_search_finds_less_error(name: str) -> None:
    kind = BLOCK_TYPES[name]
    weight = normal(20, 512)
    ones = torch.ones(512)
    searched = error(weight, fit(kind, weight, ones, 5), ones)
    assert searched < LEFT[name] * error(weight, fit(kind, weight, ones, 0), ones)


def test_important_columns_have_the_less_error() -> None:
    kind = BLOCK_TYPES["q2_k"]
    weight = normal(20, 512)
    importance = torch.ones(512)
    importance[::16] = 1000
    alike = rounded(weight, fit(kind, weight, torch.ones(512), 5))
    weighed = rounded(weight, fit(kind, weight, importance, 5))

    def error_of_important(values: Tensor) -> float:
        return float((values - weight)[:, ::16].square().sum())

    assert error_of_important(weighed) < 0.05 * error_of_important(alike)


@pytest.mark.parametrize("kind", SUPER, ids=lambda kind: kind.name)
def test_each_round_lowers_the_error(kind: BlockType, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(8, 512) * torch.linspace(0.1, 3, 512)
    importance = normal(1, 512, seed=1)[0].square()
    errors: list[float] = []
    for rounds in range(4):
        monkeypatch.setattr(block_grid, "ROUNDS", rounds)
        errors.append(error(weight, fit(kind, weight, importance, 3), importance))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < errors[0]


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(7, 512)
    ones = torch.ones(512)
    kind = BLOCK_TYPES["q4_k"]
    whole = fit(kind, weight, ones, 3)
    monkeypatch.setattr(block_grid, "CHUNK", 1024)
    parts = fit(kind, weight, ones, 3)
    assert torch.equal(whole.step, parts.step)
    assert torch.equal(whole.offset, parts.offset)


@KINDS
def test_a_weight_of_nothing_is_stored_as_nothing(kind: BlockType) -> None:
    weight = torch.zeros(2, 256)
    grid = fit(kind, weight, torch.zeros(256), 3)
    assert torch.equal(rounded(weight, grid), weight)


def test_rows_are_taken_from_another_grid() -> None:
    kind = BLOCK_TYPES["q2_k"]
    one = fit(kind, normal(3, 256), torch.ones(256), 0)
    two = fit(kind, normal(3, 256, seed=1), torch.ones(256), 0)
    mixed = one.with_rows(torch.tensor([False, True, False]), two)
    for row, source in enumerate((one, two, one)):
        assert torch.equal(mixed.step[row], source.step[row])
        assert torch.equal(mixed.offset[row], source.offset[row])


@given(
    st.sampled_from(sorted(BLOCK_TYPES)),
    st.integers(0, 9999),
    st.sampled_from([1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e30]),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_weight_has_finite_numbers(name: str, seed: int, size: float, steps: int) -> None:
    kind = BLOCK_TYPES[name]
    weight = normal(2, 256, seed) * size
    weight[:, ::7] = 0
    grid = fit(kind, weight, normal(1, 256, seed + 1)[0].square(), steps)
    packed = grid.pack(grid.encode(weight, groups_of(kind, 256)), 0.0)
    assert bool(torch.isfinite(packed.dequantize()).all())


def test_nearest_codes_of_a_step_of_nothing_are_in_range() -> None:
    for kind in BLOCK_TYPES.values():
        codes = nearest_codes(kind, torch.tensor([5.0]), torch.zeros(1), torch.zeros(1))
        assert 0 <= int(codes) < kind.levels
