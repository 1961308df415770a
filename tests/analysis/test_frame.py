import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import frame
from analysis.loading import load
from luq.errors import DataError
from pipelines import runs_folder
from pipelines.record import RunRecord
from pipelines.runs_folder import Failure
from tests.analysis.conftest import write
from tests.analysis.synthetic import BENCHMARKS, LAYERS, ladder, mixed, record, with_answers


def only(outputs: Path, *sweeps: str) -> frame.Study:
    (study,) = frame.studies(load(outputs, sweeps))
    return study


def test_a_row_per_run_and_benchmark(demo: Path) -> None:
    study = only(demo, "demo")
    assert len(study.runs) == 5 + 18 + 1
    assert len(study.scores) == len(study.runs) * len(BENCHMARKS)
    assert not study.scores.duplicated(["key", "benchmark"]).any()
    row = study.scores[
        (study.scores["name"] == "gptq3") & (study.scores["benchmark"] == "pope")
    ].iloc[0]
    assert (row["score"], row["retention"], row["n"], row["nominal_bits"]) == (
        76.0,
        76 / 80,
        50,
        3.0,
    )
    assert study.runs["stored_bytes"].is_monotonic_increasing


def test_memory_is_compared_with_the_4_bit_run(demo: Path) -> None:
    runs = only(demo, "demo").runs.set_index("name")
    four, two = runs.loc["gptq4"], runs.loc["gptq2"]
    assert four["linears_change"] == four["checkpoint_change"] == 0
    assert two["linears_change"] == pytest.approx(two["stored_bytes"] / four["stored_bytes"] - 1)
    assert two["linears_change"] < two["checkpoint_change"] < 0
    assert runs.loc["billm", "collapsed"] == 3


def test_without_a_4_bit_run_nothing_is_compared(tmp_path: Path) -> None:
    assert only(write(tmp_path, [mixed(2, 50.0)])).runs["linears_change"].isna().all()


def test_a_plan_of_one_tier_has_neither_low_layers_nor_an_order(demo: Path) -> None:
    runs = only(demo, "demo").runs.set_index("name")
    uniform = runs.loc["gptq3"]
    assert (uniform["tier"], uniform["low_tier"], uniform["order"]) == ("gptq3", "", "")
    assert uniform["k"] is pd.NA
    mix = runs[runs["mixed"]].iloc[0]
    assert (mix["tier"], mix["low_tier"], mix["order"]) == ("", "billm", "entropy")
    assert mix["k"] in (2, 4, 6)


def test_intervals_are_wilson_s_also_of_records_without_any(tmp_path: Path) -> None:
    perfect = record("all right", score=100.0)
    scores = {name: replace(s, stderr=0.0, n=40) for name, s in perfect.scores.items()}
    rows = only(write(tmp_path, [replace(perfect, scores=scores)])).scores
    assert list(rows["score_low"]) == pytest.approx([91.2378] * 3, abs=1e-3)
    assert list(rows["score_high"]) == pytest.approx([100.0] * 3)
    runs = only(tmp_path).runs
    reach = (3 * (100 - 91.2378) ** 2) ** 0.5 / 3
    assert runs["score_low"].iloc[0] == pytest.approx(100 - reach, abs=1e-3)


def test_seeds_are_one_plan(demo: Path) -> None:
    plans = only(demo, "demo").plans
    assert len(plans) == 5 + 6 + 1
    plan = plans[(plans["k"] == 4) & (plans["calibration"] == "multimodal")].iloc[0]
    assert (plan["seeds"], plan["score"], plan["lowest"], plan["highest"]) == (3, 61.0, 60.0, 62.0)
    assert plan["label"] == "k=4"
    assert set(plans.loc[~plans["mixed"], "label"]) == {
        "float16",
        "gptq8",
        "gptq4",
        "gptq3",
        "gptq2",
        "billm, propagation high",
    }


def test_a_tier_alone_that_saw_another_model_is_named_so(tmp_path: Path) -> None:
    low = record("k=8", ["gptq2"] * LAYERS, 40.0, **{"quantizer.low": "gptq2", "allocation.k": 8})
    plans = only(write(tmp_path, [*ladder(), low])).plans
    assert "gptq2, propagation high" in set(plans["label"])
    assert "gptq2" in set(plans["label"])
    same = record(
        "x",
        ["gptq3"] * LAYERS,
        70.0,
        **{"quantizer.high": "gptq3", "quantizer.propagation": "high"},
    )
    exact_mix = mixed(2, 60.0, **{"quantizer.propagation": "exact"})
    assert set(only(write(tmp_path / "b", [same, exact_mix])).plans["label"]) == {
        "gptq3",
        "propagation=exact k=2",
    }


def test_of_a_name_only_the_latest(tmp_path: Path) -> None:
    old, new = (
        mixed(2, 50.0, **{"calibration.tokens": 1000}),
        mixed(2, 60.0, **{"calibration.tokens": 2000}),
    )
    old = replace(old, name="luq_k2")
    new = replace(new, name="luq_k2", finished=5.0)
    loaded = load(write(tmp_path, [new, old]), ["demo"])
    assert [r.key for r in loaded.records] == [new.key]
    assert [p for p in loaded.problems if old.key in p and "left out" in p]


def test_baselines_come_from_other_sweeps(tmp_path: Path) -> None:
    card = ladder(sweep="card")
    stranger = record(
        "gptq3",
        ["gptq3"] * LAYERS,
        70.0,
        sweep="card",
        fingerprint="other",
        **{"quantizer.high": "gptq3"},
    )
    study = only(write(tmp_path, [*card, stranger, mixed(2, 60.0, sweep="order")]), "order")
    assert set(study.runs["tier"]) == {"float16", "gptq8", "gptq4", "gptq3", "gptq2", ""}
    assert set(study.runs["fingerprint"]) == {"f1"}


def test_a_run_in_two_sweeps_counts_once(demo: Path) -> None:
    run = next(runs_folder.iterate(demo, "demo"))
    runs_folder.note(demo, "again", run.key, "by another name")
    loaded = load(demo, ["demo", "again"])
    assert len({r.key for r in loaded.records}) == len(loaded.records)


def test_mixed_models_and_questions_are_reported_apart(tmp_path: Path) -> None:
    runs = [
        mixed(2, 60.0),
        mixed(4, 50.0),
        mixed(2, 60.0, fingerprint="f2"),
        mixed(2, 60.0, subset="fewer"),
    ]
    loaded = load(write(tmp_path, runs))
    studies = frame.studies(loaded)
    assert sorted(len(s.runs) for s in studies) == [1, 1, 2]
    assert len(studies[0].runs) == 2
    assert "f2 (1 runs)" in loaded.problems[-1]


def test_a_run_without_a_benchmark_is_not_compared_with_those_that_have_it(tmp_path: Path) -> None:
    runs = [
        mixed(2, 60.0),
        mixed(
            4,
            {
                "gqa": 50.0,
                "mme": 40.0,
            },
        ),
    ]
    assert sorted(s.benchmarks for s in frame.studies(load(write(tmp_path, runs)))) == [
        ["gqa", "mme"],
        ["gqa", "mme", "pope"],
    ]


def test_bad_records_are_lines_and_the_rest_is_reported(demo: Path) -> None:
    files = sorted((demo / "runs").glob("*/result.json"))
    files[0].write_text(files[0].read_text()[:500])
    files[1].write_text(json.dumps({"schema": 99}))
    half = json.loads(files[2].read_text())
    del half["memory"], half["seal"], half["digest"]  # as records of earlier versions
    files[2].write_text(json.dumps(half))
    files[3].write_text("[]")
    files[4].unlink()
    altered = json.loads(files[6].read_text())
    altered["mean_score"] += 1
    files[6].write_text(json.dumps(altered))
    without_a_number = json.loads(files[7].read_text())
    del without_a_number["seal"], without_a_number["digest"]
    without_a_number["mean_score"] = float("nan")
    files[7].write_text(json.dumps(without_a_number))
    next((demo / "sweeps" / "demo").glob(f"{files[5].parent.name}.json")).write_text("{")
    loaded = load(demo, ["demo"])
    lost = {file.parent.name for file in files[:8]}
    assert {r.key for r in loaded.records} == {file.parent.name for file in files} - lost
    problems = "\n".join(loaded.problems)
    for piece in (
        "cannot be read",
        "schema 99",
        "record lacks memory",
        "holds no JSON object",
        "its content is not what was written",
        "it holds NaN",
        "is missing",
    ):
        assert piece in problems
    assert all(key in problems for key in lost)


def test_an_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `luq sweep demo` first"):
        load(tmp_path, ["demo"])
    with pytest.raises(DataError, match="no finished run"):
        load(tmp_path)


def test_an_unknown_sweep_beside_a_known_one_is_a_line(demo: Path) -> None:
    loaded = load(demo, ["demo", "ordre"])
    assert loaded.records
    assert any("no sweep 'ordre'" in p for p in loaded.problems)


def test_failures_are_told(demo: Path) -> None:
    runs_folder.write_failure(demo, Failure("k1", "a", "demo", "DataError", "no images"))
    runs_folder.write_failure(demo, Failure("k2", "b", "other", "DataError", ""))
    assert [f.name for f in load(demo, ["demo"]).failures] == ["a"]
    assert len(load(demo).failures) == 2


def test_a_score_of_zero_at_16_bit_has_no_retention(tmp_path: Path) -> None:
    study = only(write(tmp_path, [mixed(2, 0.0, original=0.0)]))
    assert study.scores["retention"].isna().all()
    assert study.runs["retention"].isna().all()


def test_frames_have_plain_types(demo: Path) -> None:
    study = only(demo)
    for name in ("score", "stderr", "stored_bits", "checkpoint_bytes", "retention", "kl"):
        assert pd.api.types.is_numeric_dtype(study.scores[name]), name


def uniform(tier: str, score: float, **changes: object) -> RunRecord:
    settings = {
        "allocation.name": "uniform",
        "quantizer.high": tier,
        "quantizer.propagation": "exact",
        **changes,
    }
    return record(tier, [tier] * LAYERS, score, sweep=f"{tier} {changes}", **settings)


def labels(outputs: Path, *runs: RunRecord) -> list[str]:
    return sorted(only(write(outputs, runs)).plans["label"])


def test_two_plans_of_one_tier_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    text = {"calibration.name": "text", "calibration.alpha": 0.0}
    runs = [uniform("gptq4", 79.0), uniform("gptq4", 77.0, **text), uniform("gptq3", 70.0)]
    # what separates no more plans than the settings before it is not said
    assert labels(tmp_path, *runs) == [
        "gptq3",
        "gptq4, calibration.alpha=0.0",
        "gptq4, calibration.alpha=0.5",
    ]


def test_three_plans_of_one_tier_take_as_many_settings_as_tell_them_apart(tmp_path: Path) -> None:
    more_tokens = {"calibration.tokens": 2000}
    runs = [
        uniform("gptq4", 79.0),
        uniform("gptq4", 78.0, **more_tokens),
        uniform("gptq4", 77.0, **more_tokens, **{"calibration.weighting": "balance"}),
    ]
    assert labels(tmp_path, *runs) == [
        "gptq4, calibration.tokens=1000 calibration.weighting=count",
        "gptq4, calibration.tokens=2000 calibration.weighting=balance",
        "gptq4, calibration.tokens=2000 calibration.weighting=count",
    ]


def test_plans_of_one_tier_with_the_same_answers_keep_its_name(tmp_path: Path) -> None:
    first = uniform("gptq4", 79.0)
    same = with_answers(uniform("gptq4", 79.0, **{"order.name": "lim"}), first.artefacts.answers)
    assert labels(tmp_path, first, same) == ["gptq4", "gptq4"]


def test_settings_without_effect_make_no_plan(tmp_path: Path) -> None:
    runs = [mixed(2, 60.0), mixed(2, 60.0, **{"model.device": "cuda", "tracking.name": "none"})]
    assert len(only(write(tmp_path, runs)).plans) == 1
