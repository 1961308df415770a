"""VQA soft accuracy over ten annotators, for TextVQA and VQAv2 (arXiv 1505.00468)."""

from luq.evaluation.normalize import normalize
from luq.evaluation.scorers.summary import Doc, Values, by_question, references

ENOUGH = 3  # annotators who agree make an answer right


def soft_accuracy(prediction: str, answers: list[str]) -> float:
    """Mean over annotators of min(1, matches among the other annotators / 3).

    Of ten annotators 0, 1, 2, 3 and 4 or more matches give 0, 0.3, 0.6, 0.9 and 1.
    """
    n = len(answers)
    if n == 0:
        return 0.0
    matches = sum(answer == prediction for answer in answers)
    # An annotator who gave this answer is not among its own others.
    if_left_out_agrees = min(1.0, (matches - 1) / ENOUGH)
    if_left_out_differs = min(1.0, matches / ENOUGH)
    return (matches * if_left_out_agrees + (n - matches) * if_left_out_differs) / n


def textvqa(doc: Doc, results: list[str]) -> Values:
    """Soft accuracy against answers that are strings."""
    prediction = normalize(results[0], tokenize=True)
    answers = [normalize(answer, tokenize=True) for answer in references(doc)]
    return {"score": soft_accuracy(prediction, answers)}


def vqav2(doc: Doc, results: list[str]) -> Values:
    """Soft accuracy against answers that are records."""
    prediction = normalize(results[0], tokenize=False)
    answers = [normalize(answer, tokenize=False) for answer in references(doc)]
    return {"score": soft_accuracy(prediction, answers)}


summarise = by_question("vqa_accuracy")
