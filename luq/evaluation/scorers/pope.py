"""POPE: does the model see objects that are not there? (arXiv 2305.10355)

Accuracy, F1 per category of questions, and how often the model says yes.
"""

from luq.evaluation.scorers.summary import (
    Doc,
    Item,
    Summary,
    Values,
    grouped,
    mean,
    of_units,
    reference,
    scores,
)

NEGATIONS = frozenset(("No", "not", "no"))


def parse(text: str) -> str:
    """`no` if the first sentence has a word of negation, else `yes` (LLaVA's evaluation)."""
    sentence = text.strip().split(".")[0]
    words = sentence.replace(",", "").split(" ")
    return "yes" if NEGATIONS.isdisjoint(words) else "no"


def _expected(doc: Doc) -> str:
    return reference(doc).lower().strip()


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer is right, else 0; and 1 if it is yes."""
    answer = parse(results[0])
    return {"score": float(answer == _expected(doc)), "yes": float(answer == "yes")}


def f1(items: list[Item]) -> float:
    """F1 of the answer yes, in [0, 1].

    A question that could not be asked is a mistake, whatever its answer: counted as a no, it would
    be right where a no is expected.
    """
    hits = 0
    mistakes = 0
    for doc, values in items:
        is_right = bool(values["score"])
        hits += is_right and _expected(doc) == "yes"
        mistakes += not is_right
    return 2 * hits / (2 * hits + mistakes) if hits else 0.0


def summarise(items: list[Item]) -> Summary:
    """Score: accuracy. F1 is the mean over the categories.

    The yes-ratio is of the questions that were answered: near 0 or 1 it betrays a collapsed model.
    """
    metrics: dict[str, float] = {}
    for category, group in grouped(items, lambda doc: doc["category"]).items():
        metrics[f"f1_{category}"] = 100 * f1(group)
    metrics["f1"] = mean(list(metrics.values()))
    units = scores(items)
    metrics["accuracy"] = 100 * mean(units)
    metrics["yes_ratio"] = mean([values["yes"] for _, values in items if "yes" in values])
    return of_units(units, metrics)
