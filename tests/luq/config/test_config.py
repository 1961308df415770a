"""Settings: a wrong one is refused with what is possible, before any work starts."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from luq.allocation import orders, plans
from luq.config import (
    AllocationConfig,
    ArbRcTier,
    BillmTier,
    CalibrationConfig,
    EvaluationConfig,
    GgufTier,
    GptqTier,
    ModelConfig,
    OrderConfig,
    PathsConfig,
    ProfileConfig,
    QuantizerConfig,
    RtnTier,
    RunConfig,
    TernaryTier,
    TrackingConfig,
    TrellisTier,
)
from luq.config.allocation import PLANS
from luq.config.evaluation import BENCHMARKS
from luq.config.order import ORDERS
from luq.errors import ConfigError
from luq.evaluation.scorers import SCORERS
from luq.questions.prompts import PROMPTS, TARGETS

BAD = {
    "alpha": (lambda: CalibrationConfig("x", 1.5), r"calibration\.alpha=1\.5 .* in \[0, 1\]"),
    "few tokens": (lambda: CalibrationConfig("x", 0.5, tokens=10), r"calibration\.tokens"),
    "multimodal without benchmarks": (
        lambda: CalibrationConfig("x", 0.5, benchmarks=[]),
        r"calibration\.benchmarks",
    ),
    "benchmark": (lambda: EvaluationConfig("x", ["a/b"]), r"evaluation\.benchmarks='a/b'"),
    "order": (lambda: OrderConfig("entropie"), "unknown order 'entropie': did you mean entropy"),
    "modality": (lambda: OrderConfig(modality="images"), "all, image, text"),
    "plan": (lambda: AllocationConfig("treshold"), "did you mean threshold"),
    "negative k": (lambda: AllocationConfig("count", k=-1), r"allocation\.k=-1"),
    "no threshold": (lambda: AllocationConfig("threshold"), "exactly one of"),
    "two thresholds": (
        lambda: AllocationConfig("threshold", entropy_max=1, quantile=0.5),
        "exactly one of",
    ),
    "quantile": (lambda: AllocationConfig("threshold", quantile=1.5), r"in \[0, 1\]"),
    "bits": (lambda: GptqTier(bits=5), r"tier\.bits=5 .* 2, 3, 4 or 8"),
    "bits of a trellis": (lambda: TrellisTier(bits=8), r"tier\.bits=8 .* 1/4 in \[1, 4\]"),
    "a third of a bit": (lambda: TrellisTier(bits=4 / 3), r"tier\.bits=1\.33.* multiple of 1/4"),
    "less than a bit": (lambda: TrellisTier(bits=0.5), r"tier\.bits=0\.5 .* in \[1, 4\]"),
    "no bits": (lambda: TrellisTier(bits=float("nan")), r"tier\.bits=nan .* in \[1, 4\]"),
    "a window for a fraction": (
        lambda: TrellisTier(bits=1.25, window=5),
        r"tier\.window=5 .* in \[bits \+ 4, 16\]",
    ),
    "bits to nearest": (lambda: RtnTier(bits=1), r"tier\.bits=1"),
    "narrow window": (
        lambda: TrellisTier(bits=4, window=7),
        r"tier\.window=7 .* in \[bits \+ 4, 16\]",
    ),
    "wide window": (lambda: TrellisTier(window=17), r"tier\.window=17"),
    "group size": (lambda: TernaryTier(group_size=-1), r"tier\.group_size=-1"),
    "clip steps": (lambda: RtnTier(clip_steps=-1), r"tier\.clip_steps=-1"),
    "descent": (lambda: GptqTier(descent=-1), r"tier\.descent=-1"),
    "descent over points": (
        lambda: GgufTier("iq1_m", descent=1),
        r"tier\.descent=1 .* 0 for iq1_m",
    ),
    "block": (lambda: ArbRcTier(block=0), r"tier\.block=0"),
    "damping": (lambda: BillmTier(damping=1.5), r"tier\.damping=1\.5 .* in \[0, 1\]"),
    "tier": (
        lambda: QuantizerConfig("bilm", "billm", tiers={"billm": BillmTier()}),
        "did you mean billm",
    ),
    "propagation": (
        lambda: QuantizerConfig("a", "a", "exactly", {"a": RtnTier()}),
        "exact, high, float",
    ),
    "samples": (lambda: EvaluationConfig("x", ["mme"], samples=0), r"evaluation\.samples=0"),
    "tracking": (lambda: TrackingConfig("mlflow"), "wandb, wandb_offline, none"),
    "benchmark of a model": (
        lambda: ModelConfig("x", "y", benchmarks=["a/b"]),
        r"model\.benchmarks='a/b'",
    ),
    "benchmark of a source": (
        lambda: EvaluationConfig("x", [], sources={"gqaa": "hub"}),
        "unknown benchmark 'gqaa': did you mean gqa",
    ),
    "order of a profile": (lambda: ProfileConfig(orders=["depht"]), "did you mean depth"),
    "profile": (lambda: ProfileConfig(clusters=1), r"profile\.clusters=1 .* at least 2"),
    "profile samples": (lambda: ProfileConfig(samples=0), r"profile\.samples=0"),
    "profile tokens": (lambda: ProfileConfig(tokens=63), r"profile\.tokens=63"),
    "profile seeds": (lambda: ProfileConfig(seeds=0), r"profile\.seeds=0"),
    "fidelity": (lambda: EvaluationConfig("x", [], fidelity=-1), r"evaluation\.fidelity=-1"),
    "split": (lambda: EvaluationConfig("x", [], split="test"), "report, selection, all"),
    "text tokens": (lambda: EvaluationConfig("x", [], text_tokens=-1), r"text_tokens=-1"),
    "text length": (lambda: EvaluationConfig("x", [], text_length=1), r"text_length=1 .* 2"),
    "batch size": (lambda: EvaluationConfig("x", [], batch_size=0), r"batch_size=0"),
    "benchmark of a calibration": (
        lambda: CalibrationConfig("x", 0.5, benchmarks=["popee"]),
        "did you mean pope",
    ),
    "compute": (lambda: CalibrationConfig("x", 0.5, compute="float16"), "model, bfloat16"),
    "compute of an evaluation": (
        lambda: EvaluationConfig("x", [], compute="float16"),
        r"evaluation\.compute='float16' .* model, bfloat16",
    ),
    "weighting": (lambda: CalibrationConfig("x", 0.5, weighting="half"), "count, balance, factor"),
    "image factor": (
        lambda: CalibrationConfig("x", 0.5, weighting="factor", image_factor=0.0),
        r"calibration\.image_factor=0\.0 .* above 0",
    ),
    "image factor without its weighting": (
        lambda: CalibrationConfig("x", 0.5, image_factor=2.0),
        "1, unless calibration.weighting=factor",
    ),
    "long sample": (
        lambda: CalibrationConfig("x", 0.5, tokens=256, sample_tokens=257),
        r"calibration\.sample_tokens=257",
    ),
    "short sample": (lambda: CalibrationConfig("x", 0.5, sample_tokens=7), r"sample_tokens=7"),
    "no k": (lambda: AllocationConfig("count"), r"allocation\.k=None"),
    "two budgets": (lambda: AllocationConfig("search", bits=2, bytes="1MB"), "exactly one of"),
    "no budget": (lambda: AllocationConfig("budget"), "exactly one of allocation.bits"),
    "no drop": (lambda: AllocationConfig("quality"), r"allocation\.drop=None"),
    "negative drop": (lambda: AllocationConfig("quality", drop=-1), r"allocation\.drop=-1"),
    "error": (lambda: AllocationConfig("uniform", error="mse"), "output_error, kl, delta_loss"),
    "unit": (lambda: AllocationConfig("search", bits=2, unit="row"), "one of layer, linear"),
    "linears along an order": (
        lambda: AllocationConfig("budget", bits=2, unit="linear"),
        r"unit=linear is not possible without allocation\.tiers",
    ),
    "linears by questions": (
        lambda: AllocationConfig("search", bits=2, unit="linear", error="kl"),
        "Use fisher",
    ),
    "swaps": (lambda: AllocationConfig("uniform", swaps=-1), r"allocation\.swaps=-1"),
    "selection samples": (lambda: AllocationConfig("uniform", samples=0), r"samples=0"),
    "pixels": (lambda: ModelConfig("x", "y", min_pixels=0), r"model\.min_pixels=0 .* above 0"),
    "most pixels": (lambda: ModelConfig("x", "y", max_pixels=-1), r"model\.max_pixels=-1"),
    "pixels that cross": (
        lambda: ModelConfig("x", "y", min_pixels=9, max_pixels=8),
        r"model\.min_pixels=9 .* at most model\.max_pixels=8",
    ),
    "memory": (lambda: ModelConfig("x", "y", activations_gb=math.nan), r"activations_gb=nan"),
    "no path": (lambda: ModelConfig("x", " "), r"model\.path=' ' .* not empty"),
    "length of a model": (lambda: ModelConfig("x", "y", text_length=0), r"model\.text_length=0"),
    "no outputs": (lambda: PathsConfig(""), r"paths\.outputs='' .* not empty"),
    "no project": (lambda: TrackingConfig(project=""), r"tracking\.project=''"),
    "benchmark twice": (
        lambda: EvaluationConfig("x", ["gqa", "mme", "gqa"]),
        r"evaluation\.benchmarks=.* gqa is there twice",
    ),
    "calibration benchmark twice": (
        lambda: CalibrationConfig("x", 0.5, benchmarks=["gqa", "gqa"]),
        r"calibration\.benchmarks=.* gqa is there twice",
    ),
    "tier twice": (
        lambda: AllocationConfig("budget", bits=3, tiers=["gptq2", "gptq2"]),
        r"allocation\.tiers=.* gptq2 is there twice",
    ),
    "order twice": (
        lambda: ProfileConfig(orders=["lim", "zd", "lim", "zd"]),
        r"profile\.orders=.* lim, zd is there twice",
    ),
    "alpha that is none": (lambda: CalibrationConfig("x", math.nan), r"calibration\.alpha=nan"),
    "infinite factor": (
        lambda: CalibrationConfig("x", 0.5, weighting="factor", image_factor=math.inf),
        r"image_factor=inf .* above 0",
    ),
    "budget that is none": (lambda: AllocationConfig("budget", bits=math.nan), r"bits=nan"),
    "infinite budget": (lambda: AllocationConfig("budget", bits=math.inf), r"bits=inf"),
    "negative budget": (lambda: AllocationConfig("search", bits=-1.0), r"bits=-1\.0"),
    "threshold that is none": (
        lambda: AllocationConfig("threshold", entropy_max=math.nan),
        r"entropy_max=nan",
    ),
    "quantile that is none": (
        lambda: AllocationConfig("threshold", quantile=math.nan),
        r"quantile=nan",
    ),
    "drop that is none": (lambda: AllocationConfig("quality", drop=math.nan), r"drop=nan"),
    "k that is no number": (lambda: AllocationConfig("count", k=True), r"allocation\.k=True"),
    "far too many layers": (lambda: AllocationConfig("count", k=2**40), r"at most 2147483647"),
    "far too many samples": (lambda: EvaluationConfig("x", [], samples=10**30), r"at most"),
    "repetitions": (lambda: ProfileConfig(seeds=10**6), r"profile\.seeds=1000000 .* \[1, 10000\]"),
    "seed of a calibration": (
        lambda: CalibrationConfig("x", 0.5, seed=-1),
        r"calibration\.seed=-1",
    ),
    "seed of a profile": (lambda: ProfileConfig(seed=-1), r"profile\.seed=-1"),
    "draws": (lambda: OrderConfig(draws=0), r"order\.draws=0 .*in \[1, 1000\]"),
    "seed of an order": (lambda: OrderConfig(seed=2**31), r"order\.seed=2147483648"),
    "seed of an evaluation": (lambda: EvaluationConfig("x", [], seed=-1), r"evaluation\.seed=-1"),
    "less text than a sequence": (
        lambda: EvaluationConfig("x", [], text_tokens=100, text_length=128),
        r"evaluation\.text_tokens=100 .* evaluation\.text_length=128",
    ),
    "source of nothing": (
        lambda: EvaluationConfig("x", ["gqa"], sources={"gqa": ""}),
        r"evaluation\.sources\.gqa='' .* not empty",
    ),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_values_say_what_is_possible(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_an_unknown_name_without_a_near_one_lists_all() -> None:
    with pytest.raises(ConfigError, match="known are delta_loss, depth, depth_reverse, entropy"):
        OrderConfig("zzz")


def test_the_names_that_settings_allow_are_those_that_there_are() -> None:
    assert list(BENCHMARKS) == list(SCORERS) == list(PROMPTS) == list(TARGETS)
    assert list(ORDERS) == list(orders.ORDERS)
    assert list(PLANS) == list(plans.PLANS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_asked(name: str) -> None:
    EvaluationConfig("x", [name], sources={name: "hub"})


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_can_be_used_and_compared(name: str) -> None:
    OrderConfig(name)
    ProfileConfig(orders=[name])


LIMITS = {
    "no multimodal token": lambda: CalibrationConfig("x", 0.0, benchmarks=[]),
    "only multimodal tokens": lambda: CalibrationConfig("x", 1.0),
    "fewest tokens": lambda: CalibrationConfig("x", 0.5, tokens=256, sample_tokens=256),
    "shortest sample": lambda: CalibrationConfig("x", 0.5, sample_tokens=8),
    "factor": lambda: CalibrationConfig("x", 0.5, weighting="factor", image_factor=0.1),
    "one sample": lambda: EvaluationConfig("x", ["mme"], samples=1, fidelity=0),
    "all samples": lambda: EvaluationConfig("x", ["mme"], samples=None, fidelity=None),
    "shortest text": lambda: EvaluationConfig("x", [], text_length=2, batch_size=1),
    "no low layer": lambda: AllocationConfig("count", k=0),
    "lowest quantile": lambda: AllocationConfig("threshold", quantile=0.0),
    "highest quantile": lambda: AllocationConfig("threshold", quantile=1.0),
    "no drop": lambda: AllocationConfig("quality", drop=0.0, samples=1),
    "smallest profile": lambda: ProfileConfig(clusters=2, tokens=64, seeds=1, samples=1),
    "one pixel": lambda: ModelConfig("x", "y", min_pixels=1, max_pixels=1),
}


@pytest.mark.parametrize("make", LIMITS.values(), ids=LIMITS)
def test_the_ends_of_a_range_belong_to_it(make: Callable[[], Any]) -> None:
    make()


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", 2**31), ("group", "")])
def test_a_run_is_checked_too(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name}="):
        replace(run("pocket", "pocket", []), **{name: value})


def run(calibration_text: str, evaluation_text: str, tiers: list[str]) -> RunConfig:
    return RunConfig(
        ModelConfig("x", "y"),
        CalibrationConfig("x", 0.5, text=calibration_text),
        ProfileConfig(),
        OrderConfig(),
        AllocationConfig("budget", bits=4.0, tiers=tiers),
        QuantizerConfig("rtn4", "rtn4", tiers={"rtn4": RtnTier()}),
        EvaluationConfig("x", ["mme"], text=evaluation_text),
        TrackingConfig("none"),
        PathsConfig("outputs"),
    )


@pytest.mark.parametrize("text", ["pocket", "wikitext"])
def test_a_text_with_two_parts_may_serve_calibration_and_evaluation(text: str) -> None:
    config = run(text, text, ["rtn4"])
    assert config.calibration.text == config.evaluation.text


def test_a_text_file_may_not() -> None:
    run("a.txt", "b.txt", [])
    with pytest.raises(ConfigError, match=r"calibration\.text='a\.txt' .* another file than"):
        run("a.txt", "a.txt", [])


def test_tiers_of_an_allocation_must_be_those_of_the_quantizer() -> None:
    with pytest.raises(ConfigError, match=r"tier in allocation\.tiers 'rtn3': did you mean rtn4"):
        run("pocket", "pocket", ["rtn4", "rtn3"])


def test_a_model_says_how_it_is_asked() -> None:
    model = ModelConfig("x", "y", system_prompt="Be short.", do_pad=True, max_pixels=9)
    assert model.image == (True, None, 9)
    assert model.asking == ("Be short.", True, None, 9)
    assert replace(model, device="cpu").asking == model.asking
