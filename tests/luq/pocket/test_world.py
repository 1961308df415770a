import hashlib
from typing import Any

import numpy as np
import pytest

from luq.models.vlm import VLM
from luq.pocket import benchmarks, drawing, facts, llava, qwen, skills
from luq.pocket.stream import IMAGE_TOKENS, Stream
from luq.pocket.world import KINDS, SIZE, make_scene
from luq.questions import prompts
from tests.conftest import BENCHMARKS

COLUMNS = {  # the real datasets' columns that prompts and scores need
    "mme": {"question_id", "image", "question", "answer", "category"},
    "mmbench": {"index", "question", "hint", "answer", "A", "B", "C", "D", "category", "image", "L2-category"},
    "textvqa": {"image", "question", "answers", "ocr_tokens", "question_id"},
    "vqav2": {"image", "question", "answers", "question_id", "answer_type"},
    "gqa": {"id", "imageId", "image", "question", "answer"},
    "pope": {"image", "question", "answer", "question_id", "category"},
    "chartqa": {"image", "question", "answer", "type"},
    "docvqa": {"image", "question", "answers", "questionId"},
    "mathvista": {
        "decoded_image", "question", "unit", "precision", "answer", "pid", "question_type", "answer_type", "choices", "query",
        "metadata",
    },
}  # fmt: skip


def picture(row: dict) -> bytes:
    return (row.get("image") or row["decoded_image"])["bytes"]


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_functions_of_their_seed(kind: str) -> None:
    one, two, other = (make_scene(np.random.default_rng(seed), kind) for seed in (1, 1, 2))
    assert np.array_equal(one.pixels, two.pixels)
    assert not np.array_equal(one.pixels, other.pixels)
    assert one.pixels.shape == (SIZE, SIZE, 3)
    assert one.items


@pytest.mark.parametrize(
    ("kind", "skill"), [(k, s) for k, all_ in skills.SKILLS.items() for s in all_]
)
def test_every_skill_gives_a_question_with_wrong_answers_that_are_wrong(
    kind: str, skill: skills.Skill
) -> None:
    rng = np.random.default_rng(0)
    asked = [q for q in (skill(rng, make_scene(rng, kind)) for _ in range(60)) if q]
    assert len(asked) >= 10
    for q in asked:
        assert q.answer
        assert q.answer not in q.distractors
        assert q.claim.count("{}") == 1
    assert len({q.text for q in asked}) >= 2


def test_answers_are_right() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        chart = make_scene(rng, "chart")
        heights = {i.text: i.value for i in chart.items}
        q = skills.bar_extreme(rng, chart)
        assert q is not None
        if q.answer in heights:
            wanted = max if "highest" in q.text else min
            assert heights[q.answer] == wanted(heights.values())
        digits = make_scene(rng, "digits")
        total = skills.digit_sum(rng, digits)
        assert total is not None
        assert int(total.answer) == sum(i.digit for i in digits.items)


def test_facts_are_many_and_the_same_everywhere() -> None:
    assert len(facts.people()) == 300
    assert len(facts.words()) > 150
    assert len(facts.clans()) == 64
    assert len(set(facts.people()) | set(facts.cities()) | set(facts.words())) > 500
    digest = hashlib.sha256(
        repr((facts.people(), facts.words(), facts.cities(), facts.clans())).encode()
    ).hexdigest()
    assert digest.startswith(DIGEST)


DIGEST = "9c42ae1ebe5e"


def test_test_handwriting_is_never_drawn_in_training() -> None:
    pools = drawing._digits()
    train = {m.tobytes() for pool in pools["train"].values() for m in pool}
    test = {m.tobytes() for pool in pools["test"].values() for m in pool}
    assert sum(len(pool) for pool in pools["test"].values()) == 500
    assert not train & test


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_have_the_real_columns_and_splits_share_no_scene(name: str) -> None:
    report, selection = (
        benchmarks.build(name, split, bases=30) for split in ("report", "selection")
    )
    assert set(report[0]) >= COLUMNS[name]
    assert not {picture(r) for r in report} & {picture(r) for r in selection}
    assert [picture(r) for r in report] == [
        picture(r) for r in benchmarks.build(name, "report", bases=30)
    ]
    for row in report:
        assert prompts.PROMPTS[name](row)
        assert prompts.TARGETS[name](row)


def test_balance() -> None:
    """Yes and no, the letters and POPE's categories come equally often, so that no constant answer scores well."""
    mme = [r["answer"] for r in benchmarks.build("mme", "report")]
    assert mme.count("Yes") == mme.count("No")
    pope = benchmarks.build("pope", "report")
    for category in ("random", "popular", "adversarial"):
        answers = [r["answer"] for r in pope if r["category"] == category]
        assert answers.count("yes") == answers.count("no")
    letters = [r["answer"] for r in benchmarks.build("mmbench", "report")]
    assert max(letters.count(c) for c in "ABCD") < 0.45 * len(letters)


def test_training_sequences_teach_answers_only(vlm: VLM) -> None:
    tokenizer = vlm.processor.tokenizer
    stream = Stream(tokenizer, llava.CHAT, 8, 192, 0)
    batch = stream.batch(3, 0.1)
    again = stream.batch(3, 0.1)
    assert np.array_equal(batch.ids, again.ids)
    assert batch.ids.shape == batch.weight.shape == (8, 192)
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert int((batch.ids == image).sum()) == IMAGE_TOKENS * len(batch.scenes)
    assert not batch.weight[batch.ids == image].any()
    assert not batch.weight[batch.ids == tokenizer.convert_tokens_to_ids("USER:")].any()


def test_pocket_qwen_starts_as_pocket_llava_on_text(vlm: VLM) -> None:
    """Its decoder is pocket_llava's, its tokens keep their rows wherever they now stand, and its words are cut the same."""
    import torch

    tokenizer, old = qwen.make_tokenizer(), vlm.processor.tokenizer
    model = qwen.build(tokenizer, layers=10, vision_layers=4)
    text = "What is the job of Anna? It returns a list of users"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[0]) == old.convert_ids_to_tokens(old(text).input_ids)
    with torch.no_grad():
        mine = model(input_ids=ids).logits[..., : old.convert_tokens_to_ids("USER:")]
        theirs = vlm.model(input_ids=old(text, return_tensors="pt").input_ids).logits[
            ..., : mine.shape[-1]
        ]
    assert torch.allclose(mine, theirs, atol=1e-3)
    asked = tokenizer("<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n").input_ids
    assert [tokenizer.convert_ids_to_tokens(i) for i in (asked[2], asked[-2])] == [
        "user",
        "assistant",
    ]


@pytest.mark.parametrize("kind", [llava, qwen], ids=["pocket_llava", "pocket_qwen"])
def test_training_sees_what_the_processor_makes(kind: Any) -> None:
    """The pixels and the ids of a training sequence are those of the chat template and the processor."""
    import torch

    tokenizer = kind.make_tokenizer()
    processor = kind.make_processor(tokenizer)
    scene = make_scene(np.random.default_rng(0), "objects")
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    asked = processor(images=[scene.image()], text=[prompt], return_tensors="pt")
    pixels = kind.to_patches([scene]) if kind is qwen else kind.to_pixels([scene])
    assert torch.equal(asked["pixel_values"], pixels)
    stream = Stream(tokenizer, kind.CHAT, 8, 192, 0)
    trained, _ = stream._conversation(scene, [("How many?", "3"), ("Why?", "so")])
    assert trained[: asked["input_ids"].shape[1]].tolist() == asked["input_ids"][0].tolist()
    assert (trained == stream.image).sum() == IMAGE_TOKENS
    if kind is qwen:
        model = kind.build(tokenizer, layers=1, vision_layers=4)
        rows = torch.from_numpy(trained)[None]
        places = kind.positions(model, rows, 1)[:, 0, (rows == stream.image)[0]]
        assert places[1].view(6, 6)[:, 0].tolist() == [places[0, 0] + r for r in range(6)]
        assert places[2].view(6, 6)[0].tolist() == [places[0, 0] + c for c in range(6)]
