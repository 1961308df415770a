"""MathVista by rules, without a judge: extract an answer, normalize it, compare strings."""

import re

from luq.evaluation.scorers.summary import Doc, by_question, levenshtein
from luq.questions.prompts import LETTERS, choices

_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


def extract_choice(text: str, options: list[str]) -> str:
    """The option that an answer names: its text, a letter, or the nearest option by edit distance."""
    answer = text.strip()
    if answer in options:
        return answer
    letter = re.search(r"\(([A-J])\)", answer) or re.fullmatch(r"([A-J])[.):]?", answer)
    if letter and LETTERS.index(letter.group(1)) < len(options):
        return options[LETTERS.index(letter.group(1))]
    return min(options, key=lambda option: levenshtein(option.lower(), answer.lower()))


def normalize(text: str, kind: str, precision: float | None) -> str:
    """integer: the last number, truncated; float: rounded to `precision` places; list: as text. Empty if none."""
    if kind in ("integer", "float"):
        numbers = _NUMBER.findall(text)
        if not numbers:
            return ""
        value = float(numbers[-1].replace(",", "").rstrip("."))
        return str(int(value)) if kind == "integer" else str(round(value, int(precision or 1)))
    return text.strip()


def process(doc: Doc, results: list[str]) -> dict[str, float]:
    if doc["question_type"] == "multi_choice":
        return {"score": float(extract_choice(results[0], choices(doc)) == str(doc["answer"]))}
    kind, precision = str(doc["answer_type"]), doc["precision"]
    said = normalize(results[0], kind, precision)
    return {"score": float(said != "" and said == normalize(str(doc["answer"]), kind, precision))}


summarise = by_question("mathvista_rule")
