"""MMBench without a judge: a letter is read from the answer.

A base question comes in several rotations of its options. Circular accuracy wants all of them
right (arXiv 2307.06281).
"""

from luq.evaluation.scorers.summary import (
    Doc,
    Item,
    Summary,
    Values,
    grouped,
    mean,
    of_units,
    scores,
)
from luq.questions.prompts import MMBENCH_ROTATION, options

_DECORATION_AS_SPACE = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_FEW_WORDS = 3  # in a longer answer, "A" may be the article and not a letter


def infer(text: str, choices: dict[str, str]) -> str:
    """The letter that an answer names, by itself or through its option's text.

    Args:
        text: the answer.
        choices: letter -> the option's text.

    Returns:
        The letter; empty if the answer names none or more than one.
    """
    words = text.translate(_DECORATION_AS_SPACE).split()
    letters = [letter for letter in choices if letter in words]
    may_be_article = "A" in words and len(words) > _FEW_WORDS
    if len(letters) == 1 and not may_be_article:
        return letters[0]
    # No letter, or one that may be an article: the text of exactly one option must be in it.
    answer = text.lower()
    named = [letter for letter, option in choices.items() if option.lower() in answer]
    return named[0] if len(named) == 1 else ""


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer names the right option, else 0."""
    return {"score": float(infer(results[0], options(doc)) == doc["answer"])}


def _index(item: Item) -> int:
    return int(item[0]["index"])


def summarise(items: list[Item]) -> Summary:
    """Score: circular accuracy over base questions. Vanilla counts only the first rotation."""
    bases = grouped(items, lambda doc: int(doc["index"]) % MMBENCH_ROTATION)
    units = [float(all(scores(rotations))) for rotations in bases.values()]
    first_rotations = [min(rotations, key=_index) for rotations in bases.values()]
    metrics = {"circular": 100 * mean(units), "vanilla": 100 * mean(scores(first_rotations))}
    return of_units(units, metrics)
