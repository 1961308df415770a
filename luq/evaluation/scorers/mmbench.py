"""MMBench without a judge: a letter is read from the answer; circular accuracy wants every rotation right."""

from luq.evaluation.scorers.summary import Doc, Item, Summary, grouped, mean, of_units
from luq.questions.prompts import options

_DECORATION = str.maketrans({c: " " for c in ".()[],:;!*#{}"})


def infer(text: str, choices: dict[str, str]) -> str:
    """The letter that an answer names, by itself or through exactly one option's text; empty if none."""
    words = text.translate(_DECORATION).split()
    letters = [letter for letter in choices if letter in words]
    article = "A" in words and len(words) > 3  # then "A" may be a word and not a letter
    if len(letters) == 1 and not article:
        return letters[0]
    answer = text.lower()
    named = [letter for letter, option in choices.items() if option.lower() in answer]
    return named[0] if len(named) == 1 else ""


def process(doc: Doc, results: list[str]) -> dict[str, float]:
    return {"score": float(infer(results[0], options(doc)) == doc["answer"])}


def summarise(items: list[Item]) -> Summary:
    """Score: circular accuracy over base questions (`index` modulo 10^6). Vanilla counts the first rotation."""
    bases = grouped(items, lambda d: int(d["index"]) % 1_000_000)
    units = [float(all(v["score"] for _, v in group)) for group in bases.values()]
    first = [
        float(min(group, key=lambda item: int(item[0]["index"]))[1]["score"])
        for group in bases.values()
    ]
    return of_units(units, {"circular": 100 * mean(units), "vanilla": 100 * mean(first)})
