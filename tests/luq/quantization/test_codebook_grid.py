"""The numbers and the points of llama.cpp's codebooks, searched."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luq.formats.gguf_codebooks import CODEBOOK_TYPES, CodebookType, SignedType
from luq.quantization import codebook_grid, codebook_search
from luq.quantization.codebook_grid import CodebookGrid, fit_codebook
from luq.quantization.codebook_search import search_of

KINDS = pytest.mark.parametrize("kind", CODEBOOK_TYPES.values(), ids=CODEBOOK_TYPES)


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def groups_of(kind: CodebookType, columns: int) -> Tensor:
    return torch.arange(columns) // kind.group


def rounded(weight: Tensor, grid: CodebookGrid) -> Tensor:
    """The nearest values."""
    group = groups_of(grid.kind, weight.shape[1])
    return grid.decode(grid.encode(weight, group), group)


def error(weight: Tensor, grid: CodebookGrid, importance: Tensor) -> float:
    """With points that are nearest under the importance."""
    group = groups_of(grid.kind, weight.shape[1])
    values = grid.decode(grid.nearest(weight, importance, group), group)
    return float(((values - weight).square() * importance).sum())


@KINDS
@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_stored_is_what_was_meant(kind: CodebookType, steps: int) -> None:
    weight = normal(5, 512)
    weight[0, :256] = 0
    weight[1] *= 1e-3
    weight[2] *= 100
    weight[3] = weight[3].abs()
    grid = fit_codebook(kind, weight, torch.ones(512), steps)
    group = groups_of(kind, 512)
    codes = grid.encode(weight, group)
    packed = grid.pack(codes, damping=0.01)
    assert torch.equal(packed.dequantize(), grid.decode(codes, group))
    assert packed.meta == {"type": kind.name, "damping": 0.01}


def all_points(kind: CodebookType, weights: Tensor, move: int) -> Tensor:
    """All that eight weights may mean in steps; of types with signs, with points near enough."""
    if not isinstance(kind, SignedType):
        points = 8 * kind.points.float()
        return torch.cat([points + m for m in ((1, -1) if kind.moved == 8 else (move,))])
    signs = torch.tensor(list(product((1.0, -1.0), repeat=8)))
    if kind.is_even:
        signs = signs[signs.prod(1) > 0]
    magnitudes = kind.points.float()
    if kind.point == 4:
        near = [
            magnitudes[((magnitudes - half.abs()).square().sum(1)).argsort()[:24]]
            for half in weights.view(2, 4)
        ]
        magnitudes = torch.cat(
            [near[0].repeat_interleave(len(near[1]), 0), near[1].repeat(len(near[0]), 1)], 1
        )
    return (magnitudes[:, None] * signs).flatten(0, 1)


@KINDS
def test_points_are_the_nearest_of_all(kind: CodebookType) -> None:
    weights = normal(12, 8) * kind.points.float().square().mean().sqrt()
    if not isinstance(kind, SignedType):
        weights *= 8
    importance = normal(1, 8, seed=1)[0].square() + 0.2
    step = torch.linspace(0.7, 1.4, 12)
    search = search_of(kind)
    for move in search.moves:
        moves = torch.full_like(step, move)
        found = search.nearest(weights[None], importance[None], step[None], moves[None])[0]
        for row in range(12):
            points = all_points(kind, weights[row] / step[row], move)
            errors = ((weights[row] - step[row] * points).square() * importance).sum(1)
            error_found = ((weights[row] - step[row] * found[row]).square() * importance).sum()
            assert bool((points == found[row]).all(1).any()) or kind.point == 4
            assert float(error_found) <= float(errors.min()) * (1 + 1e-5)


@KINDS
def test_a_search_finds_less_error(kind: CodebookType) -> None:
    weight = normal(12, 512) * torch.linspace(0.3, 3, 512)
    importance = normal(1, 512, seed=1)[0].square() + 0.1
    plain = error(weight, fit_codebook(kind, weight, importance, 0), importance)
    searched = error(weight, fit_codebook(kind, weight, importance, 4), importance)
    assert searched < 0.94 * plain


@KINDS
def test_each_round_lowers_the_error(kind: CodebookType, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(6, 256) * torch.linspace(0.1, 3, 256)
    importance = normal(1, 256, seed=1)[0].square()
    errors: list[float] = []
    for rounds in range(3):
        monkeypatch.setattr(codebook_grid, "ROUNDS", rounds)
        errors.append(error(weight, fit_codebook(kind, weight, importance, 2), importance))
    assert errors[0] > errors[1] >= errors[2]


@KINDS
def test_important_columns_have_the_less_error(kind: CodebookType) -> None:
    weight = normal(12, 256)
    importance = torch.ones(256)
    importance[::16] = 1000
    grid = fit_codebook(kind, weight, importance, 3)
    alike = fit_codebook(kind, weight, torch.ones(256), 3)
    assert error(weight, grid, importance) < 0.5 * float(
        ((rounded(weight, alike) - weight).square() * importance).sum()
    )


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(5, 256)
    ones = torch.ones(256)
    kind = CODEBOOK_TYPES["iq3_xxs"]
    whole = fit_codebook(kind, weight, ones, 2)
    monkeypatch.setattr(codebook_grid, "ROWS", 2)
    monkeypatch.setattr(codebook_search, "CHUNK", 2**9)
    parts = fit_codebook(kind, weight, ones, 2)
    assert torch.equal(whole.step, parts.step)
    assert torch.equal(rounded(weight, whole), rounded(weight, parts))


@KINDS
def test_a_weight_of_nothing_is_stored_as_nothing(kind: CodebookType) -> None:
    weight = torch.zeros(2, 256)
    grid = fit_codebook(kind, weight, torch.zeros(256), 2)
    assert torch.equal(rounded(weight, grid), weight)


def test_rows_are_taken_from_another_grid() -> None:
    kind = CODEBOOK_TYPES["iq1_m"]
    one = fit_codebook(kind, normal(3, 256), torch.ones(256), 0)
    two = fit_codebook(kind, normal(3, 256, seed=1), torch.ones(256), 0)
    mixed = one.with_rows(torch.tensor([False, True, False]), two)
    for row, source in enumerate((one, two, one)):
        assert torch.equal(mixed.step[row], source.step[row])
        assert torch.equal(mixed.moves[row], source.moves[row])


@given(
    st.sampled_from(sorted(CODEBOOK_TYPES)),
    st.integers(0, 9999),
    st.sampled_from([1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e30]),
    st.integers(0, 2),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_weight_has_finite_numbers(name: str, seed: int, size: float, steps: int) -> None:
    kind = CODEBOOK_TYPES[name]
    weight = normal(2, 256, seed) * size
    weight[:, ::7] = 0
    grid = fit_codebook(kind, weight, normal(1, 256, seed + 1)[0].square(), steps)
    codes = grid.encode(weight, groups_of(kind, 256))
    packed = grid.pack(codes, 0.0)
    assert torch.equal(packed.dequantize(), grid.decode(codes, groups_of(kind, 256)))
    assert bool(torch.isfinite(packed.dequantize()).all())
