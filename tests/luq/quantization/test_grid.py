"""Integer grids: what they span, that codes are the nearest, and that the stored grid counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luq.formats.packing import unpack_codes
from luq.quantization import grid as grids
from luq.quantization.grid import Grid, fit, pack_on_grid


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def group_of(columns: int, size: int) -> Tensor:
    return torch.arange(columns) // size


def test_an_asymmetric_grid_spans_the_weights_and_zero() -> None:
    weight = torch.tensor([[-1.0, 0.5, 2.0], [3.0, 6.0, 1.0], [-6.0, -3.0, -1.0]])
    grid = fit(weight, levels=4, group_size=3, symmetric=False)
    assert grid.scale[:, 0].tolist() == [1.0, 2.0, 2.0]
    assert grid.zero[:, 0].tolist() == [1.0, 0.0, 3.0]


def test_a_symmetric_grid_reaches_the_largest_magnitude_and_its_zero_is_the_middle() -> None:
    weight = torch.tensor([[-3.0, 1.0], [1.0, 1.5]])
    grid = fit(weight, levels=4, group_size=2, symmetric=True)
    assert grid.scale[:, 0].tolist() == [2.0, 1.0]
    assert grid.zero[:, 0].tolist() == [2.0, 2.0]
    assert fit(weight, levels=3, group_size=2, symmetric=True).zero[:, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("columns", [12, 10, 9])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("steps", [0, 6])
def test_each_row_and_group_has_its_own_grid(columns: int, symmetric: bool, steps: int) -> None:
    """The last group too, which may have fewer columns."""
    weight = normal(3, columns) * torch.logspace(0, 2, columns) + 5
    importance = torch.linspace(1, 9, columns)
    grid = fit(weight, 16, 4, symmetric, importance, steps)
    assert grid.scale.shape == (3, 3)
    parts = zip(weight.split(4, 1), importance.split(4), strict=True)
    for index, (part, share) in enumerate(parts):
        alone = fit(part.contiguous(), 16, part.shape[1], symmetric, share, steps)
        assert torch.equal(grid.scale[:, index], alone.scale[:, 0])
        assert torch.equal(grid.zero[:, index], alone.zero[:, 0])


def test_groups_of_zeros_have_scale_one_and_mean_zero() -> None:
    for symmetric in (True, False):
        grid = fit(torch.zeros(2, 8), levels=4, group_size=4, symmetric=symmetric)
        assert grid.scale.tolist() == [[1.0, 1.0], [1.0, 1.0]]
        codes = grid.encode(torch.zeros(2, 8), group_of(8, 4))
        assert not bool(grid.decode(codes, group_of(8, 4)).any())


def test_scales_are_fp16_numbers_and_never_zero() -> None:
    grid = fit(normal(4, 8) * 1e-9, levels=4, group_size=8, symmetric=False)
    assert bool((grid.scale == 2.0**-24).all())
    grid = fit(normal(4, 8), levels=4, group_size=8, symmetric=False)
    assert torch.equal(grid.scale, grid.scale.half().float())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("steps", [0, 5])
def test_rows_that_are_searched_in_parts_have_the_same_grid(
    symmetric: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = normal(37, 50)
    importance = torch.linspace(1, 9, 50)
    whole = fit(weight, 8, 16, symmetric, importance, steps)
    monkeypatch.setattr(grids, "CHUNK", 4 * 50)
    parts = fit(weight, 8, 16, symmetric, importance, steps)
    assert torch.equal(parts.scale, whole.scale)
    assert torch.equal(parts.zero, whole.zero)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("importance", [None, torch.linspace(0, 1, 8) ** 4])
def test_the_clip_search_takes_the_range_with_the_least_weighted_error(
    symmetric: bool, importance: Tensor | None
) -> None:
    """Against a slow search over the factors 1, 0.94, 0.88, .. 0.46 on the ranges themselves."""
    weight = normal(50, 8)
    counts = torch.ones(8) if importance is None else importance
    clipped = fit(weight, 4, 8, symmetric, importance, steps=10)
    group = group_of(8, 8)

    def error(grid: Grid) -> Tensor:
        decoded = grid.decode(grid.encode(weight, group), group)
        return ((decoded - weight).square() * counts).sum(1)

    errors = []
    for step in range(10):
        low = (weight.amin(1, keepdim=True).clamp_max(0)) * (1 - 0.06 * step)
        high = (weight.amax(1, keepdim=True).clamp_min(0)) * (1 - 0.06 * step)
        clamped = torch.cat([low, high], 1)
        shrunk = fit(clamped, 4, 2, symmetric)
        errors.append(error(shrunk))
    least = torch.stack(errors).amin(0)
    assert torch.allclose(error(clipped), least, rtol=1e-4)
    assert bool((least < errors[0]).any())


def test_the_clip_search_reaches_its_last_factor() -> None:
    weight = torch.tensor([[1.0] + [0.46] * 63])
    grid = fit(weight, levels=3, group_size=64, symmetric=True, steps=10)
    assert float(grid.scale) == float(torch.tensor(0.46).half())


def test_one_step_of_the_clip_search_is_no_search() -> None:
    weight = normal(5, 8)
    plain = fit(weight, 4, 8, symmetric=False)
    assert torch.equal(fit(weight, 4, 8, symmetric=False, steps=1).scale, plain.scale)


@given(st.sampled_from([3, 4, 8, 16, 256]), st.booleans(), st.integers(0, 9999))
@settings(max_examples=40, deadline=None)
def test_codes_are_the_nearest_of_the_grid(levels: int, symmetric: bool, seed: int) -> None:
    weight = normal(4, 12, seed)
    group = group_of(12, 6)
    grid = fit(weight, levels, 6, symmetric, steps=seed % 4)
    codes = grid.encode(weight, group)
    assert bool((codes >= 0).all())
    assert bool((codes <= levels - 1).all())
    error = (grid.decode(codes, group) - weight).abs()
    for code in range(levels):
        other = (grid.decode(torch.full_like(codes, float(code)), group) - weight).abs()
        assert bool((error <= other + 1e-5).all())


@given(st.sampled_from([2, 3, 4, 8]), st.booleans(), st.integers(0, 9999))
@settings(max_examples=40, deadline=None)
def test_what_is_packed_is_what_the_grid_means(bits: int, symmetric: bool, seed: int) -> None:
    weight = normal(5, 24, seed)
    grid = fit(weight, 2**bits, 8, symmetric)
    codes = grid.encode(weight, group_of(24, 8))
    packed = pack_on_grid(codes, grid, 8, symmetric, damping=0.25)
    assert torch.equal(packed.dequantize(), grid.decode(codes, group_of(24, 8)))
    assert torch.equal(unpack_codes(packed.buffers["codes"], (5, 24)).float(), codes)
    assert packed.buffers["codes"].shape[0] == bits
    assert ("zeros" in packed.buffers) is not symmetric
    assert packed.meta == {"damping": 0.25}
