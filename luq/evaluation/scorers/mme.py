"""MME: yes/no questions in pairs, two for each image (arXiv 2306.13394).

A category scores accuracy + pair accuracy, at most 200: perception 2000, cognition 800.
"""

from luq.evaluation.scorers.summary import (
    Doc,
    Item,
    Summary,
    Values,
    grouped,
    mean,
    of_strata,
    reference,
    scores,
)

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_HEAD = 4  # characters in which the official script looks for yes and no


def parse(text: str) -> str:
    """`yes`, `no` or `other`, as the official script reads an answer."""
    answer = text.lower().strip().replace(".", "")
    if answer in ("yes", "no"):
        return answer
    if len(answer) == 1:
        return {"y": "yes", "n": "no"}.get(answer, "other")
    head = answer[:_HEAD]
    # Anywhere in it: "none" is a no.
    if "yes" in head:
        return "yes"
    return "no" if "no" in head else "other"


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer is right, else 0; and 1 if it is yes."""
    answer = parse(results[0])
    expected = reference(doc).lower().strip()
    return {"score": float(answer == expected), "yes": float(answer == "yes")}


def category_score(items: list[Item]) -> float:
    """100 * share of right answers + 100 * share of images whose questions are all right."""
    pairs = grouped(items, lambda doc: doc["question_id"])
    accuracy = 100 * mean([score for pair in pairs.values() for score in scores(pair)])
    pair_accuracy = 100 * mean([float(all(scores(pair))) for pair in pairs.values()])
    return accuracy + pair_accuracy


def summarise(items: list[Item]) -> Summary:
    """Score: the mean category score in percent of 200; units are pairs.

    Perception and cognition are sums over their categories.
    """
    by_category: dict[str, float] = {}
    for category, group in grouped(items, lambda doc: doc["category"]).items():
        by_category[str(category)] = category_score(group)
    sums = {
        "perception": sum(v for name, v in by_category.items() if name not in COGNITION),
        "cognition": sum(v for name, v in by_category.items() if name in COGNITION),
    }
    pairs = grouped(items, lambda doc: (doc["category"], doc["question_id"]))
    units = [_pair_score(pair) for pair in pairs.values()]
    strata = [pair[0][0]["category"] for pair in pairs.values()]
    return of_strata(units, strata, sums | by_category)


def _pair_score(pair: list[Item]) -> float:
    """What an image adds to its category, in [0, 1]: accuracy and pair accuracy count alike."""
    pair_scores = scores(pair)
    return (mean(pair_scores) + float(all(pair_scores))) / 2
