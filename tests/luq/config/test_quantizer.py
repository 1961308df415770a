"""One dataclass per tier method: what YAML and old records become, and what a linear must be like."""

from dataclasses import fields
from typing import Any

import pytest
import yaml

from luq.config import (
    TIERS,
    ArbRcTier,
    BillmTier,
    Float16Tier,
    GptqTier,
    QuantizerConfig,
    RtnTier,
    TernaryTier,
    TierConfig,
    TrellisTier,
)
from luq.config.building import build, plain
from luq.errors import ConfigError
from pipelines.schema import CONF


def quantizer(*, strict: bool = True, **tier: object) -> QuantizerConfig:
    """A config with one tier, as it stands in YAML."""
    settings = {"low": "it", "high": "it", "tiers": {"it": tier}}
    return build(QuantizerConfig, settings, "quantizer", strict)


@pytest.mark.parametrize("method", TIERS)
def test_a_method_in_yaml_is_its_class_with_its_defaults(method: str) -> None:
    tier = quantizer(method=method).tiers["it"]
    assert type(tier) is TIERS[method]
    assert tier == TIERS[method]()
    assert tier.method == method


def test_parameters_in_yaml_reach_the_tier() -> None:
    tier = quantizer(method="gptq", bits=2, damping=1, act_order=True).tiers["it"]
    assert tier == GptqTier(bits=2, damping=1.0, act_order=True)


@pytest.mark.parametrize(
    ("tier", "match"),
    [
        ({"method": "gptqq"}, r"quantizer\.tiers\.it\.method 'gptqq': did you mean gptq"),
        ({"bits": 4}, r"quantizer\.tiers\.it=.* it must name a method"),
        ({"method": "gptq", "bitz": 3}, r"quantizer\.tiers\.it 'bitz': did you mean bits"),
        ({"method": "rtn", "descent": 1}, r"setting in quantizer\.tiers\.it 'descent'"),
        ({"method": "gptq", "bits": "four"}, r"quantizer\.tiers\.it\.bits='four' .* type int"),
        ({"method": "gptq", "bits": True}, r"quantizer\.tiers\.it\.bits=True .* type int"),
    ],
)
def test_what_a_method_does_not_have_is_an_error_with_the_nearest(
    tier: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        quantizer(**tier)


def test_old_records_name_parameters_that_a_method_never_read() -> None:
    """Records of schema 3 list the parameters of all methods for every tier."""
    record = {
        "method": "rtn", "bits": 3, "group_size": 64, "symmetric": True, "act_order": False,
        "static_groups": False, "clip_steps": 5, "descent": 0, "damping": 0.01, "block": 128,
        "window": 12, "true_sequential": True, "faithful": False,
    }  # fmt: skip
    tier = quantizer(strict=False, **record).tiers["it"]
    assert tier == RtnTier(bits=3, group_size=64, symmetric=True, clip_steps=5)


def test_the_plain_form_of_every_tier_of_conf_builds_the_same_tier() -> None:
    settings = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
    config = build(QuantizerConfig, settings, "quantizer")
    table = plain(config)
    assert {tier["method"] for tier in table["tiers"].values()} == set(TIERS)
    assert build(QuantizerConfig, table, "quantizer") == config


def test_tiers_of_two_methods_with_equal_parameters_differ() -> None:
    assert GptqTier() != TernaryTier()
    assert plain(ArbRcTier()) != plain(BillmTier())


@pytest.mark.parametrize("tier", [RtnTier(), GptqTier(), TernaryTier()])
def test_a_group_size_must_divide_the_columns(tier: TierConfig) -> None:
    tier.check(256)
    with pytest.raises(ConfigError, match="group size 128 does not divide the 192 columns"):
        tier.check(192)


@pytest.mark.parametrize("kind", [RtnTier, GptqTier, TernaryTier])
def test_one_group_per_row_fits_any_columns(kind: Any) -> None:
    kind(group_size=0).check(7)


@pytest.mark.parametrize("kind", [ArbRcTier, BillmTier])
def test_a_block_is_cut_to_the_columns_and_must_divide_them(kind: Any) -> None:
    kind().check(100)
    kind().check(256)
    with pytest.raises(ConfigError, match="group size 128 does not divide the 192 columns"):
        kind().check(192)


def test_trellis_and_16_bit_take_any_columns() -> None:
    TrellisTier().check(7)
    Float16Tier().check(7)


def test_only_tiers_without_data_are_data_free_and_never_see_packed_groups() -> None:
    assert {method for method, kind in TIERS.items() if kind.data_free} == {"float16", "rtn"}
    for kind in TIERS.values():
        assert kind().sees_packed_groups is not kind.data_free
        names = {entry.name for entry in fields(kind)}
        if not kind.data_free:
            assert "true_sequential" in names
            assert not kind(true_sequential=False).sees_packed_groups  # type: ignore[call-arg]
