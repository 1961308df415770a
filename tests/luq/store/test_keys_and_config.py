from dataclasses import replace

import pytest

from luq import registry
from luq.config import (
    AllocationConfig,
    ArbRcTier,
    BillmTier,
    CalibrationConfig,
    EvaluationConfig,
    GptqTier,
    ModelConfig,
    OrderConfig,
    PathsConfig,
    QuantizerConfig,
    RtnTier,
    TernaryTier,
    TrackingConfig,
    TrellisTier,
)
from luq.errors import ConfigError
from luq.store import keys


def test_keys_depend_on_everything_but_the_volatile() -> None:
    one = CalibrationConfig("text", 0.0)
    assert (
        keys.digest(one)
        == keys.digest(CalibrationConfig("text", 0.0))
        != keys.digest(replace(one, seed=1))
    )
    assert keys.digest({"a": 1, "b": 2}) == keys.digest({"b": 2, "a": 1})
    assert keys.digest(1, 2) != keys.digest(12)
    assert keys.digest("1") != keys.digest(1)
    evaluation = EvaluationConfig("pocket", ["mme"])
    assert keys.digest(evaluation) == keys.digest(replace(evaluation, batch_size=1))
    assert keys.digest({"x": 1, "paths": PathsConfig("a")}) == keys.digest(
        {"x": 1, "paths": PathsConfig("b")}
    )
    assert keys.digest({"tracking": TrackingConfig("none")}) == keys.digest({})
    assert len(keys.digest("x")) == 16


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_only_plain_data_has_a_key(value: object) -> None:
    with pytest.raises(TypeError):
        keys.digest(value)


def test_not_a_number_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        keys.digest(float("nan"))


BAD = {
    "alpha": (lambda: CalibrationConfig("x", 1.5), r"calibration\.alpha=1\.5 .* in \[0, 1\]"),
    "few tokens": (lambda: CalibrationConfig("x", 0.5, tokens=10), r"calibration\.tokens"),
    "multimodal without benchmarks": (lambda: CalibrationConfig("x", 0.5, benchmarks=[]), r"calibration\.benchmarks"),
    "benchmark": (lambda: EvaluationConfig("x", ["textvqaa"]), "did you mean textvqa"),
    "order": (lambda: OrderConfig("entropie"), "unknown order 'entropie': did you mean entropy"),
    "modality": (lambda: OrderConfig(modality="images"), "all, image, text"),
    "plan": (lambda: AllocationConfig("treshold"), "did you mean threshold"),
    "negative k": (lambda: AllocationConfig("count", k=-1), r"allocation\.k=-1"),
    "no threshold": (lambda: AllocationConfig("threshold"), "exactly one of"),
    "two thresholds": (lambda: AllocationConfig("threshold", entropy_max=1, quantile=0.5), "exactly one of"),
    "quantile": (lambda: AllocationConfig("threshold", quantile=1.5), r"in \[0, 1\]"),
    "bits": (lambda: GptqTier(bits=5), r"tier\.bits=5 .* 2, 3, 4 or 8"),
    "bits of a trellis": (lambda: TrellisTier(bits=8), r"tier\.bits=8 .* 1, 2, 3 or 4"),
    "bits to nearest": (lambda: RtnTier(bits=1), r"tier\.bits=1"),
    "narrow window": (lambda: TrellisTier(bits=4, window=7), r"tier\.window=7 .* in \[bits \+ 4, 16\]"),
    "wide window": (lambda: TrellisTier(window=17), r"tier\.window=17"),
    "group size": (lambda: TernaryTier(group_size=-1), r"tier\.group_size=-1"),
    "clip steps": (lambda: RtnTier(clip_steps=-1), r"tier\.clip_steps=-1"),
    "descent": (lambda: GptqTier(descent=-1), r"tier\.descent=-1"),
    "block": (lambda: ArbRcTier(block=0), r"tier\.block=0"),
    "damping": (lambda: BillmTier(damping=1.5), r"tier\.damping=1\.5 .* in \[0, 1\]"),
    "tier": (lambda: QuantizerConfig("bilm", "billm", tiers={"billm": BillmTier()}), "did you mean billm"),
    "propagation": (lambda: QuantizerConfig("a", "a", "exactly", {"a": RtnTier()}), "exact, high, float"),
    "samples": (lambda: EvaluationConfig("x", ["mme"], samples=0), r"evaluation\.samples=0"),
    "tracking": (lambda: TrackingConfig("mlflow"), "wandb, wandb_offline, none"),
    "benchmark of a model": (lambda: ModelConfig("x", "y", benchmarks=["gqaa"]), "did you mean gqa"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_values_say_what_is_possible(make, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_unknown_name_without_a_near_one_lists_all() -> None:
    with pytest.raises(ConfigError, match="known are delta_loss, depth, depth_reverse, entropy"):
        registry.check("order", "zzz")
