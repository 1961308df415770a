"""What the report says of an order drawn again, from records with known rankings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import ablations, findings, layers, steadiness, tables
from analysis.compare import Reader, along
from analysis.settings import is_entropy, order_label
from analysis.steadiness import Steadinesses
from analysis.steadiness_table import steadiness_table
from luq.config import OrderConfig
from luq.profiling.entropies import LayerEntropy
from pipelines.record import CalibrationSummary, RunRecord
from tests.analysis.conftest import studied
from tests.analysis.synthetic import LAYERS, mixed

STRAIGHT = list(range(LAYERS))
SWAPPED = [1, 0, *range(2, LAYERS)]
PAIRS = LAYERS * (LAYERS - 1) // 2  # of layers
ONE_SWAP = 1 - 2 / PAIRS
TEXT = {"calibration.name": "text", "calibration.alpha": 0.0}


def ranked(
    seed: int, order: list[int], score: float = 60.0, content: str = "", **changes: Any
) -> RunRecord:
    """A run of a seed, whose calibration set is that seed's, and its ranking."""
    seeds = {"calibration.seed": seed, "profile.seed": seed, "seed": seed}
    run = mixed(2, score, **seeds, **changes)
    content = content or f"{run.config.calibration.name} {seed}"
    return replace(run, order=order, calibration=CalibrationSummary(content, 1000, 0.5))


def measured(outputs: Path, *records: RunRecord) -> Steadinesses:
    study = studied(outputs, records)
    reader = Reader(outputs)
    return steadiness.measured(study, along(study, "order", reader), reader)


def test_an_order_is_compared_with_itself_over_seeds_and_between_kinds(tmp_path: Path) -> None:
    runs = [
        ranked(0, STRAIGHT),
        ranked(1, SWAPPED),
        ranked(2, STRAIGHT[::-1]),
        ranked(0, SWAPPED, **TEXT),
    ]
    entropy, text = measured(tmp_path, *runs).entries
    assert (entropy.kind, text.kind) == ("multimodal 0.5", "text")
    assert (entropy.rankings, text.rankings) == (3, 1)
    assert text.same is text.across is None
    assert entropy.same is not None
    assert entropy.across is not None
    assert (entropy.same.pairs, entropy.across.pairs) == (3, 3)
    assert entropy.same.mean == pytest.approx((ONE_SWAP - 1 - ONE_SWAP) / 3)
    assert (entropy.same.low, entropy.same.high) == pytest.approx((-1, ONE_SWAP))
    assert entropy.across.mean == pytest.approx((ONE_SWAP + 1 - ONE_SWAP) / 3)
    assert entropy.noise is entropy.same


def test_what_is_no_other_draw_makes_no_pair(tmp_path: Path) -> None:
    several_k = [ranked(0, STRAIGHT), replace(ranked(0, STRAIGHT), key="other", name="other")]
    assert measured(tmp_path / "a", *several_k).entries[0].same is None, "one set, used twice"
    same_samples = [ranked(seed, STRAIGHT, content="mine.jsonl") for seed in (0, 1)]
    assert measured(tmp_path / "b", *same_samples).entries[0].same is None
    tokens = [ranked(0, STRAIGHT), ranked(1, STRAIGHT, **{"calibration.tokens": 999})]
    assert measured(tmp_path / "c", *tokens).entries[0].same is None, "another size of set"


def test_what_is_for_hessians_alone_tells_only_orders_by_quantized_layers_apart(
    tmp_path: Path,
) -> None:
    def runs(name: str) -> list[RunRecord]:
        other = {"calibration.weighting": "balance"}
        return [
            ranked(0, STRAIGHT, **{"order.name": name}),
            ranked(1, SWAPPED, **{"order.name": name}, **other),
        ]

    for name, pairs in (("variance", 1), ("output_error", 0)):
        (entry,) = measured(tmp_path / name, *runs(name)).entries
        assert (entry.same.pairs if entry.same else 0) == pairs


def test_means_that_share_draws_make_no_pair(tmp_path: Path) -> None:
    four = {"order.draws": 4}
    shared = measured(tmp_path / "a", ranked(0, STRAIGHT, **four), ranked(3, SWAPPED, **four))
    assert [entry.same for entry in shared.entries] == [None]
    apart = measured(tmp_path / "b", ranked(0, STRAIGHT, **four), ranked(4, SWAPPED, **four))
    (entry,) = apart.entries
    assert entry.order == "entropy (4 draws)"
    assert entry.same is not None
    assert entry.same.mean == pytest.approx(ONE_SWAP)


def test_single_draws_of_a_mean_are_compared_too(tmp_path: Path) -> None:
    straight = [float(layer) for layer in range(LAYERS)]
    swapped = [1.0, 0.0, *straight[2:]]
    draws = {"entropy": [straight, straight, swapped, straight]}
    run = replace(ranked(0, STRAIGHT, **{"order.draws": 4}), draw_scores=draws)
    entries = {entry.order: entry for entry in measured(tmp_path, run).entries}
    single, averaged = entries["entropy"], entries["entropy (4 draws)"]
    assert single.same is not None
    assert single.same.pairs == 6
    assert single.same.mean == pytest.approx((3 + 3 * ONE_SWAP) / 6)
    assert averaged.same is None
    assert averaged.halves is not None
    assert ONE_SWAP <= averaged.halves.mean <= 1
    assert single.expected is averaged.expected is None, "its spread is over draws"
    # a damaged record: rows of another length are no draws
    broken = replace(run, draw_scores={"entropy": [straight, [1.0]]})
    assert [entry.order for entry in measured(tmp_path / "b", broken).entries] == [
        "entropy (4 draws)"
    ]


def test_the_spread_over_k_means_seeds_says_what_to_expect(tmp_path: Path) -> None:
    (steady,) = measured(tmp_path / "a", ranked(0, STRAIGHT)).entries
    assert steady.expected is not None
    assert steady.expected.mean == pytest.approx(1), "a spread of 0.01 at steps of 0.1"
    wild = [LayerEntropy(i, "all", 5 + i / 10, 9.0, 99, 20) for i in range(LAYERS)]
    (noisy,) = measured(tmp_path / "b", replace(ranked(0, STRAIGHT), profile=wild)).entries
    assert noisy.expected is not None
    assert noisy.expected.mean == pytest.approx(0, abs=0.1)
    reverse = {"order.name": "entropy_reverse"}
    text = findings.steadiness(
        measured(tmp_path / "c", replace(ranked(0, STRAIGHT), profile=wild),
                 replace(ranked(0, STRAIGHT[::-1], **reverse), profile=wild))
    )  # fmt: skip
    assert len(text) == 3
    assert text[0].startswith("The order entropy by multimodal 0.5 calibration is within the noise")
    assert text[1] == "Within their noise, too: entropy_reverse by multimodal 0.5 calibration."
    assert text[2].startswith("order.draws=8 ranks by the mean of eight draws")


def orders_with_scores() -> list[RunRecord]:
    scores = {"entropy": 60.0, "lim": 70.0, "depth": 50.0, "random": 90.0}
    rankings = {"entropy": SWAPPED, "lim": STRAIGHT, "depth": STRAIGHT[::-1], "random": STRAIGHT}
    runs = []
    for name, score in scores.items():
        runs.append(ranked(0, rankings[name], score, **{"order.name": name}))
    return runs


def test_orders_stand_beside_the_best_one(tmp_path: Path) -> None:
    result = measured(tmp_path, *orders_with_scores())
    assert result.best == "lim", "a random order is none"
    assert [entry.order for entry in result.entries] == ["lim", "entropy", "depth"]
    assert [entry.best for entry in result.entries] == pytest.approx([1, ONE_SWAP, -1])
    changes = [entry.difference.mean for entry in result.entries if entry.difference is not None]
    assert changes == pytest.approx([-10, -20])
    assert [entry.needs_samples for entry in result.entries] == [True, True, False]


def test_the_base_can_be_the_best(tmp_path: Path) -> None:
    runs = [run for run in orders_with_scores() if run.config.order.name != "lim"]
    result = measured(tmp_path, *runs)
    assert result.best == "entropy"
    assert [entry.order for entry in result.entries] == ["entropy", "depth"]


def test_the_table_shows_what_was_measured(tmp_path: Path) -> None:
    result = measured(tmp_path, *orders_with_scores(), ranked(1, STRAIGHT))
    table = steadiness_table(result)
    assert table.columns == [
        "order", "calibration", "rankings", "tau with itself", "pairs", "K-means alone",
        "tau with lim", "score minus lim", "95 % interval",
    ]  # fmt: skip
    rows = {str(row[0]): [tables.text(cell) for cell in row[2:]] for row in table.rows}
    assert rows["entropy"][:3] == ["2", f"{ONE_SWAP:.2f}", "1"]
    assert rows["entropy"][4:6] == [f"{ONE_SWAP:.2f}", "-10.0"]
    assert rows["depth"][1] == "fixed"
    alone = steadiness_table(measured(tmp_path / "b", ranked(0, STRAIGHT)))
    assert alone.columns == ["order", "calibration", "rankings", "K-means alone"]
    assert "has the best mean score" not in alone.note


def test_an_order_within_its_noise_is_a_finding(tmp_path: Path) -> None:
    orders = {"entropy": STRAIGHT, "lim": STRAIGHT}
    runs = [ranked(0, order, 60.0, **{"order.name": n}) for n, order in orders.items()]
    steady = measured(tmp_path / "a", *runs, ranked(1, SWAPPED))
    assert findings.steadiness(steady) == []
    noisy = measured(tmp_path / "b", *runs, ranked(1, STRAIGHT[::-1]))
    first, advice = findings.steadiness(noisy)
    assert first.startswith(
        "The order entropy by multimodal 0.5 calibration is within its noise: drawn again, its "
        "Kendall's tau with itself is -1.00 (-1.00 to -1.00, 1 pair), so that 100 % of the pairs of layers change places"
    )
    assert advice.endswith("the mean of eight draws of the calibration set: for entropy.")


def test_a_sweep_by_several_draws_has_its_figures_and_its_base(tmp_path: Path) -> None:
    eight = {"order.draws": 8}
    runs = [mixed(k, 70.0 - 5 * k, **eight) for k in (2, 4)]
    runs += [mixed(2, 50.0, **{"order.name": "depth"}), mixed(2, 55.0, **{"order.name": "zd"})]
    study = studied(tmp_path, runs)
    assert ablations.tradeoff_chart(study) is not None
    comparisons = along(study, "order", Reader(tmp_path))
    assert {comparison.a for comparison in comparisons} == {"entropy (8 draws)"}
    (text,) = findings.orders(comparisons)
    assert text == "Ascending entropy (8 draws) beats zd, depth."
    names = ("entropy", "entropy (8 draws)", "entropy (text tokens)", "entropy_reverse")
    assert [is_entropy(name) for name in names] == [True, True, False, False]


def test_an_order_by_several_draws_has_another_name(tmp_path: Path) -> None:
    assert order_label(OrderConfig("lim", "image", draws=8)) == "lim (image tokens, 8 draws)"
    assert order_label(OrderConfig(draws=8)) == "entropy (8 draws)"
    chart = layers.entropy_chart(studied(tmp_path, [ranked(0, STRAIGHT, **{"order.draws": 4})]))
    assert chart is not None
    assert "bars: spread over the draws of the calibration set" in chart.caption
    assert "all tokens, multimodal 0.5 calibration, 4 draws" in chart.series
