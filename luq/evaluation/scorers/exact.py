"""GQA: exact match, ignoring case, punctuation and outer space."""

import string

from luq.evaluation.scorers.summary import Doc, by_question

_DROP = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    return text.translate(_DROP).lower().strip()


def process(doc: Doc, results: list[str]) -> dict[str, float]:
    return {"score": float(normalize(results[0]) == normalize(str(doc["answer"])))}


summarise = by_question("exact_match")
