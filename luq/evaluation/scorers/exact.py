"""GQA: exact match, ignoring case, punctuation and outer space."""

import string

from luq.evaluation.scorers.summary import Doc, Values, by_question

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """The text as it is compared."""
    return text.translate(_WITHOUT_PUNCTUATION).lower().strip()


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer is the reference answer, else 0."""
    return {"score": float(normalize(results[0]) == normalize(str(doc["answer"])))}


summarise = by_question("exact_match")
