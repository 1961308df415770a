"""Training sequences, the two families, and what a folder of a training may be used for."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from luq.errors import ConfigError, LuqError
from luq.models.vlm import VLM
from luq.pocket import llava, qwen, train, wide
from luq.pocket.conversations import ASK_ALL, IMAGE_TOKENS
from luq.pocket.drawing import GRID
from luq.pocket.family import FAMILIES
from luq.pocket.shipped import WEIGHTS
from luq.pocket.stream import POCKET_MIXTURE, Stream
from luq.pocket.tokenizer import load_tokenizer
from luq.pocket.train import TrainConfig
from luq.pocket.world import make_scene

TINY = TrainConfig(layers=1, vision_layers=1, vision_steps=0, steps=1, batch=1, length=96)


def test_training_sequences_teach_answers_only(vlm: VLM) -> None:
    tokenizer = vlm.processor.tokenizer
    stream = Stream(tokenizer, llava.CHAT, 8, 192, 0)
    batch = stream.batch(3, 0.1)
    assert np.array_equal(batch.ids, stream.batch(3, 0.1).ids)
    assert batch.ids.shape == batch.weight.shape == (8, 192)
    is_image = batch.ids == tokenizer.convert_tokens_to_ids("<image>")
    assert int(is_image.sum()) == IMAGE_TOKENS * len(batch.scenes)
    assert not batch.weight[is_image].any()
    assert not batch.weight[batch.ids == tokenizer.convert_tokens_to_ids("USER:")].any()


def test_a_long_answer_weighs_as_the_mixture_says(vlm: VLM) -> None:
    turns = [("Which one?", "red"), ("What do you see?", "a red bar and a blue bar")]
    for evenness, ratio in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        mixture = POCKET_MIXTURE._replace(evenness=evenness)
        stream = Stream(vlm.processor.tokenizer, llava.CHAT, 8, 192, 0, mixture=mixture)
        sums = []  # of the weights of an answer
        lengths = []
        for turn in turns:
            _, weight = stream.writer.conversation(None, [turn])
            sums.append(float(weight.sum()))
            lengths.append(int((weight > 0).sum()))
        assert lengths[1] > lengths[0]
        assert sums[1] / sums[0] == pytest.approx((lengths[1] / lengths[0]) ** ratio)


def test_questions_in_one_reply_teach_their_answers_only(vlm: VLM) -> None:
    """Each answer begins a line, as it begins a reply of its own elsewhere."""
    tokenizer = qwen.make_tokenizer()
    stream = Stream(tokenizer, qwen.CHAT, 8, 192, 0)
    scene = make_scene(np.random.default_rng(0), "objects")
    turns = [("How many?", "3"), ("Which one?", "red")]
    ids, weight = stream.writer.one_reply(scene, turns)
    shown = tokenizer.decode(ids[ids != stream.writer.image_token].tolist())
    reply = shown.partition("assistant\n")[2]
    assert reply.strip() == "How many?\n3\nWhich one?\nred\n<|im_end|>"
    assert (ids == stream.writer.image_token).sum() == IMAGE_TOKENS
    assert tokenizer.decode(ids[weight > 0].tolist()) == "3\nred\n"


def test_the_mixture_says_how_often_questions_come_in_one_reply(vlm: VLM) -> None:
    tokenizer = vlm.processor.tokenizer
    for share in (0.0, 0.5, 1.0):
        mixture = POCKET_MIXTURE._replace(brief=(share,) * 4)
        stream = Stream(tokenizer, llava.CHAT, 1, 192, 0, mixture=mixture)
        count = 0
        for step in range(60):
            sequence = stream.sequence(step, 0, 0.2, "sides")
            count += ASK_ALL in tokenizer.decode(sequence.ids.tolist())
        assert abs(count / 60 - share) < 0.2 * (0 < share < 1) + 1e-9
    answers = []
    for lesson in ("scene-brief", "scene-open"):
        stream = Stream(tokenizer, llava.CHAT, 1, 192, 0)
        batches = [stream.sequence(step, 0, 0.2, lesson) for step in range(40)]
        answers.append(sum(int((batch.weight > 0).sum()) for batch in batches))
    assert answers[0] > 1.2 * answers[1]


def test_pocket_qwen_cuts_text_as_pocket_llava_does(vlm: VLM) -> None:
    tokenizer = qwen.make_tokenizer()
    llava_tokenizer = vlm.processor.tokenizer
    text = "What is the job of Anna? It returns a list of users"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
    assert pieces == llava_tokenizer.convert_ids_to_tokens(llava_tokenizer(text).input_ids)
    chat = tokenizer("<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n").input_ids
    roles = [tokenizer.convert_ids_to_tokens(chat[i]) for i in (2, -2)]
    assert roles == ["user", "assistant"]


def test_pocket_qwen_starts_as_pocket_llava_on_text(vlm: VLM) -> None:
    """Its decoder is pocket_llava's, and its tokens keep their rows wherever they now stand."""
    tokenizer = qwen.make_tokenizer()
    llava_tokenizer = vlm.processor.tokenizer
    model = qwen.build(tokenizer, layers=10, vision_layers=4)
    text = "What is the job of Anna? It returns a list of users"
    ids = tokenizer(text, return_tensors="pt").input_ids
    llava_ids = llava_tokenizer(text, return_tensors="pt").input_ids
    common = llava_tokenizer.convert_tokens_to_ids("USER:")  # ids below it mean the same in both
    with torch.no_grad():
        logits = model(input_ids=ids).logits[..., :common]
        llava_logits = vlm.model(input_ids=llava_ids).logits[..., :common]
    assert torch.allclose(logits, llava_logits, atol=1e-3)


@pytest.mark.parametrize("name", ["pocket_llava", "pocket_qwen", "pocket_wide"])
def test_training_sees_what_the_processor_makes(name: str) -> None:
    """Pixels and ids of a training sequence are those of the chat template and the processor."""
    family = FAMILIES[name]
    tokenizer = family.make_tokenizer()
    processor = family.make_processor(tokenizer)
    scene = make_scene(np.random.default_rng(0), "objects")
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    encoded = processor(images=[scene.image()], text=[prompt], return_tensors="pt")
    pixels = llava.to_pixels([scene]) if name == "pocket_llava" else qwen.to_patches([scene])
    assert torch.equal(encoded["pixel_values"], pixels)
    stream = Stream(tokenizer, family.CHAT, 8, 192, 0)
    ids, _ = stream.writer.conversation(scene, [("How many?", "3"), ("Why?", "so")])
    prompt_length = encoded["input_ids"].shape[1]
    assert ids[:prompt_length].tolist() == encoded["input_ids"][0].tolist()
    assert (ids == stream.writer.image_token).sum() == IMAGE_TOKENS


def test_pocket_wide_starts_as_pocket_qwen_but_for_the_window() -> None:
    source = wide._qwen()
    tokenizer = load_tokenizer(WEIGHTS / "pocket_qwen")
    scene = make_scene(np.random.default_rng(0), "objects")
    stream = Stream(tokenizer, qwen.CHAT, 8, 192, 0)
    ids, _ = stream.writer.conversation(scene, [("How many?", "3")])
    batch = {
        "input_ids": torch.from_numpy(ids)[None],
        "pixel_values": qwen.to_patches([scene]),
        "image_grid_thw": qwen.grids(1),
    }
    batch["mm_token_type_ids"] = (batch["input_ids"] == stream.writer.image_token).int()
    sizes = wide.SIZES._replace(window=qwen.WINDOW)
    model = qwen.random_model(tokenizer, 10, 4, sizes)
    wide.widen(model, source, range(10))
    with torch.no_grad():
        expected = source(**batch).logits
        assert torch.allclose(model.eval()(**batch).logits, expected, atol=2e-3)
        other = wide.build(tokenizer, 9, 4).eval()(**batch).logits
    assert float((other - expected).abs().max()) > 0.1
    halves = model.model.language_model.layers[0].mlp.up_proj.weight.chunk(2, 1)
    assert float((halves[0] - halves[1]).detach().std()) > 0.5 * float(halves[0].detach().std())


def test_pocket_wide_cuts_texts_as_gpt_2_does() -> None:
    tokenizer = wide.make_tokenizer()
    other = load_tokenizer(WEIGHTS / "pocket_qwen")
    assert tokenizer.get_vocab() == other.get_vocab()
    chat = "<|im_start|>user\nWhich is 12? Is it BONI or ENOG?<|im_end|>\n<|im_start|>assistant\n"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(chat).input_ids)
    assert pieces == other.convert_ids_to_tokens(other(chat).input_ids)
    assert [piece for piece in pieces if piece[1:].isupper()] == ["ĠBO", "NI", "ĠEN", "OG"]
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("ask BONI: 12 it's\n\nx")
    assert [word for word, _ in words] == ["ask", "ĠBONI", ":", "Ġ12", "Ġit", "'s", "Ċ", "Ċ", "x"]


def test_pocket_wide_goes_on_with_what_pocket_qwen_knows(tmp_path: Path) -> None:
    """No vision phase, and a folder of its own kind to start from."""
    checkpoint = trained(
        tmp_path / "one", model="pocket_wide", layers=None, vision_layers=4, vision_steps=None
    )
    assert not (tmp_path / "one" / "vision.pt").exists()
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["text_config"]["hidden_size"] == 256
    assert config["text_config"]["num_hidden_layers"] == 9
    assert config["vision_config"]["window_size"] == 112
    again = trained(
        tmp_path / "two",
        model="",
        start=str(checkpoint),
        layers=None,
        vision_layers=4,
        vision_steps=None,
    )
    card = json.loads((tmp_path / "two" / train.SETTINGS).read_text())
    assert card["model"] == "pocket_wide"
    with pytest.raises(ConfigError, match="is a pocket_wide, and --model says pocket_qwen"):
        trained(tmp_path / "three", model="pocket_qwen", start=str(again))


def test_pocket_wide_leaves_out_the_layer_that_is_missed_least() -> None:
    source = dict(wide._qwen().named_parameters())
    model = dict(wide.build(wide.make_tokenizer(), 9, 4).named_parameters())
    for place, index in enumerate([0, 1, 2, 3, 4, 5, 7, 8, 9]):
        norm = source[f"model.language_model.layers.{index}.input_layernorm.weight"]
        found = model[f"model.language_model.layers.{place}.input_layernorm.weight"]
        assert torch.equal(found, torch.cat([norm, norm]))


def test_pocket_qwen_counts_rows_and_columns_of_cells() -> None:
    tokenizer = qwen.make_tokenizer()
    model = qwen.build(tokenizer, layers=1, vision_layers=4)
    stream = Stream(tokenizer, qwen.CHAT, 8, 192, 0)
    scene = make_scene(np.random.default_rng(0), "objects")
    ids, _ = stream.writer.conversation(scene, [("How many?", "3")])
    batch = torch.from_numpy(ids)[None]
    positions = qwen.positions(model, batch, 1)
    assert positions is not None
    time, rows, columns = positions[:, 0, (batch == stream.writer.image_token)[0]]
    numbers = [int(time[0]) + i for i in range(GRID)]
    assert rows.view(GRID, GRID)[:, 0].tolist() == numbers
    assert columns.view(GRID, GRID)[0].tolist() == numbers


def trained(folder: Path, **settings: object) -> Path:
    """Train for one step in `folder`, from the shipped tokenizer, which saves learning one."""
    config = TrainConfig(**{**vars(TINY), **settings})
    with Progress(disable=True) as progress:
        return train.train(folder, config, progress)


@pytest.fixture(autouse=True)
def _shipped_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(WEIGHTS / "pocket_llava")
    monkeypatch.setattr(llava, "make_tokenizer", lambda: tokenizer)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", 7),
        ("batch", 2),
        ("model", "pocket_qwen"),
        ("layers", 2),
        ("learning_rate", 1e-3),
        ("muon_rate", 1e-3),
        ("vision_rate", 0.5),
        ("decay", 0.5),
        ("focus", "places"),
    ],
)
def test_a_finished_folder_takes_no_other_training(
    tmp_path: Path, setting: str, value: object
) -> None:
    checkpoint = trained(tmp_path)
    card = (checkpoint / train.CARD).read_bytes()
    weights = (checkpoint / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=f"and {setting}={value} is asked for"):
        trained(tmp_path, **{setting: value})
    assert (checkpoint / train.CARD).read_bytes() == card
    assert (checkpoint / "model.safetensors").read_bytes() == weights


def test_a_folder_of_before_there_were_settings_is_known_by_its_card(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / train.SETTINGS).unlink()
    with pytest.raises(ConfigError, match="seed=0, and seed=7 is asked for"):
        trained(tmp_path, seed=7)


def test_an_unfinished_folder_takes_no_other_training(tmp_path: Path) -> None:
    checkpoint = trained(tmp_path)
    (checkpoint / train.CARD).unlink()
    with pytest.raises(ConfigError, match="train in another folder"):
        trained(tmp_path, seed=7)


def test_a_training_may_be_made_longer_and_not_shorter(tmp_path: Path) -> None:
    trained(tmp_path)
    checkpoint = trained(tmp_path, steps=2)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    card = (checkpoint / train.CARD).read_bytes()
    with pytest.raises(ConfigError, match=r"steps=2, and steps=1 is asked for: .* not shorter"):
        trained(tmp_path, steps=1)
    assert (checkpoint / train.CARD).read_bytes() == card


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", -1),
        ("steps", 0),
        ("layers", 0),
        ("vision_steps", -1),
        ("batch", 0),
        ("length", 7),
        ("learning_rate", math.nan),
        ("learning_rate", 0.0),
        ("muon_rate", math.inf),
        ("vision_rate", -0.1),
        ("decay", 1.5),
        ("decay", math.nan),
        ("seed", -1),
        ("save_every", 0),
        ("focus", "places,places"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{setting}="):
        TrainConfig(**{setting: value})


def test_a_start_that_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(LuqError, match=r"config\.json cannot be read"):
        trained(tmp_path / "out", start=str(tmp_path / "nothing"))
    assert not (tmp_path / "out").exists()
