"""The wording of every benchmark, and that the tasks for lm-eval say the same."""

from io import BytesIO
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from luq.config.evaluation import BENCHMARKS, PROTOCOLS
from luq.errors import DataError
from luq.evaluation.scorers import SCORERS
from luq.questions import lm_eval_hooks
from luq.questions.prompts import (
    OTHER_PROMPTS,
    PROMPTS,
    TARGETS,
    Doc,
    choices,
    options,
    prompt_of,
    protocol_of,
)
from luq.questions.specs import TASKS, spec, task_config
from tests.luq.questions.clones import ROWS, clone, picture

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTERED = {"question": "What is it?", "hint": "Look.", "A": "cat", "B": "dog", "C": "nan"}
CHOICE = {"question": "How many?", "question_type": "multi_choice", "choices": ["3", "4"]}
FREE = {"question": "How many?", "question_type": "free_form"}
FLOAT = FREE | {"answer_type": "float"}
FLOAT_PROMPT = "How many?\nAnswer the question with a floating-point number with "


@pytest.mark.parametrize(
    ("name", "doc", "prompt"),
    [
        ("mme", {"question": "Is it red? Please answer yes or no."}, "Is it red?" + SHORT),
        ("mme", {"question": " Is it red? Please answer yes or no.\n"}, "Is it red?" + SHORT),
        ("pope", {"question": "Is there a dog?"}, "Is there a dog?" + SHORT),
        ("vqav2", {"question": "What is it?"}, "What is it?" + SHORT),
        ("textvqa", {"question": "what does the SIGN say?"}, "What does the sign say?" + SHORT),
        (
            "textvqa_ocr",
            {"question": "what is it?", "ocr_tokens": ["STOP", "here"]},
            "What is it?\nReference OCR token: STOP, here" + SHORT,
        ),
        (
            "textvqa_ocr",
            {"question": "what is it?", "ocr_tokens": None},
            "What is it?\nReference OCR token: " + SHORT,
        ),
        (
            "chartqa",
            {"question": "How high?"},
            "How high?\nAnswer the question with a single word.",
        ),
        (
            "mmbench",
            LETTERED | {"D": None},
            "Look.\nWhat is it?\nA. cat\nB. dog" + LETTER,
        ),
        ("mmbench", LETTERED | {"hint": "nan"}, "What is it?\nA. cat\nB. dog" + LETTER),
        ("mmbench", LETTERED | {"hint": None}, "What is it?\nA. cat\nB. dog" + LETTER),
        ("mmbench", LETTERED | {"hint": ""}, "What is it?\nA. cat\nB. dog" + LETTER),
        ("mathvista", CHOICE, "How many?\nChoices:\n(A) 3\n(B) 4" + LETTER),
        (
            "mathvista",
            FREE | {"answer_type": "integer"},
            "How many?\nAnswer the question with a single integer number.",
        ),
        (
            "mathvista",
            FREE | {"answer_type": "list"},
            "How many?\nAnswer the question with a Python list.",
        ),
        (
            "mathvista",
            FREE | {"answer_type": "integer", "unit": "years"},
            "How many? (Unit: years)\nAnswer the question with a single integer number.",
        ),
        (
            "mathvista",
            CHOICE | {"unit": "g"},
            "How many? (Unit: g)\nChoices:\n(A) 3\n(B) 4" + LETTER,
        ),
        ("mathvista", CHOICE | {"unit": None}, "How many?\nChoices:\n(A) 3\n(B) 4" + LETTER),
        ("mathvista", CHOICE | {"unit": ""}, "How many?\nChoices:\n(A) 3\n(B) 4" + LETTER),
        ("mathvista", CHOICE | {"unit": "nan"}, "How many?\nChoices:\n(A) 3\n(B) 4" + LETTER),
        ("mathvista", FLOAT | {"precision": float("nan")}, FLOAT_PROMPT + "one decimal place."),
        ("mathvista", FLOAT | {"precision": 1.0}, FLOAT_PROMPT + "one decimal place."),
        ("mathvista", FLOAT | {"precision": None}, FLOAT_PROMPT + "one decimal place."),
        ("mathvista", FLOAT | {"precision": 2.0}, FLOAT_PROMPT + "two decimal places."),
        ("mathvista", FLOAT | {"precision": 3.0}, FLOAT_PROMPT + "3 decimal places."),
    ],
)
def test_wording(name: str, doc: Doc, prompt: str) -> None:
    assert PROMPTS[name](doc) == prompt


@pytest.mark.parametrize(
    ("name", "doc", "target"),
    [
        ("vqav2", {"answers": [{"answer": "cat"}]}, "cat"),
        ("docvqa", {"answers": ["a", "b"]}, "a"),
        ("textvqa", {"answers": ["a", "b", "b"]}, "b"),
        ("gqa", {"answer": 5}, "5"),
        ("gqa", {"answer": None}, ""),
        ("gqa", {"answer": float("nan")}, ""),
        ("vqav2", {"answers": [{"answer": None}]}, ""),
        ("pope", {"answer": None}, ""),
        ("pope", {"answer": " yes"}, "Yes"),
        ("mathvista", CHOICE | {"answer": "4"}, "B"),
        ("mathvista", FREE | {"answer": 7}, "7"),
        ("mathvista", CHOICE | {"answer": 4}, "B"),
        ("mathvista", CHOICE | {"choices": list("abcdefghij"), "answer": "j"}, "J"),
    ],
)
def test_references(name: str, doc: Doc, target: str) -> None:
    assert TARGETS[name](doc) == target


def test_choices_are_a_list_or_its_text() -> None:
    assert choices({"choices": [3, 4]}) == choices({"choices": "['3', '4']"}) == ["3", "4"]
    assert choices({"choices": None}) == choices({"choices": ""}) == choices({}) == []
    assert choices({"choices": "none"}) == choices({"choices": "[broken"}) == []
    assert choices({"choices": float("nan")}) == []


def test_only_options_that_are_there_count() -> None:
    doc = {"A": "x", "B": "nan", "C": None, "D": float("nan"), "E": 5, "F": "y"}
    assert options(doc) == {"A": "x", "E": "5"}


@pytest.mark.parametrize(
    ("name", "doc", "prompt"),
    [
        (
            "mme",
            {"question": "Is it red? Please answer yes or no."},
            "Is it red? Please answer yes or no.",
        ),
        ("pope", {"question": "Is there a dog?"}, "Is there a dog? Please answer yes or no."),
        ("textvqa", {"question": "what does the SIGN say?"}, "what does the SIGN say?" + SHORT),
        ("chartqa", {"question": "How high?"}, "How high?" + SHORT),
        (
            "mmbench",
            LETTERED,
            "Hint: Look.\nQuestion: What is it?\nOptions:\nA. cat\nB. dog\n"
            "Please select the correct answer from the options above.",
        ),
        (
            "mmbench",
            LETTERED | {"hint": "nan"},
            "Question: What is it?\nOptions:\nA. cat\nB. dog\n"
            "Please select the correct answer from the options above.",
        ),
        (
            "mathvista",
            CHOICE,
            "Hint: Please answer the question and provide the correct option letter, e.g., "
            "A, B, C, D, at the end.\nQuestion: How many?\nChoices:\n(A) 3\n(B) 4",
        ),
        (
            "mathvista",
            FREE | {"answer_type": "integer", "unit": "years"},
            "Hint: Please answer the question requiring an integer answer and provide the final "
            "value, e.g., 1, 2, 3, at the end.\nQuestion: How many? (Unit: years)",
        ),
        (
            "mathvista",
            FLOAT | {"precision": 2.0},
            "Hint: Please answer the question requiring a floating-point number with two decimal "
            "places and provide the final value, e.g., 1.23, 1.34, 1.45, at the end.\n"
            "Question: How many?",
        ),
        (
            "mathvista",
            FREE | {"answer_type": "list"},
            "Hint: Please answer the question requiring a Python list as an answer and provide "
            "the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.\nQuestion: How many?",
        ),
    ],
)
def test_wording_of_qwen(name: str, doc: Doc, prompt: str) -> None:
    assert prompt_of(name, "qwen")(doc) == prompt


def test_a_benchmark_without_a_wording_of_its_own_has_the_default_one() -> None:
    assert set(OTHER_PROMPTS) == set(PROTOCOLS[1:])
    for name in BENCHMARKS:
        assert prompt_of(name, PROTOCOLS[0]) is PROMPTS[name]
        assert protocol_of(name, PROTOCOLS[0]) == PROTOCOLS[0]
    assert prompt_of("gqa", "qwen") is PROMPTS["gqa"]
    assert protocol_of("gqa", "qwen") == PROTOCOLS[0]
    assert protocol_of("mme", "qwen") == "qwen"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_task_for_lm_eval_asks_and_scores_as_luq_does(name: str, protocol: str) -> None:
    """What the task's YAML names is what the tables hold."""
    task = task_config(name, protocol)
    for row in ROWS[spec(name).data]:
        assert task["doc_to_text"](row) == "<image>" + prompt_of(name, protocol)(row)
    assert task["doc_to_target"] is TARGETS[name]
    assert task["process_results"] is SCORERS[name].process


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "gqa"])
def test_the_task_runs_in_plain_lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As with `lm_eval --include_path luq/questions/tasks`, but on a dataset from this disk."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    dataset = clone(tmp_path / "datasets", spec(name).data)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(
        f"include: {TASKS / name}.yaml\ntask: local\ndataset_path: {dataset}\n"
    )
    manager = TaskManager(include_path=[TASKS, tmp_path / "tasks"], include_defaults=False)
    assert f"luq_{name}" in manager.all_tasks
    task = manager.load(["local"])["tasks"]["local"]
    docs = list(task.test_docs())
    assert len(docs) == len(ROWS[spec(name).data])
    for doc in docs:
        assert task.doc_to_text(doc) == "<image>" + PROMPTS[name](doc)
        assert task.doc_to_target(doc) == TARGETS[name](doc)
        assert task.process_results(doc, [TARGETS[name](doc)])["score"] == 1
        (image,) = task.doc_to_image(doc)
        assert image.size == (90, 60)


def test_plain_lm_eval_gets_images_that_are_not_decoded_yet() -> None:
    for column in ("image", "decoded_image"):
        row = {"image": "images/1.jpg", "question": "?", column: picture(0)}
        (doc,) = lm_eval_hooks.undecoded(Dataset.from_list([row]))
        (image,) = lm_eval_hooks.images(doc)
        assert image.size == (90, 60)
        assert image.tobytes() == Image.open(BytesIO(picture(0)["bytes"])).tobytes()


def test_plain_lm_eval_is_told_of_a_row_without_an_image() -> None:
    with pytest.raises(DataError, match="no image in image or decoded_image"):
        lm_eval_hooks.images({"image": "images/1.jpg", "question": "?"})
