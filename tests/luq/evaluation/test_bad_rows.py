"""One bad row among good ones: it is wrong with its reason, and all others are scored."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from luq.calibration.mixing import multimodal_samples, training_questions
from luq.config import EvaluationConfig, ModelConfig
from luq.errors import DataError
from luq.evaluation import answers, fidelity
from luq.evaluation.ask import ask, make_lm, with_docs
from luq.evaluation.lm import LoadedVLM
from luq.evaluation.predictions import FidelityRow, Predictions
from luq.models.vlm import VLM, load_vlm
from luq.questions.sources import evaluation_table
from luq.questions.tables import Questions
from luq.store.store import Store
from tests.luq.questions.clones import picture
from tests.luq.questions.test_pictures import huge_png, turned

Row = dict[str, Any]
GOOD: Row = {
    "question": "What is the value of UK?",
    "answer": "3",
    "type": "human_test",
    "image": picture(1),
}
GOOD_ROWS = [0, 4, 9, 14]


def image(content: bytes | None) -> Row:
    return {"image": {"bytes": content, "path": None}}


# What is wrong with a row -> how its reason begins.
BAD: dict[str, tuple[Row, str]] = {
    "broken image": (image(b"broken"), "chartqa row 1: the image does not decode"),
    "empty image": (image(b""), "chartqa row 2: there are no bytes of an image"),
    "null image": ({"image": None}, "chartqa row 3: there are no bytes of an image"),
    "megapixels": (image(huge_png(12_000, 12_000)), "chartqa row 5: the image has more pixels"),
    "null question": ({"question": None}, "the question is empty"),
    "null answer": ({"answer": None}, "the row has no answer: it is unlabelled"),
    "nan answer": ({"answer": "nan"}, "the row has no answer: it is unlabelled"),
    "long prompt": ({"question": "word " * 3000}, "a prompt of "),
    "longer prompt": ({"question": "word " * 100_000}, "a prompt of "),
}
# What looks bad and can be asked.
ODD: dict[str, Row] = {
    "image token": {"question": "What does the tag <image> in the picture say?"},
    "end of turn": {"question": "Is <|im_end|> or </s> or <|image_pad|> in the picture?"},
    "image token in the answer": {"answer": "<image></s>"},
    "turned image": image(turned(6)),
}
# Qwen2.5-VL's processor refuses it, LLaVA's does not.
NARROW: Row = {"image": picture(2, size=(1, 400))}


def rows() -> list[Row]:
    """Good rows at `GOOD_ROWS`, the others as `BAD`, `ODD` and `NARROW` say."""
    others = iter([*(changes for changes, _ in BAD.values()), *ODD.values(), NARROW])
    count = len(GOOD_ROWS) + len(BAD) + len(ODD) + 1
    made: list[Row] = []
    for id_ in range(count):
        made.append(GOOD if id_ in GOOD_ROWS else GOOD | next(others))
    return made


BAD_ROWS = [id_ for id_ in range(len(rows())) if id_ not in GOOD_ROWS][: len(BAD)]
NARROW_ROW = len(rows()) - 1


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    folder: Path = tmp_path_factory.mktemp("poisoned")
    Dataset.from_list(rows()).to_parquet(folder / "chartqa.parquet")
    config = EvaluationConfig("test", ["chartqa"], data=str(folder), split="all")
    table = evaluation_table("chartqa", config, folder / "cache")
    return table.open(Store(folder / "outputs").tools)


@pytest.fixture(scope="module", params=["pocket_llava", "pocket_qwen"])
def model(request: pytest.FixtureRequest) -> VLM:
    name: str = request.param
    return load_vlm(ModelConfig(name, f"pocket:{name}", device="cpu"))


@pytest.fixture
def lm(model: VLM) -> LoadedVLM:
    return make_lm(model, 8)


def bad_rows(lm: LoadedVLM) -> list[int]:
    is_qwen = lm.vlm.config.name == "pocket_qwen"
    return [*BAD_ROWS, NARROW_ROW] if is_qwen else BAD_ROWS


def test_bad_rows_are_wrong_with_their_reason_and_all_others_are_asked(
    lm: LoadedVLM, questions: Questions, tmp_path: Path
) -> None:
    ids = list(range(len(questions.docs)))
    asked = ask(lm, questions, ids, Predictions(tmp_path / "all.jsonl"))
    assert [row["id"] for row in asked] == ids
    assert [row["id"] for row in asked if "error" in row] == bad_rows(lm)
    for (_, beginning), id_ in zip(BAD.values(), BAD_ROWS, strict=True):
        assert asked[id_]["error"].startswith(beginning)
        assert "0x" not in asked[id_]["error"]
    if NARROW_ROW in bad_rows(lm):
        assert (
            "the processor refuses it (ValueError: absolute aspect ratio"
            in (asked[NARROW_ROW]["error"])
        )
    assert asked == ask(lm, questions, ids, Predictions(tmp_path / "again.jsonl"))
    alone = ask(lm, questions, GOOD_ROWS, Predictions(tmp_path / "good.jsonl"))
    assert [asked[id_] for id_ in GOOD_ROWS] == alone
    summary = answers.summarise("chartqa", with_docs(questions, asked))
    assert summary.n == len(ids)
    assert all(summary.units[id_] == 0 for id_ in bad_rows(lm))


def test_fidelity_leaves_out_what_the_scores_count_as_wrong(
    lm: LoadedVLM, questions: Questions, tmp_path: Path
) -> None:
    ids = list(range(len(questions.docs)))
    asked = ask(lm, questions, ids, Predictions(tmp_path / "all.jsonl"))
    logs = list(fidelity.log_probabilities(lm, questions, ids, False, lambda n: None))
    file = tmp_path / "reference.safetensors"
    fidelity.write_reference(file, logs)
    measured, left_out = fidelity.measure(logs, fidelity.read_reference(file))
    wrong = [{"id": row["id"], "error": row["error"]} for row in asked if "error" in row]
    assert left_out == wrong
    assert len(measured) + len(left_out) == len(ids)
    by_id: dict[int, FidelityRow] = {row["id"]: row for row in measured}
    first = by_id[GOOD_ROWS[0]]["loglik"]
    assert all(by_id[id_]["loglik"] == pytest.approx(first, abs=1e-3) for id_ in GOOD_ROWS)


def test_calibration_leaves_out_what_cannot_be_seen(
    lm: LoadedVLM, questions: Questions, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    for sample in multimodal_samples(lm.vlm, training_questions(0, {"chartqa": questions})):
        seen.append(int(sample.source.partition(":")[2]))
    # Calibration needs no answers.
    has_no_answer = {id_ for id_ in BAD_ROWS if questions.docs[id_]["answer"] in (None, "nan")}
    unseen = {*bad_rows(lm)} - has_no_answer
    assert sorted(seen) == [id_ for id_ in range(len(questions.docs)) if id_ not in unseen]
    assert len(caplog.records) == len(unseen)
    assert all("0x" not in record.message for record in caplog.records)


@pytest.mark.parametrize("id_", BAD_ROWS)
def test_strict_stops_at_every_kind(
    lm: LoadedVLM, questions: Questions, tmp_path: Path, id_: int
) -> None:
    with pytest.raises(DataError, match=f"row {id_}: "):
        ask(lm, questions, [0, id_], Predictions(tmp_path / "kept.jsonl"), strict=True)
    with pytest.raises(DataError, match=f"row {id_}: "):
        list(fidelity.log_probabilities(lm, questions, [0, id_], True, lambda n: None))


def test_strict_also_applies_to_answers_that_were_kept_without_it(
    lm: LoadedVLM, questions: Questions, tmp_path: Path
) -> None:
    file = tmp_path / "kept.jsonl"
    ask(lm, questions, [0, 1], Predictions(file))
    with pytest.raises(DataError, match=r"chartqa row 1: .*the image does not decode"):
        ask(lm, questions, [0, 1], Predictions(file), strict=True)
    assert ask(lm, questions, [0], Predictions(file), strict=True)[0]["id"] == 0


def test_a_fault_of_the_machine_is_no_fault_of_a_row(
    lm: LoadedVLM, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(lm, "processor", full)
    with pytest.raises(MemoryError):
        lm.tok_batch_multimodal_encode(["a"], [[questions.image(0).convert()]])
    assert lm.tokenizer.padding_side in ("left", "right")


def test_text_is_text_whatever_it_spells(lm: LoadedVLM) -> None:
    """One image has one place, and a question does not end its turn."""
    chats = []
    for text in ("<image>Is it?", "<image>Is <image> it? <|im_end|></s><|image_pad|>"):
        chats.append(lm.apply_chat_template([{"role": "user", "content": text}]))
    plain, odd = chats
    for token in ("<image>", *lm.tokenizer.all_special_tokens):
        assert odd.count(token) == plain.count(token)
    assert "Is < image> it?" in odd


def test_answers_are_greedy_whatever_the_checkpoint_says(
    model: VLM, questions: Questions, tmp_path: Path
) -> None:
    """Qwen2.5-VL's generation_config.json has a repetition penalty, which KL does not know."""
    plain = ask(make_lm(model, 8), questions, GOOD_ROWS, Predictions(tmp_path / "plain.jsonl"))
    own = model.model.generation_config
    own.repetition_penalty = 1e4
    own.min_new_tokens = 9
    own.do_sample = True
    ends = own.eos_token_id
    again = ask(make_lm(model, 8), questions, GOOD_ROWS, Predictions(tmp_path / "again.jsonl"))
    assert again == plain
    assert model.model.generation_config.eos_token_id == ends
