"""A model that is none any more is recognized by its answers."""

import pytest

from luq.evaluation.collapse import collapsed
from luq.evaluation.predictions import AnswerRow

NUMBERS = [str(i) for i in range(20)]


def rows(*texts: str) -> list[AnswerRow]:
    return [{"id": i, "text": text} for i, text in enumerate(texts)]


def test_one_answer_to_everything() -> None:
    assert collapsed(rows(*["Yes"] * 40)) == "'yes' to nearly every question"
    assert collapsed(rows(*["Yes", " yes\n"] * 20)), "case and space do not matter"


def test_more_than_95_percent_is_nearly_every_question() -> None:
    assert collapsed(rows(*["Yes"] * 96, *NUMBERS[:4]))
    assert not collapsed(rows(*["Yes"] * 95, *NUMBERS[:5]))


@pytest.mark.parametrize("text", ["", "!!!!", "the the the the", "aaaaaa", "- -", "no no no no no"])
def test_gibberish(text: str) -> None:
    assert collapsed(rows(*[text] * 21, *NUMBERS)) == "most answers are gibberish"
    assert not collapsed(rows(*[text] * 20, *NUMBERS)), "half is not most"


@pytest.mark.parametrize("text", ["aaaaa", "the the the", "no no no yes", "_", "5"])
def test_a_short_repetition_is_no_gibberish(text: str) -> None:
    assert not collapsed(rows(*[text] * 21, *NUMBERS))


def test_a_model_that_is_one() -> None:
    assert not collapsed(rows(*["Yes", "No"] * 20))
    assert not collapsed(rows(*[f"{i} red" for i in range(30)]))


def test_too_few_answers_say_nothing() -> None:
    assert not collapsed(rows(*["Yes"] * 19))
    assert collapsed(rows(*["Yes"] * 20))
    errors: list[AnswerRow] = [{"id": i, "error": "x"} for i in range(40)]
    assert not collapsed(errors)
