"""MathVista by rules, without a judge: extract an answer, normalize it, compare strings."""

import re

from luq.evaluation.scorers.summary import Doc, Values, by_question, levenshtein
from luq.questions.prompts import LETTERS, choices

_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
_LETTER_IN_PARENTHESES = re.compile(r"\(([A-J])\)")
_LETTER_ALONE = re.compile(r"([A-J])[.):]?")


def extract_choice(text: str, options: list[str]) -> str:
    """The option that an answer names.

    That is its text, a letter, or else the nearest option by edit distance.
    """
    answer = text.strip()
    if answer in options:
        return answer
    letter = _LETTER_IN_PARENTHESES.search(answer) or _LETTER_ALONE.fullmatch(answer)
    if letter:
        index = LETTERS.index(letter.group(1))
        if index < len(options):
            return options[index]
    return min(options, key=lambda option: levenshtein(option.lower(), answer.lower()))


def normalize(text: str, kind: str, precision: float | None) -> str:
    """An answer as it is compared.

    Args:
        text: the answer.
        kind: `integer` for its last number, truncated; `float` for its last number, rounded;
            anything else for the text.
        precision: decimal places of a float; None or 0 for one.

    Returns:
        The answer; empty if a number is expected and there is none.
    """
    if kind not in ("integer", "float"):
        return text.strip()
    numbers = _NUMBER.findall(text)
    if not numbers:
        return ""
    value = float(numbers[-1].replace(",", ""))
    if kind == "integer":
        return str(int(value))
    return str(round(value, int(precision or 1)))


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer is right, else 0."""
    if doc["question_type"] == "multi_choice":
        return {"score": float(extract_choice(results[0], choices(doc)) == str(doc["answer"]))}
    kind = str(doc["answer_type"])
    precision: float | None = doc["precision"]
    answer = normalize(results[0], kind, precision)
    # An empty text is never right: it is what an answer without a number becomes.
    is_right = answer != "" and answer == normalize(str(doc["answer"]), kind, precision)
    return {"score": float(is_right)}


summarise = by_question("mathvista_rule")
