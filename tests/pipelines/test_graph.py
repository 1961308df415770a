"""The graph of a run: what depends on what, and what runs share."""

from pathlib import Path

import pytest

from luq.allocation.plans import Allocation
from luq.errors import LuqError
from luq.store.store import NotMade, Store
from pipelines.allocate import allocate
from pipelines.graph import Graph
from pipelines.run import config_key
from tests.pipelines.test_schema import composed, to_config

LAYERS = 10  # of the pocket model
MIXED = Allocation((*["gptq4"] * (LAYERS - 2), "billm", "gptq4"))


def graph(*overrides: str) -> Graph:
    return Graph(to_config(composed(*overrides)), Path("/nowhere"))


def test_exact_shares_prefixes() -> None:
    run = graph()
    uniform = run.uniform("gptq4")
    mixed = run.layers(MIXED)
    assert uniform[: LAYERS - 2] == mixed[: LAYERS - 2]
    assert uniform[-1] != mixed[-1], "its inputs come from another layer"


@pytest.mark.parametrize("propagation", ["high", "float"])
def test_high_and_float_share_every_layer(propagation: str) -> None:
    run = graph(f"quantizer.propagation={propagation}")
    assert run.uniform("gptq4")[-1] == run.layers(MIXED)[-1]
    assert run.layers(MIXED)[-2].before == (
        run.uniform("gptq4", "exact")[: LAYERS - 2] if propagation == "high" else ()
    )


def test_the_all_high_model_is_the_same_with_exact_and_high() -> None:
    assert graph().uniform("gptq4") == graph("quantizer.propagation=high").uniform("gptq4")


def test_the_first_layer_sees_the_same_whatever_feeds_the_others() -> None:
    firsts = [graph(f"quantizer.propagation={p}").uniform("billm")[0] for p in ("exact", "float")]
    assert firsts[0] == firsts[1]


def test_layers_that_need_no_data_do_not_depend_on_it() -> None:
    assert graph("seed=0").uniform("rtn4") == graph("seed=1").uniform("rtn4")
    assert graph("seed=0").uniform("gptq4") != graph("seed=1").uniform("gptq4")
    pixels = "model.do_pad=true"
    assert graph().float_layers == graph(pixels).float_layers


@pytest.mark.parametrize(
    "override",
    ["model.system_prompt=Hello", "model.do_pad=true", "model.max_pixels=9", "model.min_pixels=9"],
)
def test_how_a_model_is_asked_is_in_the_keys(override: str) -> None:
    plain = graph()
    asked = graph(override)
    assert plain.calibration != asked.calibration
    answers = [run.answers(run.float_layers, run.questions)["gqa"] for run in (plain, asked)]
    assert answers[0] != answers[1]
    assert plain.key != asked.key


@pytest.mark.parametrize(
    "override",
    ["model.device=cpu", "group=other", "tracking=none", "checkpoint=true", "paths.outputs=/x",
     "model.activations_gb=1", "evaluation.strict=true", "model.name=other"],
)  # fmt: skip
def test_where_a_run_is_made_is_not_in_its_key(override: str) -> None:
    assert graph().key == graph(override).key


@pytest.mark.parametrize(
    "override", ["model.device=cuda:1", "model.activations_gb=1", "group=other", "tracking=none"]
)
def test_a_job_on_another_device_is_the_same_job(override: str) -> None:
    """Its lock and its failure are found again, whichever GPU it was given."""
    settings = to_config(composed(override))
    assert config_key(settings) == config_key(to_config(composed()))
    assert config_key(settings) != config_key(to_config(composed("seed=1")))


@pytest.mark.parametrize(
    "override",
    ["seed=1", "allocation.k=3", "quantizer.low=gptq2", "quantizer.propagation=high",
     "quantizer.tiers.billm.block=64", "evaluation.samples=3", "evaluation.text_tokens=256",
     "evaluation.fidelity=3", "evaluation.split=all", "profile.clusters=9", "order=lim",
     "calibration.tokens=999", "model=pocket_qwen", "evaluation.batch_size=3"],
)  # fmt: skip
def test_what_a_run_is_is_in_its_key(override: str) -> None:
    assert graph().key != graph(override).key


def test_a_tier_that_a_run_does_not_use_is_not_in_its_key() -> None:
    assert graph().key == graph("quantizer.tiers.gptq2.block=64").key


def test_the_sixteen_bit_answers_are_the_same_for_every_plan() -> None:
    runs = [graph("allocation.k=3"), graph("quantizer.low=gptq2"), graph("seed=1")]
    answers = [run.answers(run.float_layers, run.questions) for run in runs]
    assert answers[0] == answers[1]
    assert [a["gqa"].subset for a in answers] == [answers[0]["gqa"].subset] * 3


def test_a_plan_that_cannot_be_known_yet_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotMade) as missing:
        allocate(graph(), Store(tmp_path).peek)
    assert missing.value.artefact.stage == "profile"
    chosen = allocate(graph("order=depth", "allocation.k=2"), Store(tmp_path).peek)
    assert chosen.allocation.tiers[:3] == ("billm", "billm", "gptq4")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["allocation.k=11"], "pocket_llava has 10 decoder layers"),
        (["quantizer.tiers.gptq4.group_size=-1"], r"quantizer\.tiers\.gptq4\.group_size=-1 .*0"),
        (["quantizer.tiers.gptq2.bits=17"], r"quantizer\.tiers\.gptq2\.bits=17 .*2, 3, 4 or 8"),
        (["quantizer.tiers.billm.block=0"], r"quantizer\.tiers\.billm\.block=0 .*at least 1"),
        (["quantizer.tiers.billm.damping=nan"], r"quantizer\.tiers\.billm\.damping=nan .*0, 1"),
        (["evaluation.text=/nope"], "neither"),
        (["calibration.text=/nope"], "neither"),
        (["model.path=/nope"], "no such folder"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(overrides: list[str], match: str) -> None:
    with pytest.raises(LuqError, match=match):
        graph(*overrides)
