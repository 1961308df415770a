"""The Python API: the code of a run, on models from folders and from memory."""

import gc
import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

import luq
from luq.config import ModelConfig, TierConfig
from luq.config.building import build_tier
from luq.config.named_tiers import NAMED_TIERS, named_tier
from luq.errors import ConfigError, DataError, LuqError, ModelError
from luq.formats.linear import PackedLinear
from luq.models.checkpoint import resolve_path
from luq.models.processors import load_processor
from luq.pocket.plugin import PocketPlugin
from pipelines.graph import Graph
from pipelines.schema import to_config
from tests.luq.models import tiny_families
from tests.pipelines.test_schema import composed

ROOT = Path(__file__).parents[2]
POCKET = "pocket:pocket_llava"
LAYERS = 10


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Samples with images, and some text."""
    plugin = PocketPlugin()
    questions = islice(plugin.calibration_questions(["textvqa", "gqa"], 5), count)
    samples = [
        {"image": question.image, "text": question.doc["question"]} for question in questions
    ]
    return samples + [{"text": passage} for passage in plugin.passages("calibration")[:3]]


@pytest.fixture(scope="module")
def samples_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples as a JSON lines file with images beside it."""
    folder = tmp_path_factory.mktemp("samples")
    lines: list[str] = []
    for index, row in enumerate(rows()):
        if "image" in row:
            row["image"].save(folder / f"{index}.png")
            row = {"image": f"{index}.png", "text": row["text"]}
        lines.append(json.dumps(row))
    file = folder / "mine.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> luq.LoadedModel:
    return luq.load(POCKET, device="cpu", store=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def profile(model: luq.LoadedModel, samples_file: Path) -> luq.Profile:
    return luq.profile(model, samples_file, tokens=128, seeds=1)


def in_memory(dtype: torch.dtype = torch.float32, name: str = "pocket_llava") -> tuple[Any, Any]:
    """A pocket model and its processor, as a user has them."""
    config = ModelConfig(name, f"pocket:{name}")
    folder = resolve_path(config)
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    return loaded, load_processor(folder, loaded.config.model_type, config)


def test_the_names_come_when_they_are_used_and_no_other_package_is_touched(tmp_path: Path) -> None:
    """A user's own `pipelines` and `analysis` are never imported, nor are ours."""
    for name in ("pipelines", "analysis"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    code = f"""
import sys
import luq
heavy = [name for name in ("torch", "transformers", "datasets", "numpy") if name in sys.modules]
assert not heavy, heavy
assert luq.GptqTier(bits=3).bits == 3 and "torch" not in sys.modules
model = luq.load({POCKET!r}, device="cpu")
packed = luq.quantize(model, "rtn4")
scores = luq.evaluate(packed, ["gqa"], data="pocket", samples=4)
assert scores["gqa"].n == 4
assert not {{"pipelines", "analysis", "hydra"}} & set(sys.modules)
"""
    file = tmp_path / "mine.py"  # its folder comes first where modules are looked for
    file.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_every_name_is_there_and_says_what_it_is() -> None:
    for name in luq.__all__:
        value = getattr(luq, name)
        assert name in dir(luq)
        if name != "NAMED_TIERS":
            assert value.__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = luq.nothing  # type: ignore[attr-defined]


def test_the_named_tiers_are_those_of_the_configs() -> None:
    content = yaml.safe_load((ROOT / "conf/quantizer/luq.yaml").read_text(encoding="utf-8"))
    assert {name: build_tier(tier) for name, tier in content["tiers"].items()} == NAMED_TIERS


@pytest.mark.parametrize(
    ("tier", "name"),
    [
        ("trellis2", "trellis2"),
        (luq.TrellisTier(bits=2), "trellis2"),
        ({"method": "trellis", "bits": 2, "window": 14}, "trellis(bits=2, window=14)"),
        (luq.RtnTier(bits=3, symmetric=True), "rtn(bits=3, symmetric=True)"),
    ],
)
def test_a_tier_may_be_a_name_a_tier_or_a_table(tier: Any, name: str) -> None:
    named = named_tier(tier)
    assert named.name == name
    assert isinstance(named.tier, TierConfig)


@pytest.mark.parametrize(
    ("tier", "told"),
    [
        ("trelis2", "did you mean trellis2"),
        ({"bits": 2}, "must name a method"),
        ({"method": "gptq", "window": 3}, "unknown setting"),
        (3, "a tier of type int"),
    ],
)
def test_a_tier_that_is_none_is_refused(tier: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        named_tier(tier)


def test_a_plan_and_its_layers_are_those_of_a_run(
    model: luq.LoadedModel, profile: luq.Profile, samples_file: Path
) -> None:
    """The artefacts have the same keys: there is no second code."""
    overrides = [
        "model=pocket_llava", "model.device=cpu", f"calibration.source={samples_file}",
        "profile.tokens=128", "profile.seeds=1", "allocation.k=4", "quantizer.low=gptq2",
        "quantizer.high=rtn4", "evaluation.benchmarks=[gqa]", "evaluation.samples=4",
    ]  # fmt: skip
    run = Graph(to_config(composed(*overrides)), model.store.root)
    plan = luq.plan(profile, k=4, low="gptq2", high="rtn4")
    packed = luq.quantize(model, plan, samples_file)
    assert run.profile.key in {Path(label).name for label in model.store.used()}
    assert [layer.key for layer in run.layers(plan.allocation)] == [
        layer.key for layer in packed.layers
    ]
    scores = luq.evaluate(packed, ["gqa"], data="pocket", samples=4)
    answers = run.answers(packed.layers, run.questions)["gqa"]
    assert model.store.has(answers)
    assert scores["gqa"].n == 4
    assert 0 <= scores["gqa"].score <= 100
    low = [index for index, name in enumerate(plan.allocation.tiers) if name == "gptq2"]
    assert sorted(profile.order()[:4]) == low
    assert str(plan) == str(plan.allocation)


def test_a_profile_says_what_it_measured(profile: luq.Profile) -> None:
    assert len(profile.entropies()) == len(profile.entropies("image")) == LAYERS
    assert profile.entropies("image") != profile.entropies("text")
    assert sorted(profile.order()) == list(range(LAYERS))
    assert profile.order() == profile.order("entropy_reverse")[::-1]
    assert 0 < profile.calibration.alpha < 1
    assert all(entry.clusters > 1 for entry in profile.table)


def test_a_budget_is_kept_in_stored_bits(model: luq.LoadedModel, profile: luq.Profile) -> None:
    low = {"method": "rtn", "bits": 2}
    plan = luq.plan(profile, bits=3.3, low=low, high="rtn4")
    memory = luq.quantize(model, plan).memory()
    assert 2.3 < memory.stored_bits <= 3.3
    assert plan.report.bytes == memory.stored_bytes
    assert memory.checkpoint_bytes == sum(memory.ledger.values())
    tiers = [low, "rtn4", luq.RtnTier(bits=3)]
    least_error = luq.plan(profile, bits=3.3, tiers=tiers)
    assert least_error.report.error is not None
    quantile = luq.plan(profile, quantile=0.5, low=low, high="rtn4")
    assert quantile.allocation.count("rtn4") == LAYERS // 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "exactly one of k, quantile, entropy_max, bits, bytes, and got none"),
        ({"k": 3, "bits": 2.5}, "got k, bits"),
        ({"k": 11}, "the model has 10 decoder layers"),
        ({"k": -1}, "allocation.k=-1"),
        ({"k": 3, "low": "gptq5"}, "unknown tier 'gptq5'"),
        ({"k": 3, "tiers": ["gptq4"]}, "tiers would be ignored with k"),
        ({"bits": 3, "unit": "linear"}, "it goes with tiers and bits or bytes"),
        ({"bits": 3, "tiers": ["rtn4"], "tie": True}, 'it goes with unit="linear"'),
        ({"k": 3, "order": "entropie"}, "did you mean entropy"),
        ({"k": 3, "modality": "sound"}, "order.modality='sound'"),
        ({"k": 3, "order": "kl"}, "kl asks questions"),
        ({"k": 3, "draws": 2}, "order.draws=2 is not possible: samples of your own"),
        ({"k": 3, "draws": 0}, "order.draws=0"),
        ({"k": 3, "propagation": "none"}, "quantizer.propagation='none'"),
        ({"bits": 0.5, "low": "rtn4", "high": "rtn4"}, "allocation.bits=0.5 is not possible"),
        ({"bytes": "1MB", "low": "rtn4", "high": "rtn4"}, "allocation.bytes=1MB is not possible"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    profile: luq.Profile, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        luq.plan(profile, **settings)


def test_what_does_not_fit_the_model_is_refused(model: luq.LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiers for 3 layers, but the model has 10"):
        luq.quantize(model, ["rtn4"] * 3)
    with pytest.raises(ConfigError, match="needs calibration samples"):
        luq.quantize(model, "gptq4")
    with pytest.raises(DataError, match="unknown field"):
        luq.profile(model, [{"question": "Why?"}])
    with pytest.raises(ConfigError, match="unknown benchmark"):
        luq.evaluate(model, ["gqaa"])
    with pytest.raises(ConfigError, match=r"sources\.mme would be ignored"):
        luq.evaluate(model, ["gqa"], data="pocket", sources={"mme": tmp_path})
    too_long = luq.CalibrationConfig("long", 0.5, sample_tokens=4096, tokens=8192)
    with pytest.raises(ConfigError, match="a context of"):
        luq.profile(model, too_long)


def test_calibration_as_a_run_mixes_it(model: luq.LoadedModel) -> None:
    mixed = luq.CalibrationConfig("mixed", alpha=0.5, tokens=1024)
    profile = luq.profile(model, mixed, tokens=64, seeds=1)
    assert profile.calibration.alpha == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ConfigError, match="draws=2 would be ignored: it goes with order=entropy"):
        luq.plan(profile, k=3, order="depth", draws=2)
    with pytest.raises(ConfigError, match="draws=2 would be ignored"):
        luq.plan(profile, bits=3, tiers=["rtn4"], draws=2)
    second = luq.profile(model, replace(mixed, seed=1), tokens=64, seeds=1, seed=1)
    pairs = zip(profile.entropies(), second.entropies(), strict=True)
    by_two = [fmean(pair) for pair in pairs]
    assert profile.order(draws=2) == sorted(range(LAYERS), key=by_two.__getitem__)


def test_a_packed_model_answers_and_is_what_is_saved(
    model: luq.LoadedModel, tmp_path: Path
) -> None:
    packed = luq.quantize(model, ["rtn4"] * 5 + ["float16"] * 5)
    folder = packed.save_pretrained(tmp_path / "packed")
    reloaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert_same(packed.model, reloaded)
    assert isinstance(
        packed.model.get_submodule("model.language_model.layers.0.mlp.up_proj"), PackedLinear
    )
    assert answer(packed.model, packed.processor) == answer(reloaded, packed.processor)
    with pytest.raises(ModelError, match="exists"):
        packed.save_pretrained(folder)
    other = luq.quantize(model, "float16")
    assert answer(other.model, other.processor) == answer(other.restore(), other.processor)
    assert_same(packed.model, reloaded)  # its layers stand in the model again


def assert_same(packed: nn.Module, reloaded: nn.Module) -> None:
    """Every tensor of two models is the same bit for bit; biases of packed linears are none."""
    tensors = packed.state_dict()
    assert tensors
    others = reloaded.state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    missing = [name for name in others if name not in tensors and not name.endswith("_proj.bias")]
    assert missing == []


def answer(model: Any, processor: Any) -> list[int]:
    """Tokens of a model's answer about an image."""
    image = rows(1)[0]["image"]
    content = [{"type": "image"}, {"type": "text", "text": "What is written here?"}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=[image], text=[chat], return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    tokens: list[int] = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist()
    return tokens


@pytest.mark.parametrize(
    ("name", "dtype"), [("pocket_llava", torch.float32), ("pocket_qwen", torch.bfloat16)]
)
def test_a_model_in_memory_is_taken_as_it_is(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    own, processor = in_memory(dtype, name)
    before = {key: tensor.clone() for key, tensor in own.state_dict().items()}
    generation = own.generation_config
    model = luq.load(own, processor)
    root = model.store.root
    assert model.model is own
    packed = luq.quantize(model, ["gptq4", *["rtn4"] * (model.layers - 1)], rows())
    assert packed.model is own
    scores = luq.evaluate(packed, "gqa", data="pocket", samples=2)
    assert scores["gqa"].errors == 0
    assert own.generation_config is generation
    folder = packed.save_pretrained(tmp_path / "packed")
    reloaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert reloaded.dtype == dtype
    assert_same(packed.model, reloaded)
    assert [file.name for file in tmp_path.iterdir()] == ["packed"]
    with pytest.raises(ModelError, match="exists"):
        packed.save_pretrained(folder)
    files = packed.save_gguf(tmp_path / "files")
    assert {file.name for file in files.iterdir()} == {"model.gguf", "mmproj.gguf", "luq.json"}
    assert {file.name for file in tmp_path.iterdir()} == {"packed", "files"}
    restored = packed.restore().state_dict()
    assert restored.keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in restored.items())
    del model, packed
    gc.collect()
    assert not root.exists(), "a temporary store goes with its model"


def test_a_language_model_in_memory_needs_a_tokenizer_and_no_images(tmp_path: Path) -> None:
    folder = tiny_families.write(tmp_path / "qwen3", "qwen3")
    own = AutoModelForCausalLM.from_pretrained(folder)
    model = luq.load(own, AutoTokenizer.from_pretrained(folder))
    samples = [{"text": f"Passage {index}: {'some words in a row. ' * 20}"} for index in range(8)]
    tier = luq.GptqTier(bits=4, group_size=32)
    profile = luq.profile(model, samples, tokens=64, seeds=1)
    plan = luq.plan(profile, k=1, low="rtn4", high=tier)
    packed = luq.quantize(model, plan, samples)
    reloaded = AutoModelForCausalLM.from_pretrained(packed.save_pretrained(tmp_path / "packed"))
    assert_same(packed.model, reloaded)
    with pytest.raises(DataError, match=r"samples:8: it has an image, and the model sees none"):
        luq.profile(model, [*samples, {"image": rows(1)[0]["image"], "text": "What is it?"}])


def test_a_model_in_memory_is_known_by_its_content() -> None:
    models = [in_memory() for _ in range(3)]
    with torch.no_grad():
        models[2][0].get_submodule("model.language_model.layers.3.mlp.up_proj").weight[0, 0] += 0.5
    digests = [luq.load(*model).checkpoint.digest for model in models]
    assert digests[0] == digests[1] != digests[2]
    prompted = luq.load(*models[0], system_prompt="Be brief.").checkpoint
    assert prompted.digest == digests[0]
    assert prompted.asking.system_prompt == "Be brief."


def _with_nan(model: Any) -> None:
    model.get_submodule("lm_head").weight.data[0, 0] = float("nan")


def _with_adapter(model: Any) -> None:
    parent = model.get_submodule("model.language_model.layers.2.mlp")
    parent.up_proj = nn.Sequential(parent.up_proj)


def _in_half(model: Any) -> None:
    model.get_submodule("lm_head").to("meta")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_with_nan, r"lm_head.weight of the model in memory holds NaN"),
        (_with_adapter, r"layer 2 .*mlp\.up_proj.*merge adapters first"),
        (_in_half, "lies on cpu, meta"),
        (lambda model: model.to(torch.float64), "computed in float64"),
    ],
)
def test_a_model_in_memory_that_cannot_be_used_is_refused(spoil: Any, told: str) -> None:
    model, processor = in_memory()
    spoil(model)
    with pytest.raises(ModelError, match=told):
        luq.load(model, processor)


def test_arguments_that_would_be_ignored_are_refused() -> None:
    model, processor = in_memory()
    refused: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((model,), {}, "needs its processor"),
        ((model, processor), {"device": "cpu"}, "device='cpu' would be ignored"),
        ((model, processor), {"max_pixels": 9}, "max_pixels=9 would be ignored"),
        ((POCKET, processor), {}, "a processor of its own"),
        (("/nowhere",), {}, "no such folder"),
        ((nn.Linear(2, 2), processor), {}, "Linear is no model of transformers"),
        ((model, object()), {}, "cannot be written"),
    ]
    for arguments, settings, told in refused:
        with pytest.raises(LuqError, match=told):
            luq.load(*arguments, **settings)


def test_what_a_model_was_calibrated_on_is_not_asked(
    model: luq.LoadedModel, tmp_path: Path
) -> None:
    artefact = PocketPlugin().questions("report")
    folder = model.store.get(artefact)
    table = pd.read_parquet(folder / "textvqa.parquet").head(8)
    asked = [
        {"image": row["image"]["bytes"], "text": f"{row['question']}\nAnswer with a word."}
        for _, row in table.iterrows()
    ]
    packed = luq.quantize(model, ["gptq4", *["rtn4"] * (LAYERS - 1)], [*asked, *rows()])
    with pytest.raises(DataError, match=r"share 8 questions"):
        luq.evaluate(packed, ["textvqa"], data="pocket")
    profile = luq.profile(model, [*asked, *rows()], tokens=64, seeds=1)
    ranked = luq.quantize(model, luq.plan(profile, k=2, low="rtn4", high="float16"))
    with pytest.raises(DataError, match=r"share 8 questions"):
        luq.evaluate(ranked, ["textvqa"], data="pocket")
