"""Exported folders in transformers and PEFT: loaded, trained with adapters, unpacked, saved."""

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

import luq  # noqa: F401  # registers the quantization method
from luq.allocation.allocations import Allocation
from luq.config import QuantizerConfig
from luq.config.building import build
from luq.errors import ConfigError, ModelError
from luq.export import about, hf
from luq.export import folder as folders
from luq.export.about import GUARD, GUARD_ENTRY, read_about
from luq.export.checksums import verify
from luq.export.folder import PackedModel, export
from luq.formats import kernels
from luq.formats.layer_file import PackedLayer, write_layer
from luq.formats.linear import PackedLinear
from luq.models.vlm import VLM
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer
from tests.conftest import correlated
from tests.luq.export.facts import CARD, RUN
from tests.luq.formats.weights import coded

CONF = Path(__file__).parents[3] / "conf"
SOURCE = POCKET / "pocket_llava"
TIERS = (
    "float16",
    "gptq8",
    "gptq4",
    "gptq3",
    "q4_0",
    "ternary",
    "billm",
    "arb_rc",
    "trellis2",
    "trellis1",
)
PLAN = Allocation(TIERS)
IDS = torch.tensor([[1, 40, 41, 42, 43, 44, 50, 51], [1, 60, 61, 62, 63, 64, 65, 66]])
ATTENTION = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def folder(vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model with each layer in another tier."""
    settings = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text(encoding="utf-8"))
    tiers = build(
        QuantizerConfig, {"low": "billm", "high": "gptq4", "tiers": settings["tiers"]}
    ).tiers
    root = tmp_path_factory.mktemp("transformers")
    layers: list[Path] = []
    for index, tier in enumerate(TIERS):
        quantizer = make_quantizer(tiers[tier])
        layer = {}
        for name, weight in vlm.original(index).items():
            columns = weight.shape[1]
            layer[name] = quantizer.quantize(weight.float(), correlated(4 * columns, columns))
        layers.append(root / f"layer{index}")
        layers[-1].mkdir()
        write_layer(layers[-1], layer)
    return export(PackedModel(SOURCE, layers, PLAN), root / "model", RUN, CARD)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    answer: torch.Tensor = model(input_ids=IDS).logits
    return answer


def packed_linears(model: nn.Module) -> dict[str, PackedLinear]:
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, PackedLinear)}


def stored_bits(model: nn.Module) -> list[torch.Tensor]:
    """What all packed linears store, layer by layer."""
    return [
        buffer.clone() for linear in packed_linears(model).values() for buffer in linear.buffers()
    ]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def trained(model: Any, steps: int) -> list[float]:
    """The losses of some steps."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    losses: list[float] = []
    model.train()
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
def test_an_adapter_is_trained_saved_and_loaded(
    settings: dict[str, bool], folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = load(folder)
    before = stored_bits(base)
    model = get_peft_model(base, LoraConfig(target_modules=ATTENTION, r=4, **settings))
    losses = trained(model, 6)
    assert losses[-1] < 0.8 * losses[0]
    assert_same(stored_bits(model), before)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(folder), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), logits(load(folder)))


def test_an_adapter_gets_the_gradients_that_it_gets_on_plain_weights(folder: Path) -> None:
    gradients: list[dict[str, torch.Tensor]] = []
    for is_packed in (True, False):
        base = load(folder) if is_packed else load(folder).dequantize()
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(target_modules="all-linear", r=2))
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        )
    packed, plain = gradients
    assert packed.keys() == plain.keys()
    assert sum("lora_B" in name for name in packed) == 7 * len(TIERS)
    for name, gradient in packed.items():
        tolerance = 1e-4 * float(plain[name].abs().max())
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=tolerance), name


def test_activations_can_be_checkpointed(folder: Path) -> None:
    gradients: list[torch.Tensor] = []
    for is_checkpointed in (False, True):
        base = load(folder).train()
        base.enable_input_require_grads()
        if is_checkpointed:
            base.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(target_modules=ATTENTION, r=4))
        model(input_ids=IDS, labels=IDS).loss.backward()
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(found))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_transformers_trains_adapters_and_no_packed_weights(folder: Path, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": IDS[0], "labels": IDS[0]}] * 4
    settings = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    model = get_peft_model(load(folder), LoraConfig(target_modules=["q_proj"], r=4))
    assert Trainer(model, settings, train_dataset=rows).train().global_step == 2
    with pytest.raises(ValueError, match="attach trainable adapters"):
        Trainer(load(folder), settings, train_dataset=rows)


@pytest.mark.parametrize("is_safe", [False, True])
def test_an_adapter_is_merged_into_plain_weights_alone(folder: Path, is_safe: bool) -> None:
    torch.manual_seed(0)
    model = get_peft_model(load(folder), LoraConfig(target_modules=ATTENTION, r=4))
    trained(model, 2)
    answers = logits(model)
    before = stored_bits(model)
    with pytest.raises(ModelError, match=r"call model\.dequantize\(\) first"):
        model.merge_and_unload(safe_merge=is_safe)
    assert_same(stored_bits(model), before)
    model.dequantize()
    assert torch.equal(logits(model), answers)
    merged = model.merge_and_unload(safe_merge=is_safe)
    assert packed_linears(merged) == {}
    assert torch.allclose(logits(merged), answers, atol=1e-3)
    assert not any("lora" in name for name, _ in merged.named_modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dequantized_model_says_the_same_and_is_saved_as_a_plain_one(
    dtype: torch.dtype, folder: Path, tmp_path: Path
) -> None:
    model = load(folder, dtype)
    answers = logits(model)
    weights = {
        name: kernels.unpack(linear.packed, dtype) for name, linear in packed_linears(model).items()
    }
    assert len(weights) == 7 * len(TIERS)
    assert model.dequantize() is model
    for name, weight in weights.items():
        linear = model.get_submodule(name)
        assert type(linear) is nn.Linear
        assert torch.equal(linear.weight, weight)
        assert linear.weight.requires_grad
    assert torch.equal(logits(model), answers)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert GUARD_ENTRY not in config
    assert not (tmp_path / "luq.json").exists()
    assert torch.equal(logits(load(tmp_path, dtype)), answers)


def test_a_model_is_dequantized_in_another_type(folder: Path) -> None:
    model = load(folder).dequantize(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("shard_size", ["50GB", "300KB"])
def test_a_saved_model_has_checksums_and_guard_and_the_same_bits(
    shard_size: str, folder: Path, tmp_path: Path
) -> None:
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    about = verify(tmp_path)
    assert {"config.json", "tokenizer.json", "processor_config.json"} <= set(about.files)
    assert about.run == RUN
    sizes = [file.stat().st_size for file in tmp_path.glob("*.safetensors")]
    assert (len(sizes) > 1) == (shard_size == "300KB")
    assert sum(about.ledger.values()) == about.file_bytes == sum(sizes)
    exported = read_about(folder).ledger
    assert about.ledger | {"header": 0} == exported | {"header": 0}
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config[GUARD_ENTRY] == GUARD
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert_same(list(again.state_dict().values()), list(model.state_dict().values()))


def test_a_model_saved_in_another_type_claims_no_scores(folder: Path, tmp_path: Path) -> None:
    model = load(folder, torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert verify(tmp_path).run is None
    again = load(tmp_path, torch.bfloat16)
    assert_same(list(again.state_dict().values()), list(model.state_dict().values()))


def test_a_changed_model_claims_no_scores(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert verify(tmp_path).run is None


def test_damage_to_a_saved_model_is_found(folder: Path, tmp_path: Path) -> None:
    load(folder).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="its bytes are not those that were exported"):
        load(tmp_path)


def test_a_folder_is_complete_before_it_is_pushed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, RepoUrl

    pushed: dict[str, list[str]] = {}

    def commit(_: HfApi, repo_id: str, operations: list[Any], **__: object) -> None:
        pushed[repo_id] = [operation.path_in_repo for operation in operations]

    def create(_: HfApi, repo_id: str, **__: object) -> RepoUrl:
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "create_commit", commit)
    load(folder).save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="someone/mine")
    assert list(pushed) == ["someone/mine"]
    assert {"config.json", "luq.json", "model.safetensors"} <= set(pushed["someone/mine"])
    verify(tmp_path / "mine")


def test_an_adapter_of_transformers_own_is_saved_alone(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    model.add_adapter(LoraConfig(target_modules=["q_proj"], r=4))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "luq.json").exists()


def test_a_model_that_is_not_packed_is_saved_as_ever(folder: Path, tmp_path: Path) -> None:
    load(folder)  # from now on the class completes what it saves of packed models
    load(SOURCE).save_pretrained(tmp_path)
    assert not (tmp_path / "luq.json").exists()


def test_inputs_in_8_bits_are_asked_for_by_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(linear.in_eight_bits for linear in packed_linears(load(folder)).values())
    monkeypatch.setenv("LUQ_ACTIVATIONS", "8")
    assert all(linear.in_eight_bits for linear in packed_linears(load(folder)).values())
    monkeypatch.setenv("LUQ_ACTIVATIONS", "4")
    with pytest.raises(ConfigError, match="LUQ_ACTIVATIONS='4'"):
        load(folder)


def test_a_model_is_gone_when_nobody_holds_it(folder: Path) -> None:
    model = load(folder)
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(model)
        del model
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["codes", "scales", "weight"])
def test_a_folder_without_a_buffer_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    """transformers would go on with whatever stands in the memory, and a warning."""
    layer = 0 if name == "weight" else 2
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "luq.json").unlink()
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors[f"language_model.model.layers.{layer}.mlp.up_proj.{name}"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"lack layers\.{layer}\.mlp\.up_proj\.{name}"):
        load(copy)


REPOSITORY = "someone/packed"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(folder: Path, tmp_path: Path) -> Path:
    """A cache of the hub as transformers leaves it: without luq.json, for which it does not ask."""
    repository = tmp_path / "cache" / "models--someone--packed"
    snapshot = Path(shutil.copytree(folder, repository / "snapshots" / COMMIT))
    (snapshot / "luq.json").unlink()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return tmp_path / "cache"


def spoil(cache: Path) -> None:
    (file,) = cache.glob("*/snapshots/*/model.safetensors")
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)


def test_a_repository_of_the_hub_is_compared_with_its_checksums(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str, *, revision: str, cache_dir: Path) -> None:
        asked.append((repository, revision))
        target = cache_dir / "models--someone--packed" / "snapshots" / revision / name
        shutil.copyfile(folder / name, target)

    monkeypatch.setattr(hf, "hf_hub_download", download)
    AutoModelForImageTextToText.from_pretrained(REPOSITORY, cache_dir=cache)
    AutoModelForImageTextToText.from_pretrained(REPOSITORY, cache_dir=cache)
    assert asked == [(REPOSITORY, COMMIT)], "once: then it is there"
    spoil(cache)
    with pytest.raises(ModelError, match="its bytes are not those that were exported"):
        AutoModelForImageTextToText.from_pretrained(REPOSITORY, cache_dir=cache)


def test_without_a_connection_a_cached_model_is_loaded_with_a_warning(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(REPOSITORY, cache_dir=cache)
    assert len(packed_linears(model)) == 7 * len(TIERS)
    assert "someone/packed comes without checksums" in caplog.text


def test_a_model_without_a_head_is_loaded_and_saved(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    whole = load(folder)
    assert len(packed_linears(model)) == 7 * len(TIERS)
    with torch.no_grad():
        states = model(input_ids=IDS).last_hidden_state
        assert torch.equal(states, whole.model(input_ids=IDS).last_hidden_state)
    model.save_pretrained(tmp_path)
    assert verify(tmp_path).run is None, "its scores are those of the whole model"
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).last_hidden_state, states)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_device_maps(device_map: Any, folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, device_map=device_map
    )
    assert torch.allclose(logits(model).cpu(), logits(load(folder)), atol=1e-3)


def test_decoder_layers_may_wait_on_the_disk(folder: Path, tmp_path: Path) -> None:
    places = {
        "model.vision_tower": "cpu",
        "model.multi_modal_projector": "cpu",
        "model.language_model": "disk",
        "lm_head": "cpu",
    }
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, device_map=places, offload_folder=tmp_path
    )
    assert torch.equal(logits(model), logits(load(folder)))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float16),
        ("bfloat16", torch.bfloat16),
        (torch.float32, torch.float32),
        (None, torch.float16),
    ],
)
def test_the_type_that_is_asked_for_is_computed_in(
    dtype: Any, expected: torch.dtype, folder: Path
) -> None:
    settings = {} if dtype is None else {"dtype": dtype}
    model = AutoModelForImageTextToText.from_pretrained(folder, **settings)
    assert model.dtype == expected
    assert {linear.compute_dtype for linear in packed_linears(model).values()} == {expected}
    assert_same(stored_bits(model), stored_bits(load(folder)))


@pytest.fixture(scope="module")
def questions() -> list[tuple[str, Image.Image]]:
    red = Image.new("RGB", (64, 64), (200, 30, 30))
    blue = Image.new("RGB", (64, 64), (20, 30, 200))
    return [
        ("What color is it?", red),
        ("Is there a big red square in this picture? Answer with yes or no.", blue),
        ("What?", red),
    ]


def test_a_batch_with_padding_is_answered_as_its_questions_are(
    folder: Path, questions: list[tuple[str, Image.Image]]
) -> None:
    model = load(folder)
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    prompts: list[str] = []
    for question, _image in questions:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        prompts.append(processor.apply_chat_template(messages, add_generation_prompt=True))

    def answers(prompts: list[str], images: list[Image.Image]) -> list[str]:
        inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True)
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = processor.batch_decode(new_tokens, skip_special_tokens=True)
        return texts

    images = [image for _question, image in questions]
    alone = [answers([prompt], [image])[0] for prompt, image in zip(prompts, images, strict=True)]
    assert answers(prompts, images) == alone
    assert len(set(alone)) == len(alone)


def test_a_pipeline_asks_the_folder(folder: Path, questions: list[tuple[str, Image.Image]]) -> None:
    question, image = questions[0]
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    of_folder = pipeline("image-text-to-text", model=str(folder), dtype=torch.float32)
    assert len(packed_linears(of_folder.model)) == 7 * len(TIERS)
    of_model = pipeline(
        "image-text-to-text", model=load(folder), processor=AutoProcessor.from_pretrained(folder)
    )
    settings = {"max_new_tokens": 8, "return_full_text": False}
    (answer,) = of_folder(text=messages, **settings)
    (expected,) = of_model(text=messages, **settings)
    assert answer["generated_text"] == expected["generated_text"] != ""


def test_a_folder_of_format_version_1_answers_as_it_did(
    vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trellis codes look their numbers up in a table, and nothing says so."""
    for module in (about, folders):
        monkeypatch.setattr(module, "FORMAT_VERSION", 1)
    layers, expected = [], {}
    for index in range(len(vlm.layers)):
        layer: PackedLayer = {}
        for name, weight in vlm.original(index).items():
            layer[name] = coded(*weight.shape, 2, code=None)
            expected[f"{index}.{name}"] = layer[name].dequantize()
        layers.append(tmp_path / f"layer{index}")
        layers[-1].mkdir()
        write_layer(layers[-1], layer)
    plan = Allocation(["trellis2"] * len(layers))
    target = export(PackedModel(SOURCE, layers, plan), tmp_path / "model")
    monkeypatch.undo()
    assert json.loads((target / about.ABOUT).read_text())["format_version"] == 1
    assert '"code"' not in (target / "config.json").read_text()
    for index, layer_module in enumerate(load(target).model.language_model.layers):
        for name, linear in layer_module.named_modules():
            if isinstance(linear, PackedLinear):
                unpacked = kernels.unpack(linear.packed, torch.float32)
                assert torch.equal(unpacked, expected.pop(f"{index}.{name}"))
    assert not expected
