import pytest

from luq.questions.prompts import PROMPTS, TARGETS

SHORT = "\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("name", "doc", "expected"),
    [
        ("mme", {"question": "Is it red? Please answer yes or no."}, "Is it red?" + SHORT),
        ("pope", {"question": "Is there a dog?"}, "Is there a dog?" + SHORT),
        ("textvqa", {"question": "What does the SIGN say?"}, "What does the sign say?" + SHORT),
        (
            "chartqa",
            {"question": "How high?"},
            "How high?\nAnswer the question with a single word.",
        ),
        (
            "mmbench",
            {
                "question": "What is it?",
                "hint": "Look.",
                "A": "cat",
                "B": "dog",
                "C": "nan",
                "D": None,
            },
            "Look.\nWhat is it?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "mathvista",
            {"question": "How many?", "question_type": "multi_choice", "choices": ["3", "4"]},
            "How many?\nChoices:\n(A) 3\n(B) 4\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "mathvista",
            {
                "question": "How many?",
                "question_type": "free_form",
                "answer_type": "float",
                "precision": 2.0,
            },
            "How many?\nAnswer the question with a floating-point number with two decimal places.",
        ),
        (
            "mathvista",
            {"question": "How many?", "question_type": "free_form", "answer_type": "integer"},
            "How many?\nAnswer the question with a single integer number.",
        ),
    ],
)
def test_wording(name: str, doc: dict, expected: str) -> None:
    assert PROMPTS[name](doc) == expected


def test_references() -> None:
    assert TARGETS["vqav2"]({"answers": [{"answer": "cat"}]}) == "cat"
    assert TARGETS["docvqa"]({"answers": ["a", "b"]}) == "a"
    assert TARGETS["textvqa"]({"answers": ["a", "b", "b"]}) == "b", "the most frequent"
    assert TARGETS["pope"]({"answer": "yes"}) == "Yes"
    assert (
        TARGETS["mathvista"](
            {"question_type": "multi_choice", "choices": ["3", "4"], "answer": "4"}
        )
        == "B"
    )
