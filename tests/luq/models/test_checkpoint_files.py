"""Folders that are not the checkpoint that they say: refused by a sentence, before any work."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luq.config import ModelConfig
from luq.errors import ModelError
from luq.models.checkpoint import checkpoint, fingerprint, resolve_path
from luq.models.vlm import load_vlm
from luq.models.weight_files import INDEX, SINGLE, shards_of
from luq.pocket.shipped import WEIGHTS as POCKET
from tests.luq.models.edited import (
    Tensors,
    change_json,
    change_tensors,
    copy,
    split,
    write_index,
)

LLAVA_UP = "language_model.model.layers.3.mlp.up_proj.weight"
FC1 = "vision_tower.encoder.layers.2.mlp.fc1.weight"
QWEN_BIAS = "model.layers.3.self_attn.q_proj.bias"
SECOND = "model-00002-of-00002.safetensors"
Change = Callable[[Path], Any]


def config(folder: Path, **settings: Any) -> ModelConfig:
    return ModelConfig("m", str(folder), device="cpu", **settings)


def settings(name: str = "config.json", **changes: Any) -> Change:
    return lambda folder: change_json(folder / name, **changes)


def file(name: str, text: str = "x") -> Change:
    return lambda folder: (folder / name).write_text(text)


def without(*names: str) -> Change:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def both(*changes: Change) -> Change:
    def apply(folder: Path) -> None:
        for change in changes:
            change(folder)

    return apply


def tensors(change: Callable[[Tensors], Any]) -> Change:
    return lambda folder: change_tensors(folder, change)


def retyped(name: str, dtype: torch.dtype) -> Change:
    return tensors(lambda stored: stored.update({name: stored[name].to(dtype)}))


def renamed(old: str, new: str) -> Change:
    return tensors(lambda stored: stored.update({new: stored.pop(old)}))


def mapped(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Two shards whose index is changed."""

    def apply(folder: Path) -> None:
        weight_map = split(folder)
        change(weight_map)
        write_index(folder, weight_map)

    return apply


def first_in(place: object) -> Change:
    """Two shards whose index says that the first tensor is elsewhere."""
    return mapped(lambda weight_map: weight_map.update({min(weight_map): place}))


def repeated(folder: Path) -> None:
    """Two shards that hold one tensor both, with other values."""
    weight_map = split(folder)
    name = min(weight_map)
    value: Tensor = load_file(folder / weight_map[name])[name]
    save_file(load_file(folder / SECOND) | {name: value + 1}, folder / SECOND)


ADAPTER = settings("adapter_config.json", base_model_name_or_path="lab/base")
CASES: dict[str, tuple[str, Change, str]] = {
    # tensors
    "a linear": ("pocket_llava", tensors(lambda t: t.pop(LLAVA_UP)), rf"lacks.*{LLAVA_UP}"),
    "a bias": ("pocket_qwen", tensors(lambda t: t.pop(QWEN_BIAS)), rf"lacks.*{QWEN_BIAS}"),
    "in the tower": ("pocket_llava", tensors(lambda t: t.pop(FC1)), rf"lacks.*{FC1}"),
    "a layer": (
        "pocket_llava",
        tensors(lambda t: [t.pop(n) for n in list(t) if "model.layers.3." in n]),
        r"lacks layer 3",
    ),
    "another shape": (
        "pocket_llava",
        tensors(lambda t: t.update({LLAVA_UP: t[LLAVA_UP][:128].clone()})),
        rf"{LLAVA_UP} has the shape \[128, 128\]",
    ),
    "two names": (
        "pocket_llava",
        tensors(lambda t: t.update({f"model.{LLAVA_UP.replace('.model', '')}": t[LLAVA_UP] + 1})),
        r"two names.*layers\.3\.mlp\.up_proj",
    ),
    "fewer layers in the config": (
        "pocket_llava",
        settings(text_config={"num_hidden_layers": 5}),
        r"num_hidden_layers=5.*10 layers",
    ),
    "more layers in the config": (
        "pocket_qwen",
        settings(text_config={"num_hidden_layers": 12, "layer_types": None}),
        r"num_hidden_layers=12.*10 layers",
    ),
    "layers that are no number": (
        "pocket_llava",
        settings(text_config={"num_hidden_layers": "ten"}),
        r"num_hidden_layers='ten'",
    ),
    "fewer tower layers": (
        "pocket_llava",
        settings(vision_config={"num_hidden_layers": 3}),
        r"num_hidden_layers=3.*4 layers",
    ),
    "more tower blocks": ("pocket_qwen", settings(vision_config={"depth": 5}), r"depth=5.*4 lay"),
    # quantized
    "int8": ("pocket_llava", retyped(LLAVA_UP, torch.int8), rf"{LLAVA_UP} has the type I8.*16-bit"),
    "uint8": ("pocket_qwen", retyped("model.norm.weight", torch.uint8), r"the type U8"),
    "fp8": ("pocket_llava", retyped(FC1, torch.float8_e4m3fn), rf"{FC1} has the type F8_E4M3"),
    "fp8 e5m2": ("pocket_llava", retyped(LLAVA_UP, torch.float8_e5m2), r"the type F8_E5M2"),
    "bitsandbytes": (
        "pocket_llava",
        tensors(lambda t: t.update({LLAVA_UP.replace("weight", "SCB"): torch.ones(384)})),
        r"up_proj\.SCB.*16-bit",
    ),
    "gptq": (
        "pocket_llava",
        renamed(LLAVA_UP, LLAVA_UP.replace("weight", "qweight")),
        r"up_proj\.qweight.*16-bit",
    ),
    "a scale of fp8": (
        "pocket_qwen",
        tensors(lambda t: t.update({f"{QWEN_BIAS[:-5]}.weight_scale_inv": torch.ones(1)})),
        r"weight_scale_inv.*16-bit",
    ),
    "quantization_config": (
        "pocket_llava",
        settings(quantization_config={"quant_method": "awq"}),
        r"already quantized \(awq\)",
    ),
    "quantization_config of the text": (
        "pocket_llava",
        settings(text_config={"quantization_config": {"quant_method": "fp8"}}),
        r"already quantized \(fp8\)",
    ),
    # files
    "an adapter beside": ("pocket_llava", ADAPTER, r"adapter_config\.json.*merge_and_unload"),
    "an adapter's weights beside": (
        "pocket_llava",
        file("adapter_model.bin"),
        r"adapter_model\.bin.*merge it first",
    ),
    "an adapter alone": (
        "pocket_llava",
        both(without("config.json", SINGLE), ADAPTER),
        r"adapter of lab/base.*merge",
    ),
    "a file and an index of others": (
        "pocket_llava",
        lambda folder: write_index(folder, {"a": SECOND}),
        rf"{SINGLE} and other weights.*{SECOND}",
    ),
    "a file and a shard": ("pocket_llava", file(SECOND), rf"{SINGLE} and other weights.*{SECOND}"),
    "a file and shards of training": (
        "pocket_llava",
        file("shard-00000-model-00001-of-00002.safetensors"),
        r"shard-00000-model",
    ),
    "a shard too many": (
        "pocket_llava",
        both(split, file("model-00003-of-00003.safetensors")),
        r"model-00003-of-00003\.safetensors",
    ),
    "shards without an index": ("pocket_llava", both(split, without(INDEX)), rf"{INDEX} is miss"),
    "a shard that is missing": ("pocket_llava", both(split, without(SECOND)), rf"{SECOND} is miss"),
    "a file outside": ("pocket_llava", first_in("../other/x.safetensors"), r"'\.\./other/x"),
    "an absolute name": ("pocket_llava", first_in("/etc/x.safetensors"), r"'/etc/x"),
    "a name with backslashes": ("pocket_llava", first_in("..\\x.safetensors"), r"no file of the"),
    "a name that is no string": ("pocket_llava", first_in(3), r"said to be in 3"),
    "a pickle in the index": ("pocket_llava", first_in("x.bin"), r"x\.bin, no safetensors"),
    "an index that lies": ("pocket_llava", first_in(SECOND), rf"lm_head.*{SECOND}"),
    "a tensor that no shard has": (
        "pocket_llava",
        mapped(lambda weight_map: weight_map.update({"ghost": SECOND})),
        r"does not hold ghost",
    ),
    "a tensor that the index leaves out": (
        "pocket_llava",
        mapped(lambda weight_map: weight_map.pop(min(weight_map))),
        r"lm_head",
    ),
    "a tensor in two shards": ("pocket_llava", repeated, r"lm_head.*which is in model-00001"),
    "an index without a map": ("pocket_llava", both(split, file(INDEX, "{}")), r"no weight_map"),
    "an index that is a list": ("pocket_llava", both(split, file(INDEX, "[]")), r"no JSON object"),
    "pickles alone": (
        "pocket_llava",
        both(without(SINGLE), file("pytorch_model.bin")),
        r"is missing.*pytorch_model\.bin.*save_pretrained",
    ),
    "GGUF alone": (
        "pocket_llava",
        both(without(SINGLE, "config.json"), file("a.gguf")),
        r"is missing.*GGUF",
    ),
    "the publisher's layout": (
        "pocket_llava",
        both(without(SINGLE, "config.json"), file("consolidated.00.pth"), file("params.json")),
        r"publisher's own layout",
    ),
    "a variant alone": (
        "pocket_llava",
        lambda folder: (folder / SINGLE).rename(folder / "model.fp16.safetensors"),
        r"model\.fp16\.safetensors.*rename",
    ),
    "nothing": (
        "pocket_llava",
        lambda folder: [entry.unlink() for entry in folder.iterdir()],
        rf"{SINGLE} is missing",
    ),
    "a cut file": (
        "pocket_llava",
        lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-5]),
        r"is damaged",
    ),
    "weights elsewhere": (
        "pocket_llava",
        settings(transformers_weights="other.safetensors"),
        r"transformers_weights",
    ),
    # what kind of model
    "the original LLaVA": (
        "pocket_llava",
        settings(architectures=["LlavaLlamaForCausalLM"], mm_vision_tower="x"),
        r"original LLaVA.*llava-hf",
    ),
    "llava_llama": ("pocket_llava", settings(model_type="llava_llama"), r"llava-hf"),
    "no JSON": ("pocket_llava", file("config.json", "{"), r"config\.json cannot be read"),
    "a list": ("pocket_llava", file("config.json", "[]"), r"no JSON object"),
    "no model_type": ("pocket_llava", settings(model_type=None), r"has no model_type"),
    "an unknown one": (
        "pocket_llava",
        settings(model_type="lava"),
        r"unknown model_type 'lava'.*llava",
    ),
    "one that is no name": ("pocket_llava", settings(model_type=["llava"]), r"model_type=\['llav"),
    "experts": (
        "pocket_qwen",
        settings(text_config={"num_experts": 8}),
        r"num_experts=8.*mixtures of experts",
    ),
    # tokenizer, processor, template
    "no vocabulary": ("pocket_llava", without("tokenizer.json"), r"tokenizer\.json is missing"),
    "a broken tokenizer config": (
        "pocket_qwen",
        file("tokenizer_config.json", "{"),
        r"tokenizer_config\.json cannot be read",
    ),
    "no processor": ("pocket_qwen", without("processor_config.json"), r"images cannot be prepared"),
    "no image processor": (
        "pocket_llava",
        settings("processor_config.json", image_processor=None),
        r"no image_processor",
    ),
    "no patch_size": (
        "pocket_llava",
        settings("processor_config.json", patch_size=None),
        r"processor_config\.json: patch_size=None.*tower's is 12",
    ),
    "another patch_size": (
        "pocket_llava",
        settings("processor_config.json", patch_size=14),
        r"patch_size=14.*patch_size=12",
    ),
    "no feature strategy": (
        "pocket_llava",
        settings("processor_config.json", vision_feature_select_strategy=None),
        r"vision_feature_select_strategy=None",
    ),
    "another feature strategy": (
        "pocket_llava",
        settings("processor_config.json", vision_feature_select_strategy="full"),
        r"vision_feature_select_strategy='full'.*'default'",
    ),
    "no additional tokens": (
        "pocket_llava",
        settings("processor_config.json", num_additional_image_tokens=None),
        r"num_additional_image_tokens=0",
    ),
    "another image size": (
        "pocket_llava",
        settings(
            "processor_config.json", image_processor={"crop_size": {"height": 60, "width": 60}}
        ),
        r"crop_size=.*image_size=72",
    ),
    "no template": ("pocket_llava", without("chat_template.jinja"), r"chat_template\.jinja is mis"),
    # code
    "code for the config": (
        "pocket_llava",
        settings(auto_map={"AutoConfig": "code.Config"}),
        r"config\.json asks for code.*auto_map",
    ),
    "code for the tokenizer": (
        "pocket_llava",
        settings("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", None]}),
        r"tokenizer_config\.json asks for code",
    ),
    "code for the image processor": (
        "pocket_qwen",
        settings(
            "processor_config.json", image_processor={"auto_map": {"AutoImageProcessor": "c"}}
        ),
        r"processor_config\.json asks for code",
    ),
    "attention from elsewhere": (
        "pocket_llava",
        settings(text_config={"attn_implementation": "lab/attention"}),
        r"attn_implementation='lab/attention'",
    ),
}


@pytest.mark.parametrize(("source", "change", "words"), CASES.values(), ids=CASES)
def test_a_folder_is_refused_before_a_model_is_loaded(
    tmp_path: Path, source: str, change: Change, words: str
) -> None:
    folder = copy(tmp_path, source)
    change(folder)
    with pytest.raises(ModelError, match=words) as refused:
        checkpoint(config(folder))
    assert str(folder) in str(refused.value)


def test_both_shipped_checkpoints_and_shards_of_one_pass(tmp_path: Path) -> None:
    for name in ("pocket_llava", "pocket_qwen"):
        assert checkpoint(config(POCKET / name)).layers == 10
    folder = copy(tmp_path)
    split(folder)
    assert checkpoint(config(folder)).layers == 10


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "consolidated.safetensors", "model.fp16.safetensors"]
)
def test_what_transformers_leaves_alone_is_not_the_checkpoint(tmp_path: Path, name: str) -> None:
    folder = copy(tmp_path)
    before = fingerprint(folder)
    (folder / name).write_text("something else")
    assert shards_of(folder) == [SINGLE]
    assert checkpoint(config(folder)).digest == before


def test_an_index_of_the_one_file_changes_nothing_of_what_is_loaded(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    write_index(folder, dict.fromkeys(load_file(folder / SINGLE), SINGLE))
    assert shards_of(folder) == [SINGLE]
    assert checkpoint(config(folder)).layers == 10


def test_a_file_is_no_checkpoint_folder() -> None:
    with pytest.raises(ModelError, match="is no folder"):
        resolve_path(config(POCKET / "pocket_llava" / SINGLE))
    with pytest.raises(ModelError, match="neither a local folder nor"):
        resolve_path(ModelConfig("m", "no/such/place"))


def test_code_of_a_checkpoint_never_runs_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(tmp_path)
    mark = tmp_path / "it ran"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\n")
    change_json(folder / "config.json", auto_map={"AutoConfig": "code.Config"}, model_type="new")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is there to answer"))
    with pytest.raises(ModelError, match="auto_map"):
        load_vlm(config(folder))
    assert not mark.exists()


def test_headers_are_checked_without_torch() -> None:
    code = (
        "import sys; from luq.models.checkpoint import checkpoint; "
        "from luq.config import ModelConfig; "
        f"checkpoint(ModelConfig('m', {str(POCKET / 'pocket_llava')!r}, device='cpu')); "
        "sys.exit(str([m for m in ('torch', 'transformers') if m in sys.modules] or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_template_may_stand_in_any_of_its_files(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    file = folder / "processor_config.json"
    content = json.loads(file.read_text())
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        before = (folder / name).read_text() if (folder / name).exists() else None
        change_json(folder / name, chat_template=template)
        assert checkpoint(config(folder)).layers == 10, name
        if before is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(before)
    assert json.loads(file.read_text()) == content
