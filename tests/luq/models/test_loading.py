"""The model in memory is the checkpoint on disk, or a sentence names what differs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luq.config import CalibrationConfig, GptqTier, LayerTiers, ModelConfig
from luq.errors import ModelError
from luq.formats.layer_file import FILE, write_layer
from luq.models.checkpoint import checkpoint, compute_dtype
from luq.models.loading import is_finite
from luq.models.vlm import VLM, load_vlm
from luq.models.weight_files import SINGLE
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.layer import quantize_layer
from luq.quantization.states import first_inputs, pass_through
from pipelines import runs_folder
from tests.conftest import pocket_samples
from tests.luq.models.edited import Tensors, change_json, change_tensors, copy, split
from tests.pipelines.command import luq_to

UP = "language_model.model.layers.3.mlp.up_proj.weight"
HEAD = "language_model.lm_head.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
PROJECTOR = "multi_modal_projector.linear_1.bias"
NORM = "language_model.model.norm.weight"
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["memory", "streamed"])


def load(folder: Path, stream: bool = False) -> VLM:
    return load_vlm(ModelConfig("m", str(folder), device="cpu", stream=stream))


def with_value(name: str, value: float, dtype: torch.dtype) -> Callable[[Tensors], Any]:
    """One entry of a tensor is changed."""

    def change(tensors: Tensors) -> None:
        tensor = tensors[name].to(dtype)
        tensor.view(-1)[7] = value
        tensors[name] = tensor

    return change


def without_all(ending: str) -> Callable[[Tensors], Any]:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(ending)]:
            del tensors[name]

    return change


MISMATCHES: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "projector": (lambda t: t.pop(PROJECTOR), r"lacks 1 tensors.*projector\.linear_1\.bias"),
    "norm": (lambda t: t.pop(NORM), r"lacks 1 tensors.*norm\.weight"),
    "head": (lambda t: t.pop(HEAD), r"lacks 1 tensors.*lm_head"),
    "embeddings": (lambda t: t.pop(EMBEDDINGS), r"lacks 1 tensors.*embed_tokens"),
    "tower": (
        lambda t: t.pop("vision_tower.embeddings.patch_embedding.weight"),
        r"lacks 1 tensors.*patch_embedding",
    ),
    "of all layers": (
        without_all("self_attn.o_proj.weight"),
        r"lacks 10 tensors.*layers\.0\.self_attn\.o_proj.* and 7 more",
    ),
    "extra": (
        lambda t: t.update({"extra.weight": torch.zeros(3)}),
        r"holds 1 tensors that its model has no place for: extra\.weight",
    ),
    "extra within a layer": (
        lambda t: t.update({f"{n[:-6]}bias": torch.zeros(384) for n in list(t) if "up_proj" in n}),
        r"holds 10 tensors that its model has no place for: .*up_proj\.bias",
    ),
    "shape": (
        lambda t: t.update({EMBEDDINGS: t[EMBEDDINGS][:128].clone()}),
        r"embed_tokens\.weight has the shape \[128, 128\].*\[2048, 128\]",
    ),
}


@STREAM
@pytest.mark.parametrize(("change", "words"), MISMATCHES.values(), ids=MISMATCHES)
def test_missing_left_over_and_misshapen_tensors_are_named(
    tmp_path: Path, stream: bool, change: Callable[[Tensors], Any], words: str
) -> None:
    folder = copy(tmp_path)
    change_tensors(folder, change)
    with pytest.raises(ModelError, match=words):
        load(folder, stream)


@STREAM
@pytest.mark.parametrize(
    "changes",
    [{"text_config": {"intermediate_size": 256}}, {"text_config": {"hidden_act": "nope"}}],
    ids=["shape", "activation"],
)
def test_a_config_that_is_not_the_weights(
    tmp_path: Path, stream: bool, changes: dict[str, Any]
) -> None:
    folder = copy(tmp_path)
    change_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=r"config\.json"):
        load(folder, stream)


def test_a_config_that_is_none(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    change_json(folder / "config.json", text_config={"num_attention_heads": 3})
    with pytest.raises(ModelError, match=r"config\.json cannot be used.*attention heads \(3\)"):
        load(folder)


BROKEN = {
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), r"tokenizer or processor"),
    "image processor": (
        lambda f: change_json(
            f / "processor_config.json", image_processor={"image_processor_type": "Nope"}
        ),
        r"tokenizer or processor cannot be loaded",
    ),
    "template": (
        lambda f: (f / "chat_template.jinja").write_text("{% for"),
        r"chat template writes no question",
    ),
    "template that refuses": (
        lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
        r"chat template writes no question with an image \(.*no\)",
    ),
    "template without images": (
        lambda f: (f / "chat_template.jinja").write_text(
            "{{ messages[-1]['content'][1]['text'] }}"
        ),
        r"chat template leaves out the image",
    ),
    "template without questions": (
        lambda f: (f / "chat_template.jinja").write_text("<image> Be brief."),
        r"chat template leaves out the question",
    ),
    "template without system prompts": (
        lambda f: (f / "chat_template.jinja").write_text(
            "<image>{{ messages[-1]['content'][1]['text'] }}"
        ),
        r"leaves out the system prompt \('Be brief\.'\).*model\.system_prompt",
    ),
    "image token": (
        lambda f: change_json(f / "config.json", image_token_index=7),
        r"images as token 3 \(<image>\), but the model takes token 7",
    ),
    "vocabulary": (
        lambda f: shutil.copy(POCKET / "pocket_qwen" / "tokenizer.json", f / "tokenizer.json"),
        r"has a token 2054, but the model has embeddings for 2048",
    ),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN)
def test_a_processor_that_is_not_the_model_s(
    tmp_path: Path, change: Callable[[Path], Any], words: str
) -> None:
    folder = copy(tmp_path)
    change(folder)
    with pytest.raises(ModelError, match=words):
        load_vlm(ModelConfig("m", str(folder), device="cpu", system_prompt="Be brief."))


def test_what_is_streamed_is_computed_as_it_is_stored_but_for_fp16_on_a_cpu(
    tmp_path: Path,
) -> None:
    """Processors have no units for fp16: it takes three times as long as fp32 there."""
    for stored, on_cpu in (("float16", "float32"), ("bfloat16", "bfloat16")):
        settings = json.dumps({"dtype": stored})
        (tmp_path / "config.json").write_text(settings, encoding="utf-8")
        assert compute_dtype(tmp_path, "cpu", stream=True) == on_cpu
        assert compute_dtype(tmp_path, "cuda", stream=True) == stored
        assert compute_dtype(tmp_path, "cpu") == "float32"


@STREAM
def test_buffers_of_older_checkpoints_are_no_weights(tmp_path: Path, stream: bool) -> None:
    """transformers makes them itself, and leaves those of the file alone, whatever they hold."""
    folder = copy(tmp_path)
    buffers = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((16,), torch.nan),
        "vision_tower.embeddings.position_ids": torch.arange(37)[None],
    }
    change_tensors(folder, lambda tensors: tensors.update(buffers))
    assert len(load(folder, stream).layers) == 10


@STREAM
def test_names_of_older_and_newer_checkpoints(tmp_path: Path, stream: bool) -> None:
    """Under each of them the same tensors are loaded."""
    folder = copy(tmp_path)
    expected = load(folder, stream).original(9)["mlp.down_proj"]

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            new = name.replace("language_model.model.", "model.language_model.")
            new = new.replace("language_model.lm_head", "lm_head")
            new = new.replace("vision_tower.", "model.vision_tower.vision_model.")
            new = new.replace("multi_modal_projector", "model.multi_modal_projector")
            tensors[new] = tensors.pop(name)

    change_tensors(folder, rename)
    assert torch.equal(load(folder, stream).original(9)["mlp.down_proj"], expected)


@STREAM
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [UP, PROJECTOR, "vision_tower.embeddings.class_embedding"])
def test_values_that_are_no_numbers(tmp_path: Path, stream: bool, name: str, value: float) -> None:
    folder = copy(tmp_path)
    change_tensors(folder, with_value(name, value, torch.float16))
    with pytest.raises(ModelError, match=rf"{SINGLE}: {name} holds NaN or infinite"):
        load(folder, stream)


def test_the_shard_that_holds_a_nan_is_named(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    change_tensors(folder, with_value(UP, torch.nan, torch.float16))
    shard = split(folder)[UP]
    with pytest.raises(ModelError, match=rf"{shard}: {UP}"):
        load(folder)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "memory"])
def test_values_that_the_computing_type_cannot_hold(tmp_path: Path, stream: bool) -> None:
    folder = copy(tmp_path)
    change_tensors(folder, with_value(UP, 1e300, torch.float64))
    with pytest.raises(ModelError, match=rf"{UP} holds 1e\+300.*float32"):
        load(folder, stream)


def test_large_values_are_numbers(tmp_path: Path) -> None:
    """What fp16 cannot hold is fine where the model is run in fp32."""
    folder = copy(tmp_path)
    change_tensors(folder, with_value(UP, 1e6, torch.float32))
    assert float(load(folder).original(3)["mlp.up_proj"].max()) == 1e6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0.0, -3.0], [torch.finfo(dtype).max, 1.0]], dtype=dtype)
    assert is_finite(tensor)
    assert is_finite(tensor[:0])
    assert is_finite(torch.arange(3))
    for value in (torch.nan, torch.inf, -torch.inf):
        changed = tensor.clone()
        changed[1, 1] = value
        assert not is_finite(changed)


def tied(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """A checkpoint in fp32 whose config says that the head is the embeddings."""

    def in_fp32(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] = tensors[name].float()
        change(tensors)

    change_tensors(folder, in_fp32)
    change_json(folder / "config.json", dtype="float32", tie_word_embeddings=True)


@STREAM
def test_a_head_beside_tied_embeddings_is_the_same_or_refused(tmp_path: Path, stream: bool) -> None:
    folder = copy(tmp_path)
    tied(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDINGS].clone()}))
    assert len(load(folder, stream).layers) == 10
    change_tensors(folder, with_value(HEAD, 0.125, torch.float32))
    with pytest.raises(ModelError, match=rf"tie_word_embeddings=true, but {HEAD} is not"):
        load(folder, stream)


def test_one_tensor_for_head_and_embeddings(tmp_path: Path) -> None:
    """Whichever of them the file has, the model has it twice; streamed, or a sentence."""
    for name in (HEAD, EMBEDDINGS):
        folder = copy(tmp_path / name)
        tied(folder, lambda tensors, name=name: tensors.pop(name))  # type: ignore[misc]
        model = load(folder).model
        assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)
        if name == HEAD:
            tokens = torch.arange(5, 25)[None]
            with torch.no_grad():
                logits = [load(folder, s).model(input_ids=tokens).logits for s in (True, False)]
            assert torch.equal(*logits)
        else:
            with pytest.raises(ModelError, match=r"lm_head.*alone.*model\.stream=false"):
                load(folder, stream=True)


def packed_bytes(vlm: VLM, folder: Path) -> bytes:
    """Layer 2 packed for what the layers before it give on text and images."""
    calibration = pocket_samples(vlm, CalibrationConfig("multimodal", alpha=0.5, tokens=512))
    states = first_inputs(vlm, calibration)
    for layer in vlm.layers[:2]:
        pass_through(layer, states)
    folder.mkdir()
    write_layer(folder, quantize_layer(vlm, 2, LayerTiers(GptqTier(group_size=64)), states))
    return (folder / FILE).read_bytes()


def test_one_key_is_one_layer_streamed_or_not(tmp_path: Path) -> None:
    """In fp32 on a CPU both are the same checkpoint by their keys, and the same bytes."""
    folder = copy(tmp_path)
    change_tensors(folder, lambda t: t.update({name: t[name].float() for name in t}))
    change_json(folder / "config.json", dtype="float32")
    configs = [
        ModelConfig("m", str(folder), device="cpu", stream=stream) for stream in (True, False)
    ]
    one, two = (checkpoint(config) for config in configs)
    assert one == two
    contents = [packed_bytes(load_vlm(c), tmp_path / str(c.stream)) for c in configs]
    assert contents[0] == contents[1]


def test_a_run_stops_before_it_calibrates(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    change_tensors(folder, lambda tensors: tensors.pop(PROJECTOR))
    words = ["model=pocket_llava", f"model.path={folder}", "model.device=cpu"]
    done = luq_to(tmp_path / "out", "run", *words)
    assert done.returncode == 1
    assert "multi_modal_projector.linear_1.bias" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not list(runs_folder.iterate(tmp_path / "out"))
    assert not list((tmp_path / "out" / "store" / "calibration").rglob("*.json"))
