"""MathVista by rules, without a judge: read the answer, and compare it as the official script does.

The official score has a language model extract the answer, and then takes the option nearest to
what was extracted by edit distance. Here an answer that names no option is wrong.
"""

import re

from luq.evaluation.scorers.choice import named_option
from luq.evaluation.scorers.number import stated_number
from luq.evaluation.scorers.summary import Doc, Values, by_question, reference
from luq.questions.prompts import LETTERS, choices, decimal_places

_LIST = re.compile(r"\[([^\[\]]*)\]")


def extract_choice(text: str, options: list[str]) -> str:
    """The option that an answer names, by its text or its letter; empty if it names none."""
    answer = text.strip()
    # Options may be letters themselves, in another sequence.
    if answer in options:
        return answer
    letters = dict(zip(LETTERS, options, strict=False))
    return letters.get(named_option(answer, letters), "")


def normalize(text: str, kind: str, precision: float | None) -> str:
    """An answer as it is compared.

    Args:
        text: the answer.
        kind: `integer` for its number, truncated; `float` for its number, rounded; `list` for its
            last list; anything else for the text.
        precision: decimal places of a float; one if it is missing or 0.

    Returns:
        The answer; empty if a number is expected and there is none.
    """
    if kind == "list":
        lists = _LIST.findall(text)
        members = lists[-1].split(",") if lists else []
        # As Python writes it, however the answer is spaced.
        return f"[{', '.join(member.strip() for member in members)}]" if lists else text.strip()
    if kind not in ("integer", "float"):
        return text.strip()
    number = stated_number(text)
    if number is None:
        return ""
    if kind == "integer":
        return str(int(number))
    rounded = round(number, decimal_places(precision))
    return str(rounded or 0.0)  # 0.0 for -0.0


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer is right, else 0."""
    right = reference(doc)
    if doc["question_type"] == "multi_choice":
        answer = extract_choice(results[0], choices(doc))
    else:
        kind = str(doc["answer_type"])
        precision: float | None = doc.get("precision")
        answer = normalize(results[0], kind, precision)
        right = normalize(right, kind, precision)
    # An empty text is never right: it stands for no answer.
    return {"score": float(answer != "" and answer == right)}


summarise = by_question("mathvista_rule")
