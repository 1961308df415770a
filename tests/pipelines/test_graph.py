"""The graph of a run: what depends on what, and what runs share."""

import json
from inspect import isabstract
from pathlib import Path
from typing import Any

import pytest

from luq.allocation.allocations import Allocation, LinearTier
from luq.errors import ConfigError, LuqError
from luq.planning import allocate
from luq.quantization import artefacts
from luq.quantization.artefacts import ModalityGradients, TokenGradients
from luq.questions.text import TextSource
from luq.store.artefact import Artefact
from luq.store.store import NotMade, Store
from pipelines.graph import MAKERS, Graph
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


def test_linears_in_other_tiers_make_another_layer() -> None:
    run = graph()
    uniform = run.uniform("gptq4")
    mixed = run.layers(Allocation(("gptq4",) * LAYERS, (LinearTier(1, "mlp.up_proj", "billm"),)))
    assert mixed[0] == uniform[0]
    assert mixed[1] != uniform[1]
    assert mixed[1].description == "layer 1 in gptq4+billm"
    assert mixed[2] != uniform[2], "its inputs come from another layer"


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


def test_layers_of_shrunk_hessians_are_others_but_for_tiers_that_have_none() -> None:
    plain = graph("quantizer.low=rtn4", "quantizer.high=gptq4")
    shrunk = graph("quantizer.low=rtn4", "quantizer.high=gptq4", "quantizer.held_out=0.25")
    assert plain.key != shrunk.key
    assert plain.uniform("rtn4") == shrunk.uniform("rtn4")
    assert not set(plain.uniform("gptq4")) & set(shrunk.uniform("gptq4"))


def by_gradients(token_weights: str) -> Graph:
    weights = f"quantizer.token_weights={token_weights}"
    return graph("quantizer.low=rtn4", "quantizer.high=gptq4", weights)


def test_tokens_by_gradients_make_other_layers_but_of_tiers_that_need_no_data() -> None:
    plain = graph("quantizer.low=rtn4", "quantizer.high=gptq4")
    guided = by_gradients("gradient")
    assert plain.key != guided.key
    assert plain.uniform("rtn4") == guided.uniform("rtn4")
    assert not set(plain.uniform("gptq4")) & set(guided.uniform("gptq4"))
    (gradients,) = {layer.gradients for layer in guided.uniform("gptq4")}
    assert gradients.calibration == guided.calibration


def test_gradients_by_modality_are_made_of_those_of_tokens() -> None:
    (of_tokens,) = {layer.gradients for layer in by_gradients("gradient").uniform("gptq4")}
    averaged = by_gradients("modality")
    (by_modality,) = {layer.gradients for layer in averaged.uniform("gptq4")}
    assert by_modality.tokens == of_tokens
    assert averaged.key != by_gradients("gradient").key


@pytest.mark.parametrize("token_weights", ["gradient", "modality"])
def test_a_streamed_model_has_no_gradients_by_which_tokens_could_count(token_weights: str) -> None:
    with pytest.raises(ConfigError, match=rf"token_weights={token_weights} .* model\.stream=true"):
        graph(f"quantizer.token_weights={token_weights}", "model.stream=true")


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
     "calibration.tokens=999", "model=pocket_qwen", "evaluation.batch_size=3",
     "evaluation.compute=bfloat16"],
)  # fmt: skip
def test_what_a_run_is_is_in_its_key(override: str) -> None:
    assert graph().key != graph(override).key


@pytest.mark.parametrize("kind", [*MAKERS, TokenGradients, ModalityGradients])
def test_what_an_older_version_packed_is_another_run(
    kind: type[Artefact[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("quantizer.token_weights=modality", "quantizer.refine.fit=true")
    key = graph(*overrides).key
    assert graph(*overrides).key == key
    monkeypatch.setattr(kind, "version", kind.version + 1)
    assert graph(*overrides).key != key


# They are among what a key is made of, or make no number of a record.
OTHERS = {
    "Calibration", "EntropyProfile", "PackedPart", "PocketQuestions", "SharedQuestions",
    "TokenGradients", "ModalityGradients", "FirstTokens", "GgufAnswers",
}  # fmt: skip


def test_no_maker_is_forgotten() -> None:
    kinds = [Artefact]
    for kind in kinds:
        kinds += kind.__subclasses__()
    ours = [kind for kind in kinds if kind.__module__.startswith("luq.")]
    concrete = {kind.__name__ for kind in ours if not isabstract(kind)}
    assert concrete == OTHERS | {kind.__name__ for kind in MAKERS}


def test_what_an_older_version_refined_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    key = graph("quantizer.refine.fit=true").key
    plain = graph().key
    monkeypatch.setattr(artefacts, "REFINEMENT_VERSION", artefacts.REFINEMENT_VERSION + 1)
    assert graph("quantizer.refine.fit=true").key != key
    assert graph().key == plain


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


BUDGET = ["allocation=budget"]
SEARCH = ["allocation=search"]


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
        (["evaluation.data=/nope"], r"mme\.parquet is missing"),
        (["model.path=/nope"], "no such folder"),
        (["profile.clusters=656"], r"clusters=656 .* 4096 .* profile\.clusters=655 or less"),
        (["profile.clusters=52", "calibration.tokens=256"], r"clusters=52 .* 256 output"),
        (["calibration.sample_tokens=2049"], r"sample_tokens=2049 .* context of 2048 tokens"),
        (["evaluation.text_length=2049"], r"text_length=2049 .* evaluation\.text_length=2048 or"),
        (["evaluation.benchmarks=[mme]", "evaluation.sources.gqa=hub"], "gqa is not among"),
        (["calibration=text", "order.modality=image"], "has no image tokens"),
        ([*BUDGET, "allocation.bits=0.5"], r"smallest plan has 2\.438 stored .* billm, gptq4"),
        ([*BUDGET, "allocation.bits=4.1", "quantizer.low=gptq4"], "smallest plan has 4.156"),
        ([*BUDGET, "allocation.bits=2.1", "allocation.tiers=[gptq2,gptq3]"], "has 2.141 stored"),
        ([*BUDGET, "allocation.bits=2.9", "allocation.tiers=[gptq3]"], "has 3.148 stored"),
        ([*SEARCH, "allocation.bits=0"], "smallest plan"),
        ([*BUDGET, "allocation.bytes=2.9MB"], r"takes 2\.95 MB or more, 2\.30 MB of it for"),
        ([*SEARCH, "allocation.bytes=1kB"], "whole checkpoint takes"),
        ([*BUDGET, "allocation.bytes=3TB"], "must be a size like"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(overrides: list[str], match: str) -> None:
    with pytest.raises(LuqError, match=match):
        graph(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["calibration.sample_tokens=2048"],
        ["evaluation.text_length=2048"],
        ["evaluation.text_length=4096", "evaluation.text_tokens=0"],
        ["calibration.sample_tokens=4096", "calibration.alpha=1"],
        ["profile.clusters=655"],
        ["evaluation.benchmarks=[textvqa_ocr]", "evaluation.sources.textvqa=pocket"],
        [*BUDGET, "allocation.bits=2.9", "allocation.tiers=[gptq2,gptq3]"],
        [*BUDGET, "allocation.bytes=3MB"],
    ],
)
def test_what_can_work_is_not_refused(overrides: list[str]) -> None:
    graph(*overrides)


def test_a_uniform_run_depends_on_nothing_that_it_does_not_read() -> None:
    float16 = graph("experiment=float16")
    assert not float16.is_profiled
    assert not float16.is_calibrated
    for override in ("calibration=text", "calibration.text=/nowhere", "seed=3"):
        assert graph("experiment=float16", override).key == float16.key
    gptq3 = graph("experiment=gptq3")
    assert not gptq3.is_profiled
    assert gptq3.is_calibrated
    assert graph("experiment=gptq3", "calibration=text").key != gptq3.key
    assert graph("experiment=gptq3", "order.seed=0").key == gptq3.key
    scored = graph("experiment=gptq3", "profile=all_orders")
    assert scored.is_profiled, "the record is asked for scores"
    assert scored.key != gptq3.key


@pytest.mark.parametrize(("k", "is_profiled"), [(0, False), (1, True), (9, True), (10, False)])
def test_all_layers_or_none_need_no_profile(k: int, is_profiled: bool) -> None:
    run = graph(f"allocation.k={k}")
    assert run.is_profiled == is_profiled
    assert (run.key == graph(f"allocation.k={k}", "profile.clusters=50").key) != is_profiled
    # of tiers that need no data, the one that the layers get decides
    free = graph(f"allocation.k={k}", "quantizer.low=rtn4")
    assert free.is_calibrated == (k != LAYERS)


def test_a_uniform_plan_is_known_at_once(tmp_path: Path) -> None:
    chosen = allocate(graph("allocation.k=10"), Store(tmp_path).peek)
    assert chosen.allocation.tiers == ("billm",) * LAYERS


def test_status_reads_no_text_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of the hub is compared when a run may fetch it; files are compared at once."""

    def fail(self: TextSource) -> str:
        raise AssertionError("read")

    monkeypatch.setattr(TextSource, "read", fail)
    config = to_config(composed("calibration.text=wikitext"))
    Graph(config, Path("/nowhere"), download=False)
    with pytest.raises(AssertionError, match="read"):
        Graph(config, Path("/nowhere"))
    both = to_config(composed("calibration.text=wikitext", "evaluation.text=wikitext"))
    Graph(both, Path("/nowhere"))


OWN_TEXT = "One sees a table with a cup and a plate on it, and beside it nothing that matters. "


def own_file(folder: Path, *texts: str) -> Path:
    """A user's own calibration samples."""
    file = folder / "mine.jsonl"
    lines = [json.dumps({"text": text}) for text in texts]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_own_samples_are_the_calibration_set_whatever_would_be_mixed(tmp_path: Path) -> None:
    source = f"calibration.source={own_file(tmp_path, OWN_TEXT)}"
    run = graph(source)
    assert run.config.calibration.alpha == 1.0, "nothing is mixed, and a record does not say 0.5"
    for setting in ("calibration.alpha=0.2", "calibration.tokens=512", "calibration.seed=3"):
        assert graph(source, setting).key == run.key
    assert graph(source, "calibration.weighting=balance").key != run.key
    assert graph(source, "calibration.compute=bfloat16").key != run.key
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert graph(f"calibration.source={own_file(elsewhere, OWN_TEXT)}").key == run.key
    own_file(tmp_path, OWN_TEXT, OWN_TEXT)
    assert graph(source).key != run.key
    (tmp_path / "mine.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(LuqError, match=r"mine\.jsonl:1 is no JSON"):
        graph(source)


def test_own_samples_share_no_text_with_the_perplexity(tmp_path: Path) -> None:
    words = " ".join(f"w{index}" for index in range(200))
    report = tmp_path / "report.txt"
    report.write_text(words, encoding="utf-8")
    evaluated = [
        f"evaluation.text={report}",
        "evaluation.text_tokens=64",
        "evaluation.text_length=32",
    ]
    graph(f"calibration.source={own_file(tmp_path, OWN_TEXT)}", *evaluated)
    with pytest.raises(LuqError, match=r"mine\.jsonl and evaluation\.text=.* share"):
        graph(f"calibration.source={own_file(tmp_path, words[40:700])}", *evaluated)


def test_a_streamed_model_gives_no_gradients() -> None:
    search = ("allocation=search", "allocation.bits=3", "model.stream=true")
    with pytest.raises(LuqError, match=r"error=fisher is not possible .*error=output_error"):
        graph(*search)
    by_outputs = graph(*search, "allocation.error=output_error")
    assert by_outputs.key != graph(*search[:2]).key


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["quantizer.high=q4_k"], r"tier q4_k is not possible for pocket_llava: [a-z_.]+ "
         r"of layer 0 has rows of \d+ weights.* llama\.cpp takes q5_0 there"),
        (["quantizer.high=gptq4", "quantizer.low=q2_k", "allocation=count"], "tier q2_k"),
        (["quantizer.embeddings=q6_k"], r"embeddings=q6_k is not possible .* rows of 128 weights"),
        (["quantizer.vision=q4_k"], r"vision=q4_k is not possible for pocket_llava: a weight of its vision has rows"),
        (["quantizer.high=gptq4", "allocation=budget", "allocation.bits=4", "allocation.tiers=[gptq4,tq1_0]"], "tier tq1_0"),
    ],
)  # fmt: skip
def test_rows_that_a_tier_does_not_take_are_known_before_any_work(
    overrides: list[str], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        graph(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["quantizer.high=q4_k", "quantizer.tiers.q4_k.fallback=true"],
        ["quantizer.high=q4_0"],
        ["quantizer.high=gptq4", "quantizer.low=q2_k", "allocation=uniform"],
    ],
)
def test_rows_that_its_tiers_take_make_a_graph(overrides: list[str]) -> None:
    assert graph(*overrides).layers
