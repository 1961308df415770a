"""GQA: exact match, ignoring case, punctuation and outer space."""

import string

from luq.evaluation.scorers.summary import Doc, Values, by_question, reference

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """The text as it is compared."""
    return text.translate(_WITHOUT_PUNCTUATION).lower().strip()


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer is the reference answer, else 0."""
    right = normalize(reference(doc))
    return {"score": float(right != "" and normalize(results[0]) == right)}


summarise = by_question("exact_match")
