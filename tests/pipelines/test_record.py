"""Records as plain data and back, and that records of earlier versions are still read."""

import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from analysis.frame import fidelity
from analysis.loading import is_mixed
from luq.allocation.allocations import LinearTier
from luq.allocation.reports import Swap
from luq.errors import ConfigError
from pipelines.console import perplexity_words
from pipelines.record import PASSING, SCHEMA, Interval, RunRecord, from_json, lasting, to_json

RECORDS = Path(__file__).parent.parent / "golden" / "records"


def golden(schema: int) -> dict[str, Any]:
    return json.loads((RECORDS / f"schema_{schema}.json").read_text())


@pytest.fixture
def record() -> RunRecord:
    return from_json(golden(SCHEMA))


def test_a_record_is_the_same_after_json(record: RunRecord) -> None:
    text = json.dumps(to_json(record), allow_nan=False)
    assert from_json(json.loads(text)) == record


def part_of(whole: Any, file: Any) -> Any:
    """Of plain data what a file has too: a record may have got fields since it was written."""
    if isinstance(whole, dict) and isinstance(file, dict):
        return {name: part_of(whole[name], item) for name, item in file.items()}
    return whole


def test_the_plain_data_of_the_golden_record_is_its_file(record: RunRecord) -> None:
    assert part_of(to_json(record), golden(SCHEMA)) == golden(SCHEMA)


def test_a_record_of_before_has_no_perplexity_of_16_bit(record: RunRecord) -> None:
    assert record.perplexity is not None
    assert record.perplexity.value > 1
    assert record.perplexity.float_value is None
    assert record.perplexity.ratio is None
    told = perplexity_words(record.perplexity)
    assert "16-bit" not in told
    assert fidelity(record)["perplexity"] == record.perplexity.value
    assert math.isnan(fidelity(record)["perplexity_ratio"])


def test_a_record_has_the_linears_that_are_in_other_tiers(record: RunRecord) -> None:
    other = LinearTier(3, "mlp.down_proj", "gptq4")
    mixed = replace(record, other_tiers=[other])
    assert from_json(json.loads(json.dumps(to_json(mixed)))).other_tiers == [other]
    uniform = replace(record, tiers=["billm"] * 10)
    assert record.other_tiers == [], "earlier records had none"
    assert not is_mixed(uniform)
    assert is_mixed(replace(uniform, other_tiers=[other]))


def test_a_record_that_named_a_benchmark_twice_is_still_read(record: RunRecord) -> None:
    old = golden(SCHEMA)
    old["config"]["evaluation"]["benchmarks"] *= 2
    old["config"]["profile"]["orders"] = ["lim", "lim"]
    assert from_json(old).config.evaluation == record.config.evaluation
    assert from_json(old).config.profile.orders == ["lim"]


def test_a_record_may_have_neither_calibration_nor_profile(record: RunRecord) -> None:
    bare = replace(
        record,
        calibration=None,
        profile=[],
        order=[],
        artefacts=replace(record.artefacts, calibration=None, profile=None),
    )
    assert from_json(json.loads(json.dumps(to_json(bare)))) == bare
    assert bare.calibration_hash == ""


def test_a_record_of_schema_3_is_read_as_what_it_is_today(record: RunRecord) -> None:
    assert from_json(golden(3)) == record


def test_artefacts_of_schema_3_stand_under_their_new_names() -> None:
    old = golden(3)["artefacts"]
    artefacts = from_json(golden(3)).artefacts
    assert artefacts.layers == old["quantize"]
    assert artefacts.float_layers == old["quantize 16-bit"]
    assert artefacts.answers == old["evaluate"]
    assert artefacts.float_answers == old["evaluate 16-bit"]
    assert f"layers/{old['quantize'][0]}" in artefacts.used
    assert f"evaluation/{old['evaluate']['mme']}" in artefacts.used
    assert f"profile/{old['profile']}" in artefacts.used


def test_nested_values_are_typed(record: RunRecord) -> None:
    kl = record.fidelity["textvqa"].kl
    assert isinstance(kl, Interval)
    assert kl.low < kl.mean < kl.high
    assert record.fidelity["mme"].kl is None
    assert record.plan.swaps == [Swap("0:billm 1-9:gptq4", 0.15, True)]
    assert record.config.quantizer.tiers["billm"].method == "billm"
    assert record.profile[0].layer == 0


def test_a_record_that_never_allocated_by_budget_has_an_empty_plan() -> None:
    plan = from_json(golden(3) | {"plan": {}}).plan
    assert plan.budget_bytes is None
    assert plan.swaps == []


def test_a_newer_field_is_left_out_and_a_missing_one_is_named() -> None:
    newer = golden(SCHEMA)
    newer["memory"]["cache_bytes"] = 7
    newer["weather"] = "mild"
    assert from_json(newer) == from_json(golden(SCHEMA))
    older = golden(SCHEMA)
    del older["memory"]["weights"]
    with pytest.raises(ConfigError, match=r"record\.memory lacks weights"):
        from_json(older)
    del older["scores"]
    older["memory"]["weights"] = 1
    with pytest.raises(ConfigError, match="record lacks scores"):
        from_json(older)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "holds no record"),
        ({}, "schema None"),
        ({"schema": 99}, "schema 99, this version reads 3 and 4"),
        ({"schema": 3}, "lacks the keys of its artefacts"),
        ({"schema": 4}, "record lacks key, name"),
    ],
)
def test_what_is_no_record_says_why(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(data)


def test_a_value_of_a_wrong_type_is_named() -> None:
    wrong = golden(SCHEMA)
    wrong["scores"]["mme"]["score"] = "high"
    with pytest.raises(ConfigError, match=r"record\.scores\.mme\.score='high'"):
        from_json(wrong)
    wrong = golden(SCHEMA)
    wrong["fidelity"]["textvqa"]["kl"] = [0.1, 0.2]
    with pytest.raises(ValueError):  # noqa: PT011 (any: three numbers make an interval)
        from_json(wrong)


def test_equal_runs_at_other_times_and_places_last_alike(record: RunRecord) -> None:
    later = replace(
        record,
        seconds={},
        wall_seconds=math.inf,
        finished=0.0,
        device="cuda",
        git_sha=None,
        memory=replace(record.memory, peak_bytes=1),
        config=replace(record.config, group="other"),
    )
    assert lasting(later) == lasting(record)
    assert lasting(replace(record, k=record.k + 1)) != lasting(record)
    assert set(PASSING) <= {entry.name for entry in fields(RunRecord)}


def test_records_are_read_without_heavy_libraries() -> None:
    names = "('torch', 'transformers', 'hydra', 'sklearn', 'scipy')"
    code = (
        "import sys, pipelines.record, pipelines.runs_folder;"
        f"sys.exit(' '.join(name for name in {names} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
