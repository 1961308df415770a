import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import frame, pareto
from analysis.loading import load
from tests.analysis.conftest import studied
from tests.analysis.synthetic import LAYERS, ladder, mixed, record, with_answers


def table(*rows: tuple[float, float], collapsed: tuple[int, ...] = ()) -> pd.DataFrame:
    points = pd.DataFrame(rows, columns=["bytes", "score"]).assign(
        label=[f"p{i}" for i in range(len(rows))], collapsed=False
    )
    points.loc[list(collapsed), "collapsed"] = True
    return points


def on_front(*rows: tuple[float, float], collapsed: tuple[int, ...] = ()) -> list[int]:
    return list(pareto.front(table(*rows, collapsed=collapsed)).to_numpy().nonzero()[0])


def test_front() -> None:
    assert on_front((1, 10), (2, 20), (3, 15), (4, 30)) == [0, 1, 3]


def test_ties_keep_the_smaller_and_the_higher_and_the_first() -> None:
    assert on_front((2, 20), (1, 20)) == [1]
    assert on_front((1, 10), (1, 20)) == [1]
    assert on_front((1, 10), (1, 10)) == [0]


def test_a_single_point_and_none() -> None:
    assert on_front((5, 5)) == [0]
    assert on_front((5, math.nan)) == []


def test_collapsed_points_are_on_no_front() -> None:
    assert on_front((1, 90), (2, 20), collapsed=(0,)) == [1]
    assert on_front((1, 90), collapsed=(0,)) == []


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_no_point_beats_the_front_and_it_beats_all_others(rows: list[tuple[int, int]]) -> None:
    chosen = on_front(*rows)
    for i, (size, score) in enumerate(rows):
        beaten = [(s, v) for s, v in rows if s <= size and v >= score and (s, v) != (size, score)]
        assert (i in chosen) <= (not beaten)
        if i not in chosen:
            assert any(rows[j][0] <= size and rows[j][1] >= score for j in chosen)


def test_info_of_the_mean_and_of_a_benchmark(demo: Path) -> None:
    study = frame.studies(load(demo))[0]
    info = pareto.pareto_info(study)
    assert list(info.points.loc[info.points["front"], "label"]) == [
        "gptq2",
        "gptq3",
        "gptq4",
        "gptq8",
    ]
    assert info.points.set_index("label").loc["billm, propagation high", "collapsed"]
    assert info.missing == []
    gqa = pareto.pareto_info(study, "gqa").points.set_index("label")
    assert gqa.loc["gptq3", "score"] == 76
    assert gqa.loc["gptq3", "high"] - gqa.loc["gptq3", "low"] == pytest.approx(2 * 1.96 * 2 / 80)


def test_the_16_bit_model_is_always_in_the_picture(tmp_path: Path) -> None:
    study = studied(tmp_path, [mixed(2, 60.0)])
    info = pareto.pareto_info(study)
    float_point = info.points[info.points["tier"] == "float16"].iloc[0]
    memory = study.records[0].memory
    assert float_point["bytes"] == 2 * memory.weights + memory.rest_bytes
    assert float_point["score"] == 80
    assert info.missing == ["gptq8", "gptq4", "gptq3", "gptq2"]


def test_two_orders_with_the_same_answers_are_one_point(tmp_path: Path) -> None:
    a, b = mixed(2, 60.0), mixed(2, 60.0, **{"order.name": "depth"})
    b = with_answers(b, a.artefacts.answers)
    study = studied(tmp_path, [a, b])
    assert len(study.plans) == 2
    assert len(pareto.pareto_info(study).points) == 2  # it and the 16-bit model


def test_hypervolume_is_the_mean_of_the_best_retention_that_fits() -> None:
    points = table((100, 40), (50, 20), (75, 30)).assign(
        front=True, tier=["float16", "", ""], retention=[1.0, 0.5, 0.75]
    )
    assert pareto.hypervolume(points) == pytest.approx(0.5 * 0 + 0.25 * 0.5 + 0.25 * 0.75)
    alone = table((100, 40)).assign(front=True, tier="float16", retention=1.0)
    assert pareto.hypervolume(alone) == 0


def test_best_plan_under_a_budget(demo: Path) -> None:
    info = pareto.pareto_info(frame.studies(load(demo))[0])
    sizes = info.points.set_index("label")["bytes"]
    best = pareto.best_under(info.points, sizes["gptq4"] - 1)
    assert best is not None
    assert best["label"] == "gptq3"
    assert pareto.best_under(info.points, sizes["gptq2"] - 1) is None
    rows = pareto.budgets(info).set_index("share")
    assert rows.loc[1.0, "label"] == "gptq4"
    assert rows.loc[1.0, "of"] == "gptq4"
    assert rows["score"].dropna().is_monotonic_increasing


def test_the_smallest_plan_within_a_loss(demo: Path) -> None:
    info = pareto.pareto_info(frame.studies(load(demo))[0])
    rows = {row.loss: row for row in pareto.smallest(info)}
    labels = {loss: row.plan["label"] for loss, row in rows.items() if row.plan is not None}
    # the scores: 16-bit 80, gptq4 79, gptq3 76, two layers low 75, gptq2 40
    assert labels == {0.5: "gptq8", 1: "gptq4", 2: "gptq4", 3: "gptq4", 5: "gptq3", 10: "gptq3"}
    assert rows[3].mix is None
    assert rows[5].mix is not None
    assert rows[5].mix["k"] == 2


def test_budgets_without_a_4_bit_run_are_of_16_bit(tmp_path: Path) -> None:
    rows = pareto.budgets(pareto.pareto_info(studied(tmp_path, [mixed(2, 60.0)])))
    assert set(rows["of"]) == {"float16"}


def test_a_benchmark_that_collapsed_is_off_its_own_front_only(tmp_path: Path) -> None:
    odd = record("odd", ["billm"] * LAYERS, {"gqa": 79.0, "mme": 79.0, "pope": 79.0})
    collapsed = replace(odd.scores["pope"], collapsed="'yes' to nearly every question")
    odd = replace(odd, scores={**odd.scores, "pope": collapsed})
    study = studied(tmp_path, [*ladder(), odd])
    assert (
        pareto.pareto_info(study, "gqa")
        .points.set_index("label")
        .loc["billm, propagation high", "front"]
    )
    assert (
        not pareto.pareto_info(study, "pope")
        .points.set_index("label")
        .loc["billm, propagation high", "front"]
    )
    assert (
        pareto.pareto_info(study).points.set_index("label").loc["billm, propagation high", "front"]
    )  # one of three
