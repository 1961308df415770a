"""DocVQA: ANLS, average normalized Levenshtein similarity over the best of the answers, cut at 0.5."""

from luq.evaluation.scorers.summary import Doc, by_question, levenshtein


def anls(prediction: str, answers: list[str], threshold: float = 0.5) -> float:
    """In [0, 1]. Compared without case and repeated space; lengths are those of the strings as given."""

    def clean(text: str) -> str:
        return " ".join(text.strip().lower().split())

    best = 0.0
    for answer in answers:
        longest = max(len(answer), len(prediction))
        distance = levenshtein(clean(answer), clean(prediction)) / longest if longest else 0.0
        best = max(best, 1 - distance)
    return best if best >= threshold else 0.0


def process(doc: Doc, results: list[str]) -> dict[str, float]:
    return {"score": anls(results[0], [str(a) for a in doc["answers"]])}


summarise = by_question("anls")
