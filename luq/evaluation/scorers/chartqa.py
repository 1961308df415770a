"""ChartQA: relaxed accuracy.

Numbers may be 5 % off; everything else must match, ignoring case (arXiv 2203.10244).
"""

from luq.evaluation.scorers.summary import (
    Doc,
    Item,
    Summary,
    Values,
    mean,
    of_units,
    reference,
    scores,
)

TOLERANCE = 0.05  # of the number in the reference answer
HALVES = ("human", "augmented")  # how the types of questions begin


def number(text: str) -> float | None:
    """A number, percentages as shares; None if the text is none."""
    try:
        # As in the official script: 14 % is 0.14, and no other sign or separator is read.
        if text.endswith("%"):
            return float(text.rstrip("%")) / 100
        return float(text)
    except ValueError:
        return None


def relaxed(prediction: str, target: str) -> bool:
    """Whether an answer is right within the tolerance."""
    predicted = number(prediction)
    expected = number(target)
    # A reference of 0 has no relative tolerance and is compared as text.
    if predicted is not None and expected:
        return abs(predicted - expected) / abs(expected) <= TOLERANCE
    return prediction.lower() == target.lower()


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer is right within the tolerance, else 0."""
    right = reference(doc)
    return {"score": float(right != "" and relaxed(results[0].strip(), right))}


def summarise(items: list[Item]) -> Summary:
    """Score: relaxed accuracy; the metrics also have that of each half of the questions."""
    units = scores(items)
    metrics = {"relaxed_accuracy": 100 * mean(units)}
    for half in HALVES:
        items_of_half = [item for item in items if str(item[0]["type"]).startswith(half)]
        if items_of_half:
            metrics[half] = 100 * mean(scores(items_of_half))
    return of_units(units, metrics)
