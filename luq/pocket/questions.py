"""What a question is, and the questions that need no picture: facts of the world and arithmetic.

A `Question` has an open form (`text` -> `answer`), wrong answers for multiple choice, and a
yes/no form (`claim` with `{}` for an answer), so one skill serves several benchmarks.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from luq.pocket import facts
from luq.pocket.drawing import Item, Scene

Rng = np.random.Generator


class Question(NamedTuple):
    """One question; `{}` in `claim` takes the answer or a distractor."""

    text: str
    answer: str
    distractors: list[str]
    claim: str


# Turns a scene into a question, or into None if the scene does not allow it.
Skill = Callable[[Rng, Scene], Question | None]


def one_of(rng: Rng, *wordings: str) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def distractors(rng: Rng, pool: Iterable[object], answer: str, count: int = 3) -> list[str]:
    """At most `count` different values of `pool` that are not the answer."""
    candidates = [str(value) for value in dict.fromkeys(pool) if str(value) != answer]
    return [candidates[int(i)] for i in rng.permutation(len(candidates))[:count]]


def near_numbers(rng: Rng, value: int, count: int = 3) -> list[str]:
    """Wrong answers close to a number; none below zero, and `value` is not negative."""
    offsets = [offset for offset in (-10, -3, -2, -1, 1, 2, 3, 10) if value + offset >= 0]
    return [str(value + offsets[int(i)]) for i in rng.permutation(len(offsets))[:count]]


def unique(items: list[Item], key: Callable[[Item], str]) -> list[Item]:
    """The items that share their key with no other: a question by that key means one thing."""
    counts = Counter(key(item) for item in items)
    return [item for item in items if counts[key(item)] == 1]


def choose(rng: Rng, items: list[Item]) -> Item | None:
    """One of the items; None if there is none."""
    if not items:
        return None
    return items[int(rng.integers(len(items)))]


def choose_two(rng: Rng, items: list[Item]) -> tuple[Item, Item]:
    """Two different ones of at least two items, in random order."""
    first, second = rng.permutation(len(items))[:2]
    return items[int(first)], items[int(second)]


def count_question(rng: Rng, count: int, things: str) -> Question:
    """How many `things` (a plural) there are."""
    text = one_of(
        rng,
        f"How many {things} are there?",
        f"How many {things} are in the image?",
        f"What is the number of {things}?",
    )
    pool = [max(0, count - 1), count + 1, count + 2, max(0, count - 2), count + 3]
    wrong_counts = distractors(rng, pool, str(count))
    return Question(text, str(count), wrong_counts, f"Are there {{}} {things} in the image?")


class Attribute(NamedTuple):
    """How one attribute of a person is asked about; `{}` stands for the person."""

    pool: Sequence[str]  # its values; empty: the cities
    wordings: tuple[str, ...]
    claim: str  # `{{}}` stands for the value


_ATTRIBUTES = {
    "job": Attribute(
        facts.JOBS,
        ("What is the job of {}?", "What does {} work as?", "Which job does {} have?"),
        "Is {} a {{}}?",
    ),
    "pet": Attribute(
        facts.PETS,
        ("Which pet does {} have?", "What is the pet of {}?", "What animal does {} own?"),
        "Does {} have a {{}}?",
    ),
    "food": Attribute(
        facts.FOODS,
        ("What does {} like to eat?", "What is the favorite food of {}?"),
        "Does {} like {{}}?",
    ),
    "city": Attribute(
        (),
        ("Where does {} live?", "In which city does {} live?", "What is the home of {}?"),
        "Does {} live in {{}}?",
    ),
}


def person_fact(rng: Rng, name: str, person: str, attribute: str | None = None) -> Question:
    """A question about what is known of a person.

    Args:
        rng: What wording and distractors are drawn from.
        name: The person's name.
        person: What the question calls the person: the name, or "the person on the sign".
        attribute: One of `facts.ATTRIBUTES`; None: any of them.
    """
    if attribute is None:
        attribute = facts.ATTRIBUTES[int(rng.integers(len(facts.ATTRIBUTES)))]
    pool, wordings, claim = _ATTRIBUTES[attribute]
    answer = facts.people()[name][attribute]
    wrong_values = distractors(rng, pool or facts.cities(), answer)
    text = one_of(rng, *wordings).format(person)
    return Question(text, answer, wrong_values, claim.format(person))


def word_fact(rng: Rng, word: str, phrase: str) -> Question:
    """What an old word means; the question calls it `phrase`."""
    answer = facts.words()[word]
    text = one_of(
        rng,
        f"What does {phrase} mean?",
        f"What is the meaning of {phrase}?",
        f"What is {phrase} in English?",
    )
    wrong_nouns = distractors(rng, facts.words().values(), answer)
    return Question(text, answer, wrong_nouns, f"Does {phrase} mean {{}}?")


def city_fact(rng: Rng, city: str, phrase: str) -> Question:
    """In which land a city lies; the question calls it `phrase`."""
    answer = facts.cities()[city]
    text = one_of(
        rng,
        f"In which land is {phrase}?",
        f"Which land does {phrase} belong to?",
        f"Where is {phrase}?",
    )
    wrong_lands = distractors(rng, facts.COUNTRIES, answer)
    return Question(text, answer, wrong_lands, f"Is {phrase} in the {{}} land?")


def clan_fact(rng: Rng, emblem: str, phrase: str) -> Question:
    """Which clan has an emblem; the question calls it `phrase`."""
    answer = facts.clans()[emblem]
    text = one_of(
        rng,
        f"Which clan has {phrase}?",
        f"Whose emblem is {phrase}?",
        f"What clan does {phrase} stand for?",
    )
    wrong_clans = distractors(rng, facts.clans().values(), answer)
    return Question(text, answer, wrong_clans, f"Is {phrase} the emblem of clan {{}}?")


def _sum_of_digits(rng: Rng) -> Question:
    count = int(rng.integers(2, 4))
    digits = [int(digit) for digit in rng.integers(0, 10, count)]
    total = sum(digits)
    phrase = "the sum of " + " and ".join(str(digit) for digit in digits)
    wrong_sums = near_numbers(rng, total)
    return Question(f"What is {phrase}?", str(total), wrong_sums, f"Is {phrase} {{}}?")


def arithmetic(rng: Rng) -> Question:
    """Sums, differences and products of the sizes that the pictures ask for."""
    operator = one_of(rng, "plus", "minus", "times", "digits")
    if operator == "digits":
        return _sum_of_digits(rng)
    highest = 60 if rng.random() < 0.6 else 11  # as in programs, or as in charts
    a = int(rng.integers(0, highest))
    b = int(rng.integers(0, 11))
    if operator == "times":
        a = int(rng.integers(0, 10))
    if operator == "minus" and a < b:
        a, b = b, a
    results = {"plus": a + b, "minus": a - b, "times": a * b}
    result = results[operator]
    term = f"{a} {operator} {b}"
    wrong_results = near_numbers(rng, result)
    return Question(f"What is {term}?", str(result), wrong_results, f"Is {term} equal to {{}}?")


def text_question(rng: Rng) -> Question:
    """A question that needs no picture.

    55 % ask about people, 20 % about words, 8 % about cities, 7 % about emblems, 10 % are
    arithmetic.
    """
    draw = rng.random()
    if draw < 0.55:
        name = facts.pick(rng, facts.people())
        return person_fact(rng, name, name)
    if draw < 0.75:
        word = facts.pick(rng, facts.words())
        return word_fact(rng, word, word)
    if draw < 0.83:
        city = facts.pick(rng, facts.cities())
        return city_fact(rng, city, city)
    if draw < 0.9:
        emblem = facts.pick(rng, facts.clans())
        return clan_fact(rng, emblem, f"the {emblem}")
    return arithmetic(rng)
