from itertools import combinations

import pytest
import torch

from luq.formats.kernels import searches
from luq.quantization.lloyd import SortedRows


@pytest.fixture(params=["compiled", "torch"])
def _search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(searches, "four_levels", lambda *_: None)
        monkeypatch.setattr(searches, "sorted_rows", lambda *_: None)


pytestmark = pytest.mark.usefixtures("_search")


def loop(
    weight: torch.Tensor, importance: torch.Tensor, turns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's turns as in books: every weight looks for its nearest value in every turn."""
    kept = importance > 0
    weight, importance = weight[:, kept].double(), importance[kept].double()
    mean = (weight * importance).sum(1, keepdim=True) / importance.sum()
    deviation = (
        ((weight - mean).square() * importance).sum(1, keepdim=True).div(importance.sum()).sqrt()
    )
    levels = mean + deviation * torch.tensor([-1.5, -0.45, 0.45, 1.5], dtype=torch.double)
    for _ in range(turns):
        nearest = (weight[:, :, None] - levels[:, None]).abs().argmin(2)
        for i in range(4):
            share = importance * (nearest == i)
            levels[:, i] = torch.where(
                share.sum(1) > 0,
                (share * weight).sum(1) / share.sum(1).clamp_min(1e-30),
                levels[:, i],
            )
    away = (weight[:, :, None] - levels[:, None]).square().amin(2)
    return levels, (away * importance).sum(1)


def case(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(columns)
    importance = torch.rand(columns, generator=generator) ** 3
    importance[::5] = 0
    return torch.randn(rows, columns, generator=generator), importance


@pytest.mark.parametrize("columns", [8, 33, 128])
def test_prefix_sums_give_what_a_loop_over_weights_gives(columns: int) -> None:
    weight, importance = case(20, columns)
    found, error = SortedRows(weight).fit(importance, paired=False, turns=6)
    wanted, least = loop(weight, importance, 6)
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    assert torch.allclose(error, least, atol=1e-6)


def test_close_to_the_best_of_all_partitions() -> None:
    """Four clusters of sorted numbers are three cuts: all of them are tried."""
    weight, importance = case(40, 40)
    values, order = weight.double().sort(1)
    share = importance.double()[order]
    sums = torch.stack(
        [torch.nn.functional.pad((share * values**p).cumsum(1), (1, 0)) for p in range(3)]
    )
    best = torch.full((40,), torch.inf, dtype=torch.double)
    for cuts in combinations(range(1, 40), 3):
        count, total, squares = sums[:, :, [0, *cuts, 40]].diff(dim=2)
        best = torch.minimum(best, (squares - total.square() / count.clamp_min(1e-30)).sum(1))
    _, found = SortedRows(weight).fit(importance, paired=False)
    assert bool((found >= best - 1e-9).all())
    assert float(found.sum()) < 1.15 * float(best.sum())


def test_pairs_are_what_two_binary_orders_say_and_turns_help() -> None:
    weight, importance = case(50, 96)
    rows = SortedRows(weight)
    found, error = rows.fit(importance, paired=True)
    low, less, more, high = found.unbind(1)
    assert torch.allclose(low + high, less + more, atol=1e-5)
    assert bool((found.diff(dim=1) >= 0).all())
    near = (weight[:, :, None] - found[:, None]).square().amin(2)
    assert torch.allclose(error.float(), (near * importance).sum(1), atol=1e-4)
    assert float(error.sum()) < float(rows.fit(importance, paired=True, turns=1)[1].sum())
    assert float(rows.fit(importance, paired=False)[1].sum()) <= float(error.sum()), (
        "four free values are no worse"
    )


def test_nothing_to_fit() -> None:
    found, error = SortedRows(torch.zeros(3, 4)).fit(torch.ones(4), paired=False)
    assert not bool(found.any() or error.any())
    found, error = SortedRows(torch.randn(3, 4, generator=torch.Generator().manual_seed(0))).fit(
        torch.zeros(4), paired=True
    )
    assert not bool(found.any() or error.any())
    constant, error = SortedRows(torch.full((2, 9), 0.3)).fit(torch.ones(9), paired=True)
    assert torch.allclose(constant, torch.full((2, 4), 0.3))
    assert float(error.sum()) == pytest.approx(0, abs=1e-6)


def slow_pairs(weight: torch.Tensor, importance: torch.Tensor, turns: int) -> torch.Tensor:
    """Turns for c - u, c - v, c + v, c + u, row by row: u and v for the old c, then c."""
    rows = []
    for w in weight.double():
        h = importance.double()
        mean = (h * w).sum() / h.sum()
        deviation = ((h * (w - mean).square()).sum() / h.sum()).sqrt()
        levels = mean + deviation * torch.tensor([-1.5, -0.45, 0.45, 1.5], dtype=torch.double)
        for _ in range(turns):
            nearest = (w[:, None] - levels).abs().argmin(1)
            centre = (levels[0] + levels[3]) / 2
            distances = []
            for low, high in ((0, 3), (1, 2)):
                pair = (nearest == low) | (nearest == high)
                distances.append((h * (w - centre).abs())[pair].sum() / h[pair].sum())
            u, v = max(distances), min(distances)
            offsets = torch.stack([-u, -v, v, u])
            levels = offsets + (h * (w - offsets[nearest])).sum() / h.sum()
        rows.append(levels)
    return torch.stack(rows)


@pytest.mark.parametrize("turns", [1, 2, 7])
def test_pairs_are_fitted_as_a_loop_over_weights_fits_them(turns: int) -> None:
    weight, importance = case(20, 96)
    weight = weight.exp()  # skewed: the centre moves
    importance = importance + 0.01
    fitted = SortedRows(weight).fit(importance, paired=True, turns=turns)
    assert torch.allclose(fitted.levels.double(), slow_pairs(weight, importance, turns), rtol=1e-4)


def test_rows_of_one_number_are_exact_whatever_the_rounding() -> None:
    """Their variance may come out below zero."""
    numbers = torch.linspace(0.1, 3.0, 200)[:, None]
    fitted = SortedRows(numbers.expand(200, 33).contiguous()).fit(
        torch.linspace(0.1, 1.0, 33), paired=False
    )
    assert torch.allclose(fitted.levels, numbers.expand(200, 4), atol=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 33, 128, 1025])
def test_rows_are_in_rising_order_and_equal_weights_as_they_stood(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    weight = torch.randint(-3, 4, (20, columns), generator=generator).float()
    weight[3] = -0.0
    weight[4] = torch.linspace(1, -1, columns)
    rows = SortedRows(weight)
    for row, values, order in zip(weight, rows.values, rows.order, strict=True):
        wanted = sorted(range(columns), key=row.tolist().__getitem__)
        assert order.tolist() == wanted
        assert torch.equal(values, row[wanted])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("columns", [1, 3, 40, 128])
def test_the_compiled_search_is_torchs_bit_for_bit(columns: int, paired: bool) -> None:
    """Whole rows of nothing that counts, too, and rows that are all alike."""
    weight, importance = case(30, columns)
    weight[3] = 0.25
    for counted in (importance, torch.ones(columns), torch.zeros(columns)):
        rows = SortedRows(weight)
        plain = rows._fit(counted, paired, 12)
        found = rows.fit(counted, paired)
        assert torch.equal(found.levels, plain.levels)
        assert torch.equal(found.error, plain.error)
