"""A setting that nothing of a run reads is refused or named, not ignored without a word."""

import pytest

from luq.config import RunConfig
from luq.config.unread import reads, unread
from luq.errors import ConfigError
from pipelines.schema import as_asked
from tests.pipelines.test_schema import composed, to_config

BUDGET = ["allocation=budget", "allocation.bits=3"]
TIERS = [*BUDGET, "allocation.tiers=[gptq2,gptq3]"]
SEARCH = ["allocation=search", "allocation.bits=3"]
UNIFORM = ["allocation=uniform"]


def config(*overrides: str) -> RunConfig:
    return to_config(composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["allocation.tiers=[gptq2]"], "allocation.tiers"),
        (["allocation.drop=3"], "allocation.drop"),
        (["allocation.bits=3"], "allocation.bits"),
        (["allocation.samples=3"], "allocation.samples"),
        (["allocation.error=kl"], "allocation.error"),
        ([*BUDGET, "allocation.k=3"], "allocation.k"),
        ([*BUDGET, "allocation.swaps=3"], "allocation.swaps"),
        ([*BUDGET, "allocation.error=kl"], "allocation.error"),
        ([*SEARCH, "allocation.samples=3"], "allocation.samples"),
        ([*UNIFORM, "allocation.k=3"], "allocation.k"),
        (["allocation.unit=linear"], "allocation.unit"),
        ([*TIERS, "allocation.tie=true"], "allocation.tie"),
        ([*UNIFORM, "allocation.tiers=[gptq2]"], "allocation.tiers"),
    ],
)
def test_what_a_plan_does_not_read_of_the_allocation_is_refused(
    overrides: list[str], name: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* has no effect: it is read by "):
        config(*overrides)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([*UNIFORM, "profile.clusters=50"], "profile.clusters"),
        ([*UNIFORM, "profile.tokens=512"], "profile.tokens"),
        ([*UNIFORM, "profile.seeds=1"], "profile.seeds"),
        ([*UNIFORM, "profile.seed=1"], "profile.seed"),
        ([*UNIFORM, "order=depth"], "order.name"),
        ([*UNIFORM, "order.modality=text"], "order.modality"),
        ([*TIERS, "order=lim"], "order.name"),
        ([*SEARCH, "order=random"], "order.name"),
        (["allocation=threshold", "allocation.quantile=0.5", "order=depth"], "order.name"),
        (["order=depth", "order.modality=image"], "order.modality"),
        (["order.seed=3"], "order.seed"),
        (["order=depth", "order.draws=3"], "order.draws"),
        (["order=zd", "order.draws=3"], "order.draws"),
        ([*TIERS, "order.draws=3"], "order.draws"),
        (["profile.samples=3"], "profile.samples"),
        (["calibration=text", "calibration.weighting=balance"], "calibration.weighting"),
        (["quantizer.refine.rate=0.5"], "quantizer.refine"),
        ([*UNIFORM, "quantizer.high=float16", "quantizer.refine.steps=5"], "quantizer.refine"),
        ([*UNIFORM, "quantizer.high=rtn4", "quantizer.held_out=0.25"], "quantizer.held_out"),
        (
            [*UNIFORM, "quantizer.high=rtn4", "quantizer.token_weights=gradient"],
            "quantizer.token_weights",
        ),
        (["calibration=text", "quantizer.token_weights=modality"], "quantizer.token_weights"),
    ],
)
def test_what_a_run_does_not_read_of_other_groups_has_its_default(
    overrides: list[str], name: str
) -> None:
    asked = as_asked(composed(*overrides))
    assert [setting.name for setting in unread(asked)] == [name]
    assert unread(to_config(composed(*overrides))) == []


@pytest.mark.parametrize(
    "overrides",
    [
        [*TIERS, "allocation.error=kl", "profile.samples=3"],
        ["quantizer.refine.steps=5", "quantizer.refine.rate=0.5", "quantizer.high=float16"],
        ["quantizer.held_out=0.25", "quantizer.high=float16"],
        ["quantizer.token_weights=gradient", "quantizer.high=float16"],
        ["quantizer.token_weights=gradient", "calibration=text"],
        ["quantizer.token_weights=modality"],
        [
            *UNIFORM,
            "quantizer.high=rtn4",
            "quantizer.refine.fit=true",
            "quantizer.token_weights=gradient",
        ],
        [*TIERS, "allocation.unit=linear", "allocation.tie=true", "allocation.error=fisher"],
        [*SEARCH, "allocation.swaps=2", "allocation.samples=3", "allocation.error=delta_loss"],
        ["allocation=quality", "allocation.drop=3", "allocation.samples=3", "order=lim"],
        [*BUDGET, "order=random", "order.seed=3"],
        ["allocation=threshold", "allocation.quantile=0.5", "order.modality=image"],
        ["order=lim", "order.modality=image", "profile.clusters=50"],
        ["order.draws=3"],
        ["order=depth", "profile.orders=[entropy]", "order.draws=3"],
        ["allocation=threshold", "allocation.quantile=0.5", "order.draws=3"],
        ["order=kl", "profile.samples=3"],
        ["allocation.k=0", "order=depth", "profile.clusters=50"],
        [*UNIFORM, "profile=all_orders", "profile.clusters=50", "profile.samples=3"],
        [*UNIFORM, "seed=7"],
        ["calibration.weighting=balance"],
    ],
)
def test_what_a_run_reads_is_kept(overrides: list[str]) -> None:
    plain_overrides = [o for o in overrides if not o.startswith("profile=")]
    made = config(*overrides)
    for override in plain_overrides:
        assert reads(made, override.partition("=")[0]), override


def test_what_a_sweep_sets_for_all_its_runs_is_left_out_where_nothing_reads_it() -> None:
    shared = ["order=depth", "profile.clusters=50", "quantizer.propagation=high"]
    uniform = to_config(composed("experiment=gptq4", *shared), shared)
    assert (uniform.profile.clusters, uniform.order.name) == (100, "entropy")
    assert uniform.quantizer.propagation == "high"
    mixed = to_config(composed("experiment=luq_k4", *shared), shared)
    assert (mixed.profile.clusters, mixed.order.name) == (50, "depth")
    with pytest.raises(ConfigError, match=r"allocation\.k=3 has no effect"):
        to_config(composed("experiment=gptq4", "allocation.k=3", *shared), shared)
