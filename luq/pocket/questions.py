"""What a question is, and the questions that need no picture: facts of the world and arithmetic.

A `Question` has an open form (`text` -> `answer`), wrong answers for multiple choice, and a
yes/no form (`claim` with `{}` for an answer), so one skill serves several benchmarks.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from luq.pocket import facts
from luq.pocket.world import Item, Scene

Rng = np.random.Generator


class Question(NamedTuple):
    """One question; `{}` in `claim` takes the answer or a distractor."""

    text: str
    answer: str
    distractors: list[str]
    claim: str


Skill = Callable[[Rng, Scene], "Question | None"]


def one_of(rng: Rng, *wordings: str) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def others(rng: Rng, pool: object, answer: str, n: int = 3) -> list[str]:
    rest = [str(x) for x in dict.fromkeys(pool) if str(x) != answer]  # type: ignore[call-overload]
    return [rest[int(i)] for i in rng.permutation(len(rest))[:n]]


def near(rng: Rng, value: int, n: int = 3) -> list[str]:
    offsets = [o for o in (-10, -3, -2, -1, 1, 2, 3, 10) if value + o >= 0]
    return [str(value + offsets[int(i)]) for i in rng.permutation(len(offsets))[:n]]


def unique(items: list[Item], key: Callable[[Item], str]) -> list[Item]:
    counts = Counter(key(i) for i in items)
    return [i for i in items if counts[key(i)] == 1]


def choose(rng: Rng, items: list[Item]) -> Item | None:
    return items[int(rng.integers(len(items)))] if items else None


def count(rng: Rng, n: int, what: str) -> Question:
    text = one_of(
        rng,
        f"How many {what} are there?",
        f"How many {what} are in the image?",
        f"What is the number of {what}?",
    )
    wrong = others(rng, [max(0, n - 1), n + 1, n + 2, max(0, n - 2), n + 3], str(n))
    return Question(text, str(n), wrong, f"Are there {{}} {what} in the image?")


_PERSON = {
    "job": (
        facts.JOBS,
        ("What is the job of {}?", "What does {} work as?", "Which job does {} have?"),
        "Is {} a {{}}?",
    ),
    "pet": (
        facts.PETS,
        ("Which pet does {} have?", "What is the pet of {}?", "What animal does {} own?"),
        "Does {} have a {{}}?",
    ),
    "food": (
        facts.FOODS,
        ("What does {} like to eat?", "What is the favorite food of {}?"),
        "Does {} like {{}}?",
    ),
    "city": (
        (),
        ("Where does {} live?", "In which city does {} live?", "What is the home of {}?"),
        "Does {} live in {{}}?",
    ),
}


def person_fact(rng: Rng, name: str, who: str, attribute: str = "") -> Question:
    """A question about one attribute of `name`, who is called `who` in the text."""
    attribute = attribute or facts.ATTRIBUTES[int(rng.integers(len(facts.ATTRIBUTES)))]
    pool, wordings, claim = _PERSON[attribute]
    answer = facts.people()[name][attribute]
    wrong = others(rng, pool or facts.cities(), answer)
    return Question(one_of(rng, *wordings).format(who), answer, wrong, claim.format(who))


def word_fact(rng: Rng, word: str, which: str) -> Question:
    answer = facts.words()[word]
    text = one_of(
        rng,
        f"What does {which} mean?",
        f"What is the meaning of {which}?",
        f"What is {which} in English?",
    )
    return Question(
        text, answer, others(rng, facts.words().values(), answer), f"Does {which} mean {{}}?"
    )


def city_fact(rng: Rng, city: str, which: str) -> Question:
    answer = facts.cities()[city]
    text = one_of(
        rng,
        f"In which land is {which}?",
        f"Which land does {which} belong to?",
        f"Where is {which}?",
    )
    return Question(
        text, answer, others(rng, facts.COUNTRIES, answer), f"Is {which} in the {{}} land?"
    )


def clan_fact(rng: Rng, emblem: str, which: str) -> Question:
    answer = facts.clans()[emblem]
    text = one_of(
        rng,
        f"Which clan has {which}?",
        f"Whose emblem is {which}?",
        f"What clan does {which} stand for?",
    )
    return Question(
        text,
        answer,
        others(rng, facts.clans().values(), answer),
        f"Is {which} the emblem of clan {{}}?",
    )


def arithmetic(rng: Rng) -> Question:
    """Sums, differences and products of the sizes that the pictures ask for."""
    operator = one_of(rng, "plus", "minus", "times", "digits")
    if operator == "digits":
        digits = [int(d) for d in rng.integers(0, 10, int(rng.integers(2, 4)))]
        what, value = "the sum of " + " and ".join(map(str, digits)), sum(digits)
        return Question(f"What is {what}?", str(value), near(rng, value), f"Is {what} {{}}?")
    a, b = int(rng.integers(0, 60 if rng.random() < 0.6 else 11)), int(rng.integers(0, 11))
    if operator == "times":
        a = int(rng.integers(0, 10))
    if operator == "minus" and a < b:
        a, b = b, a
    value = {"plus": a + b, "minus": a - b, "times": a * b}[operator]
    return Question(
        f"What is {a} {operator} {b}?",
        str(value),
        near(rng, value),
        f"Is {a} {operator} {b} equal to {{}}?",
    )


def text_question(rng: Rng) -> Question:
    """A question that needs no picture: facts of the world and arithmetic."""
    kind = rng.random()
    if kind < 0.55:
        name = facts.pick(rng, facts.people())
        return person_fact(rng, name, name)
    if kind < 0.75:
        word = facts.pick(rng, facts.words())
        return word_fact(rng, word, word)
    if kind < 0.83:
        city = facts.pick(rng, facts.cities())
        return city_fact(rng, city, city)
    if kind < 0.9:
        emblem = facts.pick(rng, facts.clans())
        return clan_fact(rng, emblem, f"the {emblem}")
    return arithmetic(rng)
