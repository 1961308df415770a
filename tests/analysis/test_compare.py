import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import compare, frame, terminal
from analysis.loading import load
from luq.errors import ConfigError
from pipelines import runs_folder
from pipelines.record import RunRecord
from tests.analysis.conftest import Keep
from tests.analysis.synthetic import LAYERS, mixed, record, with_answers

ONE = {"gqa": 50.0}


def along(outputs: Path, axis: str, base: str | None = None) -> list[compare.Comparison]:
    return compare.along(frame.studies(load(outputs))[0], axis, compare.Reader(outputs), base)


def multimodal(k: int, seed: int = 0, **changes: object) -> RunRecord:
    return mixed(k, ONE, seed=seed, **changes)


def text(k: int, seed: int = 0) -> RunRecord:
    return multimodal(k, seed, **{"calibration.name": "text", "calibration.alpha": 0.0})


def test_paired_by_plan_and_question(tmp_path: Path, keep: Keep) -> None:
    keep(text(2), "1100110011")
    keep(multimodal(2), "1111111111")
    keep(text(4), "0000000000")
    keep(multimodal(4), "0000000000")
    keep(multimodal(6), "1111111111")  # nobody ran it with text: it does not count
    (comparison,) = along(tmp_path, "calibration")
    assert (
        comparison.a,
        comparison.b,
        comparison.runs,
        len(comparison.plans),
        comparison.by_question,
    ) == (
        "text",
        "multimodal 0.5",
        2,
        2,
        True,
    )
    pooled = comparison.pooled
    assert (pooled.a, pooled.b, pooled.mean, pooled.n) == pytest.approx((30.0, 50.0, 20.0, 10))
    assert (pooled.wins, pooled.ties, pooled.losses) == (4, 6, 0)
    assert pooled.verdict == "better"
    assert sorted(round(d.mean, 6) for _, d in comparison.plans) == [0.0, 40.0]
    assert comparison.divergence is not None
    assert comparison.divergence.mean == pytest.approx(-0.08)


def test_seeds_are_averaged_question_by_question(tmp_path: Path, keep: Keep) -> None:
    for seed, marks in enumerate(("1100", "1010")):
        keep(text(2, seed), marks)
        keep(multimodal(2, seed), "1111")
    (comparison,) = along(tmp_path, "calibration")
    assert (comparison.runs, len(comparison.plans)) == (2, 1)
    assert (comparison.pooled.wins, comparison.pooled.ties) == (3, 1)
    assert comparison.pooled.a == pytest.approx(50)


def test_a_setting_with_more_seeds_weighs_no_more(tmp_path: Path, keep: Keep) -> None:
    for seed in (0, 1, 2):
        keep(text(2, seed), "1111")
    keep(text(4), "0000")
    keep(multimodal(2), "1111")
    keep(multimodal(4), "0000")
    (comparison,) = along(tmp_path, "calibration")
    assert (comparison.pooled.a, comparison.pooled.b, comparison.pooled.mean) == (50.0, 50.0, 0.0)
    for file in (tmp_path / "store" / "evaluation").iterdir():
        shutil.rmtree(file)
    (comparison,) = along(tmp_path, "calibration")
    assert not comparison.by_question
    assert comparison.pooled.mean == 0.0


def test_orders_against_entropy_best_first(tmp_path: Path, keep: Keep) -> None:
    keep(multimodal(2), "1100" * 5)
    keep(multimodal(2, **{"order.name": "lim"}), "1111" * 5)
    keep(multimodal(2, **{"order.name": "zd"}), "0000" * 5)
    keep(multimodal(2, **{"order.modality": "image"}), "1100" * 5)
    comparisons = along(tmp_path, "order")
    assert [(c.b, round(c.pooled.mean, 6)) for c in comparisons] == [
        ("lim", 50.0),
        ("entropy (image tokens)", 0.0),
        ("zd", -50.0),
    ]
    assert {c.a for c in comparisons} == {"entropy"}
    assert [c.pooled.verdict for c in comparisons] == ["better", "tie", "worse"]


def test_other_settings_are_never_mixed(tmp_path: Path, keep: Keep) -> None:
    keep(multimodal(2), "1111")
    keep(multimodal(2, **{"order.name": "lim", "calibration.alpha": 0.25}), "0000")
    assert along(tmp_path, "order") == []


def test_propagation_and_low_tiers(tmp_path: Path, keep: Keep) -> None:
    keep(multimodal(2), "1111")
    keep(multimodal(2, **{"quantizer.propagation": "exact"}), "1110")
    keep(multimodal(2, **{"quantizer.low": "gptq2"}), "1100")
    (comparison,) = along(tmp_path, "propagation")
    assert (comparison.a, comparison.b, comparison.pooled.mean) == ("exact", "high", 25.0)
    (comparison,) = along(tmp_path, "quantizer", "gptq2 under gptq4")
    assert (comparison.b, comparison.pooled.mean) == ("billm under gptq4", 50.0)


def test_weighting_of_tokens_with_one_tier_everywhere_too(tmp_path: Path, keep: Keep) -> None:
    def uniform(answers_: str, tier: str = "gptq2", **changes: object) -> None:
        settings = {
            "calibration.weighting": "count",
            "calibration.image_factor": 1.0,
            "allocation.name": "uniform",
            **changes,
        }
        keep(
            record(
                f"{tier} {changes}", [tier] * LAYERS, ONE, **{"quantizer.high": tier, **settings}
            ),
            answers_,
        )

    uniform("1100")
    uniform("1111", **{"calibration.weighting": "balance"})
    uniform("1000", **{"calibration.weighting": "factor", "calibration.image_factor": 0.25})
    uniform("0000", "float16", **{"calibration.weighting": "balance"})
    comparisons = along(tmp_path, "weighting")
    assert [(c.a, c.b, c.pooled.mean) for c in comparisons] == [
        ("count", "balance", 50.0),
        ("count", "factor 0.25", -25.0),
    ]
    assert along(tmp_path, "order") == []


def test_how_layers_are_packed_with_one_tier_everywhere_too(tmp_path: Path, keep: Keep) -> None:
    for tier, weights, answers_ in (
        ("gptq2", "count", "1100"),
        ("gptq2", "gradient", "1110"),
        ("gptq3", "count", "1110"),
        ("gptq3", "gradient", "1111"),
        ("float16", "count", "1111"),
    ):
        settings = {
            "allocation.name": "uniform",
            "quantizer.high": tier,
            "quantizer.token_weights": weights,
        }
        keep(record(f"{tier} {weights}", [tier] * LAYERS, ONE, **settings), answers_)
    (comparison,) = along(tmp_path, "quantizer.token_weights", "count")
    assert (comparison.a, comparison.b, comparison.pooled.mean) == ("count", "gradient", 25.0)
    assert [difference.mean for _, difference in comparison.plans] == [25.0, 25.0]


def test_without_answers_from_standard_errors(demo: Path) -> None:
    (comparison,) = along(demo, "calibration")
    assert not comparison.by_question
    assert comparison.divergence is None
    assert comparison.pooled.mean == pytest.approx(5.0)
    reach = 1.96 * (2 * 2.0**2) ** 0.5 / 3**0.5
    assert comparison.pooled.high - comparison.pooled.mean == pytest.approx(reach)
    assert len(comparison.plans) == 3


def test_any_setting_is_an_axis(tmp_path: Path, keep: Keep) -> None:
    keep(multimodal(2), "1100")
    keep(multimodal(2, **{"profile.clusters": 50}), "1111")
    (comparison,) = along(tmp_path, "profile.clusters", "50")
    assert (comparison.a, comparison.b, comparison.pooled.mean) == ("50", "100", -50.0)
    with pytest.raises(ConfigError, match=r"unknown axis 'profile\.cluster'.*profile\.clusters"):
        along(tmp_path, "profile.cluster")
    with pytest.raises(ConfigError, match=r"unknown value of profile\.clusters '51'"):
        along(tmp_path, "profile.clusters", "51")


def test_nothing_to_compare(tmp_path: Path, keep: Keep) -> None:
    keep(multimodal(2), "1111")
    assert all(along(tmp_path, axis) == [] for axis in compare.LABELS)


def test_loss_against_its_own_16_bit_model(tmp_path: Path, keep: Keep) -> None:
    record = keep(multimodal(2), "1000", "1110")
    lost = compare.loss([record], compare.Reader(tmp_path))
    assert lost is not None
    assert (lost.a, lost.b, lost.mean) == (75.0, 25.0, -50.0)
    gone = with_answers(record, {"gqa": "gone"})
    assert compare.loss([gone], compare.Reader(tmp_path)) is None


def test_two_runs_are_compared_in_the_terminal(
    tmp_path: Path, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    left = keep(text(2), "1100110011")
    right = keep(multimodal(2), "1111111111")
    terminal.compare_runs(tmp_path, left.key, right.key)
    printed = capsys.readouterr().out
    assert "gqa" in printed
    assert "+40.0" in printed
    assert "not asked the same" not in printed


def test_runs_that_share_no_question_are_an_error(tmp_path: Path, keep: Keep) -> None:
    left = keep(multimodal(2), "1111")
    right = record("other", score={"mme": 50.0}, subset="q2")
    runs_folder.write(tmp_path, right)
    with pytest.raises(ConfigError, match="share no question"):
        terminal.compare_runs(tmp_path, left.key, right.key)


def test_a_whole_sweep_is_compared_along_an_axis_in_the_terminal(
    tmp_path: Path, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(text(2), "1100")
    keep(multimodal(2), "1111")
    terminal.compare_axis(tmp_path, "demo", "calibration", None)
    assert "multimodal 0.5" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="do not differ in 'order' alone"):
        terminal.compare_axis(tmp_path, "demo", "order", None)


def test_a_group_of_settings_is_an_axis(tmp_path: Path, keep: Keep) -> None:
    keep(multimodal(2), "1100")
    keep(multimodal(2, **{"profile.clusters": 50, "profile.tokens": 100}), "1111")
    (comparison,) = along(tmp_path, "profile")
    assert "'profile.clusters': 100" in comparison.a
    assert comparison.pooled.mean == 50.0


def test_without_fidelity_there_is_no_divergence(tmp_path: Path, keep: Keep) -> None:
    for run, right in ((text(2), "1100"), (multimodal(2), "1111")):
        runs_folder.write(tmp_path, replace(keep(run, right), fidelity={}))
    (comparison,) = along(tmp_path, "calibration")
    assert comparison.by_question
    assert comparison.divergence is None
