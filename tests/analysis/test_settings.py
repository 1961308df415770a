"""Settings under dotted names, and what makes two configs one plan."""

from dataclasses import replace

from analysis import settings
from luq.config import CalibrationConfig, OrderConfig
from tests.analysis.synthetic import config


def test_settings_have_dotted_names_in_their_order() -> None:
    table = settings.settings_of(config())
    assert table["calibration.alpha"] == 0.5
    assert table["quantizer.tiers.gptq3.bits"] == 3
    assert table["quantizer.tiers.billm.method"] == "billm"
    assert list(table) == sorted(table, key=lambda name: name.split("."))


def test_what_changes_no_result_is_no_setting() -> None:
    table = settings.settings_of(config())
    assert "model.name" in table
    assert not {"group", "paths.outputs", "tracking.name", "model.device"} & set(table)
    assert "evaluation.batch_size" not in table


def test_runs_that_differ_in_seeds_are_one_plan() -> None:
    seeds = config(**{"seed": 3, "calibration.seed": 3, "order.seed": 4})
    assert settings.plan_key(seeds) == settings.plan_key(config())
    assert settings.plan_key(config(**{"calibration.tokens": 2000})) != settings.plan_key(config())


def test_seeds_are_only_what_is_named_seed() -> None:
    assert "profile.seeds" in settings.seedless(settings.settings_of(config()))


def test_a_group_or_a_setting_is_left_out_and_not_what_begins_alike() -> None:
    table = {"order.name": "lim", "order.seed": 0, "orders": 1, "seed": 2}
    assert settings.without(table, "order", "seed") == {"orders": 1}


def test_settings_differ_where_one_lacks_them() -> None:
    assert settings.differing([{"a": 1, "b": [2]}, {"a": 1, "b": [2], "c": 3}]) == ["c"]
    assert settings.differing([{"a": 1}]) == []


def test_labels() -> None:
    assert settings.order_label(OrderConfig("lim")) == "lim"
    assert settings.order_label(OrderConfig("lim", "image")) == "lim (image tokens)"
    mix = CalibrationConfig("multimodal", 0.25)
    assert settings.calibration_label(mix) == "multimodal 0.25"
    assert settings.calibration_label(replace(mix, alpha=0.0)) == "text"
    assert settings.calibration_label(replace(mix, source="/a/mine.jsonl")) == "mine.jsonl"
    assert settings.weighting_label(mix) == "count"
    factor = replace(mix, weighting="factor", image_factor=0.5)
    assert settings.weighting_label(factor) == "factor 0.5"
