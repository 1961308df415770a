"""The four claims, from records whose numbers and verdicts can be had by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import claims, claims_tables, compare, promise, steadiness, tables
from analysis.claims import NO, OPEN, YES, Contrast
from analysis.compare import Reader
from analysis.frame import studies
from analysis.loading import load
from analysis.sections import Chapter
from luq.evaluation.intervals import Estimate
from pipelines.record import CalibrationSummary, RunRecord
from tests.analysis.conftest import Keep, studied, write
from tests.analysis.synthetic import LAYERS, ladder, mixed, record

T_OF_THREE = 4.302653  # Student's t at 97.5 % with two degrees of freedom
TEXT = {"calibration.name": "text", "calibration.alpha": 0.0}
QUESTIONS = 100
SECOND = {"model.name": "pocket_other", "fingerprint": "f2"}


def marks(right: int) -> str:
    return "1" * right + "0" * (QUESTIONS - right)


def run(right: int, seed: int = 0, **changes: Any) -> RunRecord:
    """A mix that answers so many of a hundred questions, all of which its 16-bit model answers."""
    seeds = {"calibration.seed": seed, "profile.seed": seed, "seed": seed}
    drawn = mixed(2, {"gqa": float(right)}, original=100.0, **seeds, **changes)
    kind = drawn.config.calibration.name
    return replace(drawn, calibration=CalibrationSummary(f"{kind} {seed}", 1000, 0.5))


def with_gaps(drawn: RunRecord, gaps: list[float]) -> RunRecord:
    """The same run with image tokens' entropies so far above text tokens', layer by layer."""
    entries = []
    for entry in drawn.profile:
        gap = gaps[entry.layer] if entry.modality == "image" else 0.0
        entries.append(replace(entry, mean=5.0 + gap))
    return replace(drawn, profile=entries)


def noisy(drawn: RunRecord) -> RunRecord:
    """The same run with entropies that K-means alone moves more than they differ by layers."""
    return replace(drawn, profile=[replace(entry, spread=1.0) for entry in drawn.profile])


def orders_of(outputs: Path) -> dict[str, Contrast]:
    """Other order -> entropy against it."""
    study = studies(load(outputs))[0]
    reader = Reader(outputs)
    steady = steadiness.measured(study, compare.along(study, "order", reader), reader)
    return {contrast.other: contrast for contrast in claims.orders(study, steady, reader)}


def test_image_tokens_entropy_over_draws_of_the_calibration_set(tmp_path: Path) -> None:
    gaps = [[gap] * LAYERS for gap in (-0.8, -1.0, -1.2)]
    runs = [with_gaps(run(50, seed), of_draw) for seed, of_draw in enumerate(gaps)]
    text_only = replace(run(50, **TEXT), profile=[])
    (row,) = claims.entropies(studied(tmp_path, [*runs, text_only]))
    assert (row.kind, row.draws, row.vectors) == ("multimodal 0.5", 3, 99)
    assert (row.layers, row.higher) == (LAYERS, 0)
    reach = T_OF_THREE * 0.2 / math.sqrt(3)
    assert row.difference == pytest.approx((-1.0, -1.0 - reach, -1.0 + reach))
    assert row.verdict == NO


def test_image_tokens_entropy_of_one_draw_over_k_means(tmp_path: Path) -> None:
    gaps = [0.5] * 6 + [-0.1] * 2
    (row,) = claims.entropies(studied(tmp_path, [with_gaps(run(50), gaps)]))
    assert (row.draws, row.repetitions, row.higher) == (1, 3, 6)
    # 8 layers, image and text with a spread of 0.01 over 3 seeds each
    error = math.sqrt(LAYERS * 2 * 0.01**2 / 2) / LAYERS
    reach = T_OF_THREE * error
    assert row.difference == pytest.approx((0.35, 0.35 - reach, 0.35 + reach))
    assert row.verdict == YES


def test_entropies_that_are_not_comparable_are_no_row(tmp_path: Path) -> None:
    other_number = [
        replace(entry, tokens=98) if entry.modality == "image" else entry
        for entry in run(50).profile
    ]
    assert claims.entropies(studied(tmp_path, [replace(run(50), profile=other_number)])) == []


def test_draws_that_disagree_leave_the_mean_open(tmp_path: Path) -> None:
    runs = [with_gaps(run(50, seed), [gap] * LAYERS) for seed, gap in enumerate((1.0, 0.1, -0.2))]
    (row,) = claims.entropies(studied(tmp_path, runs))
    assert row.difference.score == pytest.approx(0.3)
    assert row.verdict == OPEN


def test_an_order_drawn_once_by_question(tmp_path: Path, keep: Keep) -> None:
    keep(run(50), marks(50))
    keep(run(90, **{"order.name": "depth"}), marks(90))
    keep(run(20, **{"order.name": "zd"}), marks(20))
    keep(run(51, **{"order.name": "lim"}), marks(51))
    found = orders_of(tmp_path)
    assert {name: c.verdict for name, c in found.items()} == {"depth": NO, "zd": YES, "lim": OPEN}
    pooled = found["depth"].comparison.pooled
    assert (pooled.a, pooled.b, pooled.mean) == pytest.approx((90.0, 50.0, -40.0))
    assert pooled.n == QUESTIONS
    assert found["depth"].interval == pytest.approx((pooled.mean, pooled.low, pooled.high))
    assert not found["depth"].has_draws
    assert found["depth"].comparison.divergence is not None
    assert found["depth"].comparison.divergence.mean == pytest.approx(0.16), "further from 16 bit"


def test_an_order_within_its_noise_needs_several_draws(tmp_path: Path, keep: Keep) -> None:
    keep(noisy(run(50)), marks(50))
    keep(run(90, **{"order.name": "depth"}), marks(90))
    (contrast,) = orders_of(tmp_path).values()
    assert contrast.is_noise
    assert contrast.verdict == OPEN
    for seed, right in ((1, 51), (2, 49)):
        keep(noisy(run(right, seed)), marks(right))
    (contrast,) = orders_of(tmp_path).values()
    assert (contrast.draws, contrast.other_draws, contrast.verdict) == (3, 1, NO)


def test_draws_widen_the_interval(tmp_path: Path, keep: Keep) -> None:
    for seed, right in enumerate((40, 60, 80)):
        keep(run(right, seed), marks(right))
    keep(run(50, **{"order.name": "depth"}), marks(50))
    for seed, right in enumerate((20, 25, 30)):
        drawn = run(right, **{"order.name": "random", "order.seed": seed})
        keep(replace(drawn, key=f"random{seed}", name=f"random {seed}"), marks(right))
    found = orders_of(tmp_path)
    over_questions = found["depth"].comparison.pooled
    reach = math.hypot(10 - over_questions.low, T_OF_THREE * 20 / math.sqrt(3))
    assert found["depth"].interval.low == pytest.approx(10 - reach)
    assert (over_questions.verdict, found["depth"].verdict) == ("better", OPEN)
    over_questions = found["random"].comparison.pooled
    # either side has three draws of its own: both add
    reach = math.sqrt(
        (35 - over_questions.low) ** 2
        + (T_OF_THREE * 20 / math.sqrt(3)) ** 2
        + (T_OF_THREE * 5 / math.sqrt(3)) ** 2
    )
    assert found["random"].interval.low == pytest.approx(35 - reach)
    assert (found["random"].draws, found["random"].other_draws) == (3, 3)


def test_the_same_draws_on_both_sides_are_pairs() -> None:
    difference = Estimate(5.0, 2.0, 8.0)
    scores = {claims.Draw(False, seed): 60.0 + 10 * seed for seed in range(3)}
    others = {claims.Draw(False, seed): 55.0 + 10 * seed for seed in range(3)}
    assert claims.over_draws(difference, scores, others) == pytest.approx(difference)
    assert claims.over_draws(difference, scores, {}).low == pytest.approx(
        5 - math.hypot(3, T_OF_THREE * 10 / math.sqrt(3))
    )


def test_tau_with_the_order_by_measured_kl(tmp_path: Path, keep: Keep) -> None:
    straight = list(range(LAYERS))
    keep(replace(run(50), order=straight[::-1]), marks(50))
    keep(replace(run(50, **{"order.name": "kl"}), order=straight), marks(50))
    swapped = [1, 0, *straight[2:]]
    keep(replace(run(50, **{"order.name": "delta_loss"}), order=swapped), marks(50))
    found = orders_of(tmp_path)
    assert (found["kl"].own_tau, found["kl"].tau) == pytest.approx((-1.0, 1.0))
    pairs = LAYERS * (LAYERS - 1) / 2
    assert found["delta_loss"].tau == pytest.approx(1 - 2 / pairs)


def test_calibration_by_draw_and_order(tmp_path: Path, keep: Keep) -> None:
    for seed, right in enumerate((70, 75, 80)):
        keep(run(right, seed), marks(right))
        keep(run(right - 30, seed, **TEXT), marks(right - 30))
    depth = {"order.name": "depth"}
    keep(run(61, **depth), marks(61))
    keep(run(60, **depth, **TEXT), marks(60))
    study = studies(load(tmp_path))[0]
    reader = Reader(tmp_path)
    steady = steadiness.measured(study, [], reader)
    by_entropy, by_depth = claims.calibrations(study, steady, reader)
    assert (by_entropy.setting, by_depth.setting) == ("entropy", "depth")
    assert (by_entropy.tiers, by_entropy.claimed) == ("billm under gptq4", "multimodal 0.5")
    pooled = by_entropy.comparison.pooled
    assert (pooled.a, pooled.b, pooled.mean) == pytest.approx((45.0, 75.0, 30.0))
    # draws differ by ten points, and by nothing between the two calibrations
    assert by_entropy.interval == pytest.approx((pooled.mean, pooled.low, pooled.high))
    assert (by_entropy.draws, by_entropy.verdict) == (3, YES)
    assert (by_depth.draws, by_depth.verdict) == (1, OPEN)


FOUR_BITS = record("four", original=100.0).memory


def sized(name: str, right: int, linears: float, keep: Keep, **changes: Any) -> RunRecord:
    """A mix whose linears have so much of the 4-bit plan's bytes."""
    rest = FOUR_BITS.rest_bytes
    size = rest + int(linears * FOUR_BITS.stored_bytes)
    tiers = ["billm"] * 2 + ["gptq4"] * (LAYERS - 2)
    small = record(
        name,
        tiers,
        {"gqa": float(right)},
        original=100.0,
        checkpoint_bytes=size,
        **changes,
    )
    return keep(small, marks(right))


def test_sizes_and_losses_have_verdicts(tmp_path: Path, keep: Keep) -> None:
    keep(record("four", None, {"gqa": 100.0}, original=100.0), marks(100))
    sized("large", 99, 0.61, keep)
    study = studies(load(tmp_path))[0]
    first, plan, *_ = promise.sizes(study, Reader(tmp_path))
    assert (first.of, plan.of) == ("entropy order, billm under gptq4", "any mix")
    assert plan.linears == pytest.approx(-0.39, abs=1e-3)
    assert plan.loss.score == pytest.approx(1.0)
    assert plan.of_linears == plan.of_whole == NO, "too large"
    sized("lossy", 80, 0.5, keep, **{"order.name": "zd"})
    assert best_mix(tmp_path).of_linears == NO, "loses 20 %, and all of its interval is above 10"
    sized("near", 91, 0.52, keep, **{"order.name": "lim"})
    mix = best_mix(tmp_path)
    assert mix.loss.low < 10 < mix.loss.high
    assert mix.of_linears == OPEN
    sized("good", 97, 0.55, keep, **{"order.name": "kl"})
    mix = best_mix(tmp_path)
    assert (mix.label, mix.of_linears, mix.of_whole) == ("good", YES, NO)


def best_mix(outputs: Path) -> promise.Size:
    plans = promise.sizes(studies(load(outputs))[0], Reader(outputs))
    return next(plan for plan in plans if plan.of == promise.ANY_MIX)


def test_one_plan_is_enough_for_the_promise() -> None:
    assert promise.best([NO, YES, OPEN]) == YES
    assert promise.best([NO, OPEN]) == OPEN
    assert promise.best([NO]) == NO


def test_every_part_must_hold_for_the_orders() -> None:
    assert claims.together([YES, YES]) == YES
    assert claims.together([YES, OPEN]) == OPEN
    assert claims.together([YES, OPEN, NO]) == NO


def test_a_caveat_stands_where_plans_are_compared_with_4_bit(tmp_path: Path) -> None:
    caveat = "its weights lie <on> a 4-bit grid"
    write(tmp_path, [*ladder(), mixed(2, 70.0)])
    write(tmp_path, [*ladder(**SECOND, **{"model.caveat": caveat}), mixed(2, 70.0, **SECOND)])
    all_studies = studies(load(tmp_path))
    chapters = [Chapter(study, Reader(tmp_path)) for study in all_studies]
    verdicts, *_, sizes = claims_tables.section(chapters).tables
    by_linears = dict(zip(verdicts.columns, map(tables.text, verdicts.rows[-2]), strict=True))
    assert (by_linears["pocket_test"], by_linears["pocket_other"]) == ("no", "no (see below)")
    marked, plain = sorted(all_studies, key=lambda study: study.name)
    for table in (verdicts, sizes, tables.overview(marked, [])):
        assert table.note.count(f"pocket_other: {caveat}.") == 1
        assert "pocket_test:" not in table.note
    assert "pocket_test:" not in tables.overview(plain, []).note
    assert len(marked.plans) == len(plain.plans), "it makes no other plan"


def test_a_table_over_models(tmp_path: Path) -> None:
    """Without answers; the second model ran no mix."""
    one = [*ladder(), mixed(2, 70.0), mixed(2, 20.0, **{"order.name": "lim"})]
    two = [replace(drawn, profile=[]) for drawn in ladder(**SECOND)]
    write(tmp_path, [*one, *two])
    chapters = [Chapter(study, Reader(tmp_path)) for study in studies(load(tmp_path))]
    section = claims_tables.section(chapters)
    names = ["claims", "claims_entropy", "claims_orders", "claims_sizes"]
    assert [table.name for table in section.tables] == names
    table = section.tables[0]
    assert table.columns == ["claim", "of", "pocket_test", "pocket_other"]
    cells = [[tables.text(cell) for cell in row[1:]] for row in table.rows]
    assert cells == [
        ["", f"no (0 of {LAYERS} layers)", "not run"],
        ["billm under gptq4", "yes (1/0/0)", "not run"],
        ["", "not run", "not run"],
        ["linears", "no", "not run"],
        ["whole file", "no", "not run"],
    ]
