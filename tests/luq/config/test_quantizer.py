"""One dataclass per tier method: what YAML and old records become, and what a linear must be like."""

from dataclasses import fields
from typing import Any

import pytest
import yaml

from luq.config import (
    TIERS,
    ArbRcTier,
    BillmTier,
    GptqTier,
    QuantizerConfig,
    RtnTier,
    TernaryTier,
)
from luq.config.building import build, plain
from luq.config.quantizer.base import columns_per_group
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


@pytest.mark.parametrize(
    ("columns", "size", "expected"),
    [(576, 128, 128), (100, 128, 100), (128, 128, 128), (7, 0, 7), (7, 10**30, 7)],
)
def test_a_group_is_cut_to_the_columns(columns: int, size: int, expected: int) -> None:
    assert columns_per_group(columns, size) == expected


NAN = float("nan")
INFINITY = float("inf")
# Values that no parameter of that name can have, and what the error says is allowed.
IMPOSSIBLE: dict[str, tuple[list[object], str]] = {
    "bits": ([0, -1, 5, 17, 10**20, NAN, 4.0, True, "4", None], "2, 3, 4 or 8|int"),
    "trellis.bits": (
        [0, -1, 0.75, 1.1, 4.25, 5, 10**20, NAN, INFINITY, True, "4", None],
        r"a multiple of 1/4 in \[1, 4\]|float",
    ),
    "group_size": (
        [-1, -128, 10**20, NAN, INFINITY, 64.0, True, "64", None],
        "0 .*or at least 1|int",
    ),
    "block": ([0, -1, NAN, INFINITY, 64.0, True, "64", None], "at least 1|int"),
    "clip_steps": ([-1, 10**20, NAN, INFINITY, 2.0, True, None], "0 or more|at most|int"),
    "clip_root": ([True, 1, "yes", None], "false, unless|bool"),
    "descent": ([-1, 10**20, NAN, INFINITY, 2.0, True, None], "0 or more|at most|int"),
    "window": ([0, 3, 17, -12, NAN, INFINITY, 12.0, True, None], r"in \[bits \+ 4, 16\]|int"),
    "damping": ([-0.01, 1.01, NAN, INFINITY, -INFINITY, True, "1", None], r"in \[0, 1\]|float"),
    "symmetric": ([1, 0.0, NAN, "yes", None], "bool"),
    "act_order": ([1, "yes", None], "bool"),
    "static_groups": ([1, None], "bool"),
    "true_sequential": ([1, None], "bool"),
    "faithful": ([1, None], "bool"),
    "type": (["q4", "Q4_K", "", 4, None], "one of q8_0, .*|str"),
    "fallback": ([1, "yes", None], "bool"),
}
PARAMETERS = [(method, entry.name) for method, kind in TIERS.items() for entry in fields(kind)]


@pytest.mark.parametrize(("method", "name"), PARAMETERS)
def test_an_impossible_parameter_is_named_with_what_is_allowed(method: str, name: str) -> None:
    values, allowed = IMPOSSIBLE.get(f"{method}.{name}", IMPOSSIBLE.get(name, ([], "")))
    assert values
    for value in values:
        with pytest.raises(ConfigError, match=rf"^quantizer\.tiers\.it\.{name}=.* ({allowed})"):
            quantizer(method=method, **{name: value})
        with pytest.raises(ConfigError, match=rf"^tier\.{name}=.* ({allowed})"):
            TIERS[method](**{name: value})


def test_the_error_of_a_tier_names_it_also_where_its_name_is_a_part_of_another_key() -> None:
    for bits in (5, "four"):
        tier = {"method": "rtn", "bits": bits}
        settings = {"low": "tier", "high": "tier", "tiers": {"tier": tier}}
        match = rf"^quantizer\.tiers\.tier\.bits={bits!r} is not possible"
        with pytest.raises(ConfigError, match=match):
            build(QuantizerConfig, settings, "quantizer")


def test_only_tiers_without_data_are_data_free_and_never_see_packed_groups() -> None:
    assert {method for method, kind in TIERS.items() if kind.data_free} == {"float16", "rtn"}
    for kind in TIERS.values():
        assert kind().sees_packed_groups is not kind.data_free
        names = {entry.name for entry in fields(kind)}
        if not kind.data_free:
            assert "true_sequential" in names
            assert not kind(true_sequential=False).sees_packed_groups  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("refine", "match"),
    [
        ({"steps": -1}, r"quantizer\.refine\.steps=-1 .* in \[0, 10000\]"),
        ({"steps": 5, "rate": 0.0}, r"quantizer\.refine\.rate=0\.0 .* above 0"),
        ({"steps": 5, "batch": 0}, r"quantizer\.refine\.batch=0 .* at least 1"),
        ({"steps": 5, "held_out": 0.6}, r"quantizer\.refine\.held_out=0\.6 .* in \[0, 0\.5\]"),
        ({"fit": True, "held_out": 0.0}, r"quantizer\.refine\.held_out=0\.0 .* above 0 for a fit"),
        ({"step": 5}, r"setting in quantizer\.refine 'step': did you mean steps"),
    ],
)
def test_a_refinement_that_cannot_be_is_an_error(refine: dict[str, Any], match: str) -> None:
    settings = {"low": "it", "high": "it", "tiers": {"it": {"method": "rtn"}}, "refine": refine}
    with pytest.raises(ConfigError, match=match):
        build(QuantizerConfig, settings, "quantizer")


@pytest.mark.parametrize("share", [-0.1, 1e-320, 0.005, 0.6, float("nan")])
def test_a_share_that_cannot_be_held_out_is_an_error(share: float) -> None:
    with pytest.raises(ConfigError, match=r"quantizer\.held_out=.* 0, or in \[0\.01, 0\.5\]"):
        QuantizerConfig("it", "it", tiers={"it": RtnTier()}, held_out=share)
