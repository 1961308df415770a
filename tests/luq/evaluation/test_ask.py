"""Asking a model in memory through lm-eval, and going on after an interruption."""

import gc
import logging
from pathlib import Path
from typing import Any

import pytest

from luq.errors import DataError
from luq.evaluation import answers, fidelity
from luq.evaluation.ask import UNLABELLED, ask, check, make_lm, problem, with_docs
from luq.evaluation.lm import LoadedVLM
from luq.evaluation.predictions import AnswerRow, Predictions, read_answers, write_rows
from luq.models.asking import context_length
from luq.models.quiet import LIBRARIES, quiet
from luq.models.vlm import VLM
from luq.questions.subsets import Subset, choose
from luq.questions.tables import LazyImage
from tests.conftest import BENCHMARKS
from tests.luq.evaluation.conftest import OpenQuestions


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_pocket_benchmark_is_asked_and_scored_through_lm_eval(
    lm: LoadedVLM, open_questions: OpenQuestions, tmp_path: Path, name: str
) -> None:
    questions = open_questions(name)
    ids = choose(questions, Subset("all", 4))
    rows = ask(lm, questions, ids, Predictions(tmp_path / "first.jsonl"), strict=True)
    assert rows == ask(lm, questions, ids, Predictions(tmp_path / "second.jsonl"), strict=True)
    assert [row["id"] for row in rows] == ids
    scored = with_docs(questions, rows)
    assert all("image" not in row["doc"] and "decoded_image" not in row["doc"] for row in scored)
    summary = answers.summarise(name, scored)
    assert 0 <= summary.score <= 100
    assert summary.n == len(answers.units(name, scored)) == 4
    write_rows(tmp_path / "rows.jsonl", scored)
    assert answers.summarise(name, read_answers(tmp_path / "rows.jsonl")) == summary


def test_answers_do_not_depend_on_the_batch_size(
    vlm: VLM, lm: LoadedVLM, open_questions: OpenQuestions, tmp_path: Path
) -> None:
    questions = open_questions("gqa")
    ids = list(range(6))
    alone = ask(make_lm(vlm, 1), questions, ids, Predictions(tmp_path / "alone.jsonl"))
    assert alone == ask(lm, questions, ids, Predictions(tmp_path / "together.jsonl"))


def test_answered_questions_are_not_asked_again(
    vlm: VLM, open_questions: OpenQuestions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the batches are there: the rows are those of an unbroken run."""
    lm = make_lm(vlm, 4)
    questions = open_questions("textvqa")
    ids = list(range(16))
    file = tmp_path / "predictions.jsonl"
    unbroken = ask(lm, questions, ids, Predictions(file))
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:8]) + lines[8][:5])
    predictions = Predictions(file)
    assert predictions.reused == 8
    steps: list[int] = []
    assert ask(lm, questions, ids, predictions, advance=steps.append) == unbroken
    assert sum(steps) == 16, "progress counts what was there too"
    assert file.read_text() == "".join(lines)
    monkeypatch.setattr(lm, "_answer", lambda batch: pytest.fail("nothing is left to ask"))
    assert ask(lm, questions, ids, Predictions(file)) == unbroken


def test_batches_are_cut_by_the_length_with_the_image(
    vlm: VLM, open_questions: OpenQuestions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the text's: images of some families become hundreds of tokens."""
    lm = make_lm(vlm, 4)
    questions = open_questions("textvqa")
    ids = list(range(8))
    sizes = {id_: (8 + 3 * id_ % 8, 9) for id_ in ids}  # widths 8, 11, 14, 9, ...
    monkeypatch.setattr(LazyImage, "size", property(lambda image: sizes[image.row]))
    monkeypatch.setattr(lm._image_tokens, "count", lambda width, height: 100 * width)
    longest_first = sorted(ids, key=lambda id_: -sizes[id_][0])
    assert [questions.image(id_).row for id_ in ids] == ids
    ask(lm, questions, ids, Predictions(tmp_path / "predictions.jsonl"))
    asked = Predictions(tmp_path / "predictions.jsonl").rows
    assert set(list(asked)[:4]) == set(longest_first[:4])
    batches = list(fidelity._by_length(lm, questions, ids))
    assert batches == [longest_first[:4], longest_first[4:]]


def test_an_image_without_a_size_counts_nothing(
    lm: LoadedVLM, open_questions: OpenQuestions
) -> None:
    missing = LazyImage(open_questions("gqa").images, -1, "gqa row 0")
    assert lm.chat_length("a b", missing) == len(lm.tok_encode("a b"))


def test_a_line_that_was_not_finished_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    Predictions(file).append([{"id": 3, "text": "a"}, {"id": 1, "text": "é\n"}])
    finished = file.read_bytes()
    for unfinished in (b'{"id": 5, "te', b'{"id": 5, "text": "x"}', b"\x00\x00"):
        file.write_bytes(finished + unfinished)
        predictions = Predictions(file)
        assert list(predictions.rows) == [3, 1]
        assert predictions.reused == 2
        assert file.read_bytes() == finished
    assert Predictions(file).rows[1]["text"] == "é\n"


def test_rows_survive_their_file(tmp_path: Path) -> None:
    rows: list[AnswerRow] = [{"text": "\u2028é\n", "id": 1}, {"id": 2, "error": "x"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_answers(tmp_path / "rows.jsonl") == rows
    assert (tmp_path / "rows.jsonl").read_text().startswith('{"id": 1, "text": ')


GOOD = {"question": "Is it?", "answer": "3", "type": "human_test"}


@pytest.mark.parametrize(
    ("doc", "reason"),
    [
        (GOOD, ""),
        (GOOD | {"answer": " "}, UNLABELLED),
        (GOOD | {"answer": None}, UNLABELLED),
        (GOOD | {"answer": "nan"}, UNLABELLED),
        (GOOD | {"answer": float("nan")}, UNLABELLED),
        ({"question": "Is it?"}, UNLABELLED),
        ({"question": "Is it?", "answers": None}, UNLABELLED),
        ({"question": "Is it?", "answers": []}, UNLABELLED),
        ({"question": "Is it?", "answers": [None, "nan"]}, UNLABELLED),
        ({"question": "Is it?", "answers": [{"answer": None}]}, UNLABELLED),
        ({"question": "Is it?", "answers": [None, None, "3"]}, UNLABELLED),
        ({"question": "Is it?", "answers": [{"answer": "none"}]}, ""),
        (GOOD | {"answer": "None"}, ""),
        (GOOD | {"question": None}, "the question is empty"),
        (GOOD | {"question": "\n"}, "the question is empty"),
        (GOOD | {"question": "nan"}, "the question is empty"),
        (GOOD | {"question": 3}, "no question with its answer can be read (TypeError"),
    ],
)
def test_a_row_that_cannot_be_scored_says_why(doc: dict[str, Any], reason: str) -> None:
    said = problem("chartqa", doc)
    assert said.startswith(reason)
    assert bool(said) == bool(reason)


def test_a_multiple_choice_answer_that_is_no_choice_cannot_be_scored() -> None:
    doc = {"question": "?", "question_type": "multi_choice", "choices": ["1", "2"], "answer": "3"}
    assert "ValueError" in problem("mathvista", doc)


@pytest.mark.parametrize(
    ("benchmark", "answer", "reason"),
    [
        ("mmbench", "B", ""),
        ("mmbench", "C", "the answer C is none of A, B"),
        ("mme", "Yes", ""),
        ("mme", "maybe", "the answer maybe is none of Yes, No"),
        ("pope", " no", ""),
        ("pope", "0", "the answer 0 is none of Yes, No"),
    ],
)
def test_an_answer_that_nobody_can_give_cannot_be_scored(
    benchmark: str, answer: str, reason: str
) -> None:
    doc = {"question": "?", "answer": answer, "A": "a cat", "B": "a dog", "C": "nan", "D": None}
    assert problem(benchmark, doc) == reason


def test_good_rows_are_told_from_bad_ones(
    open_questions: OpenQuestions, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = open_questions("gqa")
    third = questions.docs[2]["question"]
    monkeypatch.setattr(
        "luq.evaluation.ask.problem",
        lambda benchmark, doc: "bad" if doc["question"] == third else "",
    )
    good, bad = check(questions, [1, 2, 4], strict=False)
    assert (good, bad) == ([1, 4], [{"id": 2, "error": "bad"}])
    with pytest.raises(DataError, match="gqa row 2: bad"):
        check(questions, [1, 2, 4], strict=True)


def test_an_error_counts_as_wrong_and_stays_in_the_score() -> None:
    doc = {"question": "?", "answer": "yes", "category": "random"}
    rows: list[AnswerRow] = [
        {"id": 0, "text": "Yes", "doc": doc},
        {"id": 1, "error": "the image does not decode", "doc": doc},
    ]
    summary = answers.summarise("pope", rows)
    assert (summary.score, summary.n, summary.units) == (50, 2, [1, 0])
    assert summary.metrics["yes_ratio"] == 1, "of the rows that were answered"
    assert answers.units("pope", rows) == {"0": (1, 0.5), "1": (0, 0.5)}


def test_units_go_by_the_names_of_their_pairs() -> None:
    def row(id_: int, image: str, text: str) -> AnswerRow:
        doc = {"question_id": image, "category": "count", "answer": "Yes"}
        return {"id": id_, "text": text, "doc": doc}

    rows = [row(0, "b", "yes"), row(1, "a", "yes"), row(2, "b", "no"), row(3, "a", "yes")]
    assert answers.units("mme", rows) == {"count/b": (0.25, 0.5), "count/a": (1, 0.5)}


def test_the_context_is_the_models_own_or_the_usual_one() -> None:
    class Config:
        def __init__(self, **values: int) -> None:
            self.__dict__.update(values)

        def get_text_config(self) -> "Config":
            return self

    class Model:
        def __init__(self, config: Config) -> None:
            self.config = config

    assert context_length(Model(Config(max_position_embeddings=512))) == 512
    assert context_length(Model(Config())) == 2048


def test_garbage_is_collected_as_before_after_an_evaluation(
    lm: LoadedVLM, open_questions: OpenQuestions, tmp_path: Path
) -> None:
    ask(lm, open_questions("gqa"), [0], Predictions(tmp_path / "predictions.jsonl"))
    assert gc.get_freeze_count() == 0


def test_libraries_are_quiet_only_for_a_while() -> None:
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]

    def fail_quietly() -> None:
        with quiet():
            assert all(logger.level == logging.ERROR for logger in loggers)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_quietly()
    assert [logger.level for logger in loggers] == levels
