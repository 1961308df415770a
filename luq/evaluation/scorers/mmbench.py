"""MMBench without a judge: the option that an answer names, by letter or text.

A base question comes in several rotations of its options. Circular accuracy wants all of them
right (arXiv 2307.06281).
"""

from luq.evaluation.scorers.choice import named_option
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
from luq.questions.prompts import mmbench_base, options, text_of

LONGEST_INDEX = 20  # digits of an int64


def infer(text: str, choices: dict[str, str]) -> str:
    """The letter of the option that an answer names; empty if it names none, or several alike."""
    return named_option(text, choices)


def process(doc: Doc, results: list[str]) -> Values:
    """1 if the answer names the right option, else 0."""
    letter = infer(results[0], options(doc))
    return {"score": float(letter != "" and letter == reference(doc).strip())}


def _index(item: Item) -> str:
    """Sorts the rotations of a base question: the first has the shortest number."""
    index = text_of(item[0]["index"])
    return index.zfill(LONGEST_INDEX)


def summarise(items: list[Item]) -> Summary:
    """Score: circular accuracy over base questions. Vanilla counts only the first rotation."""
    bases = grouped(items, mmbench_base)
    units = [float(all(scores(rotations))) for rotations in bases.values()]
    first_rotations = [min(rotations, key=_index) for rotations in bases.values()]
    metrics = {"circular": 100 * mean(units), "vanilla": 100 * mean(scores(first_rotations))}
    return of_units(units, metrics)
