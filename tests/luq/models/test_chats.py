"""A chat's tokens are those that transformers makes of it: one token begins a sequence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from luq.calibration.mixing import AskedQuestion, multimodal_samples
from luq.config import ModelConfig
from luq.evaluation.ask import make_lm
from luq.models.vlm import VLM, load_vlm
from pipelines.chat import answer
from tests.luq.models.edited import copy

QUESTION = "what is this?"
BOS = 1  # the pocket models' <s>


def picture() -> Image.Image:
    return Image.new("RGB", (72, 72), "red")


@pytest.fixture(
    scope="module",
    params=[(True, True), (True, False), (False, True), (False, False)],
    ids=["both", "template", "tokenizer", "neither"],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, and whether its template or its tokenizer writes the first token."""
    template_begins, tokenizer_begins = request.param
    folder = copy(tmp_path_factory.mktemp("chats"))
    if template_begins:
        template = folder / "chat_template.jinja"
        template.write_text("{{ bos_token }}" + template.read_text())
    if not tokenizer_begins:
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    vlm = load_vlm(ModelConfig("m", str(folder), device="cpu"))
    return vlm, template_begins or tokenizer_begins


def expected_ids(vlm: VLM, image: Image.Image) -> list[int]:
    """What transformers makes of the question in one go."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    inputs = vlm.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids: list[int] = inputs["input_ids"][0].tolist()
    return ids


def check(pair: tuple[VLM, bool], ids: list[int]) -> None:
    vlm, begins = pair
    assert ids == expected_ids(vlm, picture())
    assert ids.count(BOS) == int(begins)
    assert (ids[0] == BOS) == begins


def test_calibration(pair: tuple[VLM, bool]) -> None:
    vlm, _ = pair
    (sample,) = multimodal_samples(vlm, iter([AskedQuestion("q", picture(), QUESTION)]))
    check(pair, sample.input_ids.tolist())


def test_evaluation(pair: tuple[VLM, bool]) -> None:
    """A batch as lm-eval makes it: padded on the left."""
    vlm, _ = pair
    lm = make_lm(vlm, 2)
    chats = [
        lm.apply_chat_template([{"role": "user", "content": f"<image>{text}"}])
        for text in (QUESTION, f"{QUESTION} {QUESTION}")
    ]
    encoded = lm.tok_batch_multimodal_encode(chats, [[picture()], [picture()]])
    length = int(encoded["attention_mask"][0].sum())
    assert length < encoded["input_ids"].shape[1]
    check(pair, encoded["input_ids"][0][-length:].tolist())


def test_chat(pair: tuple[VLM, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, _ = pair
    seen: list[torch.Tensor] = []

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.append(input_ids)
        return input_ids

    monkeypatch.setattr(vlm.model, "generate", generate)
    picture().save(tmp_path / "red.png")
    answer(vlm.model, vlm.processor, tmp_path / "red.png", QUESTION)
    check(pair, seen[0][0].tolist())
