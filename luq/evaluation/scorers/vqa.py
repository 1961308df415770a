"""VQA soft accuracy over ten annotators, for TextVQA and VQAv2."""

from luq.evaluation.normalize import normalize
from luq.evaluation.scorers.summary import Doc, by_question


def soft_accuracy(prediction: str, answers: list[str]) -> float:
    """Mean over annotators of min(1, matches among the others / 3): 0, .3, .6, .9, 1 for 0..4 matches of ten."""
    n, matches = len(answers), sum(a == prediction for a in answers)
    agreeing, others = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (matches * agreeing + (n - matches) * others) / n


def textvqa(doc: Doc, results: list[str]) -> dict[str, float]:
    said = normalize(results[0], tokenize=True)
    return {
        "score": soft_accuracy(said, [normalize(str(a), tokenize=True) for a in doc["answers"]])
    }


def vqav2(doc: Doc, results: list[str]) -> dict[str, float]:
    said = normalize(results[0], tokenize=False)
    return {
        "score": soft_accuracy(
            said, [normalize(a["answer"], tokenize=False) for a in doc["answers"]]
        )
    }


textvqa_ocr = textvqa
summarise = by_question("vqa_accuracy")
