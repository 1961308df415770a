"""DocVQA: ANLS, the average normalized Levenshtein similarity (arXiv 1905.13648)."""

from luq.evaluation.scorers.summary import Doc, Values, by_question, levenshtein, references

THRESHOLD = 0.5  # a similarity below it counts as 0


def _clean(text: str) -> str:
    """The text without case and repeated space."""
    return " ".join(text.strip().lower().split())


def anls(prediction: str, answers: list[str]) -> float:
    """Similarity in [0, 1] to the nearest of the answers."""
    best = 0.0
    for answer in answers:
        # As in the official script, the distance is that of the cleaned texts and the length that
        # of the texts before cleaning.
        length = max(len(answer), len(prediction))
        distance = levenshtein(_clean(answer), _clean(prediction)) / length if length else 0.0
        best = max(best, 1 - distance)
    return best if best >= THRESHOLD else 0.0


def process(doc: Doc, results: list[str]) -> Values:
    """The answer's similarity to the nearest reference answer."""
    return {"score": anls(results[0], references(doc))}


summarise = by_question("anls")
