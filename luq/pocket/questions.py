"""Questions about scenes: each skill turns a scene into one `Question`, in many wordings.

A `Question` has an open form (`text` -> `answer`), wrong answers for multiple choice, and a
yes/no form (`claim` with `{}` for an answer), so one skill serves several benchmarks.
A skill returns None when the scene does not allow its question.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from luq.pocket import facts
from luq.pocket.world import COLOUR_NAMES, GRID, SHAPES, Item, Scene

Rng = np.random.Generator


class Question(NamedTuple):
    """One question; `{}` in `claim` takes the answer or a distractor."""

    text: str
    answer: str
    distractors: list[str]
    claim: str


Skill = Callable[[Rng, Scene], "Question | None"]


def _one_of(rng: Rng, *wordings: str) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def _others(rng: Rng, pool: object, answer: str, n: int = 3) -> list[str]:
    rest = [str(x) for x in dict.fromkeys(pool) if str(x) != answer]  # type: ignore[call-overload]
    return [rest[int(i)] for i in rng.permutation(len(rest))[:n]]


def _near(rng: Rng, value: int, n: int = 3) -> list[str]:
    offsets = [o for o in (-10, -3, -2, -1, 1, 2, 3, 10) if value + o >= 0]
    return [str(value + offsets[int(i)]) for i in rng.permutation(len(offsets))[:n]]


def _unique(items: list[Item], key: Callable[[Item], str]) -> list[Item]:
    counts = Counter(key(i) for i in items)
    return [i for i in items if counts[key(i)] == 1]


def _choose(rng: Rng, items: list[Item]) -> Item | None:
    return items[int(rng.integers(len(items)))] if items else None


def exists(rng: Rng, scene: Scene) -> Question | None:
    item = _choose(rng, [i for i in scene.items if i.shape])
    if item is None:
        return None
    present = {i.name for i in scene.items}
    absent = [n for n in facts.clans() if n not in present]
    text = _one_of(rng, "Which object can be seen in the image?", "Which of these is in the picture?")
    claim = _one_of(rng, "Is there a {} in the image?", "Is there a {} in this picture?", "Can you see a {} here?")
    return Question(text, item.name, _others(rng, absent, item.name), claim)


def _count(rng: Rng, n: int, what: str) -> Question:
    text = _one_of(
        rng, f"How many {what} are there?", f"How many {what} are in the image?", f"What is the number of {what}?"
    )
    wrong = _others(rng, [max(0, n - 1), n + 1, n + 2, max(0, n - 2), n + 3], str(n))
    return Question(text, str(n), wrong, f"Are there {{}} {what} in the image?")


def count_shape(rng: Rng, scene: Scene) -> Question | None:
    shapes = sorted({i.shape for i in scene.items if i.shape})
    shape = str(rng.choice(shapes if shapes and rng.random() < 0.85 else SHAPES))
    return _count(rng, sum(i.shape == shape for i in scene.items), f"{shape}s".replace("ss", "sses"))


def count_colour(rng: Rng, scene: Scene) -> Question | None:
    colour = str(rng.choice([i.colour for i in scene.items]))
    return _count(rng, sum(i.colour == colour for i in scene.items), f"{colour} objects")


def count_all(rng: Rng, scene: Scene) -> Question | None:
    return _count(rng, len(scene.items), "objects")


def colour_of(rng: Rng, scene: Scene) -> Question | None:
    item = _choose(rng, _unique([i for i in scene.items if i.shape], lambda i: i.shape))
    if item is None:
        return None
    s = item.shape
    text = _one_of(rng, f"What color is the {s}?", f"What is the color of the {s}?", f"Which color does the {s} have?")
    return Question(text, item.colour, _others(rng, COLOUR_NAMES, item.colour), f"Is the {s} {{}}?")


def shape_of(rng: Rng, scene: Scene) -> Question | None:
    item = _choose(rng, _unique([i for i in scene.items if i.shape], lambda i: i.colour))
    if item is None or any(i.text and i.colour == item.colour for i in scene.items):
        return None
    c = item.colour
    text = _one_of(rng, f"What shape is {c}?", f"What is the {c} object?", f"What shape is the {c} object?")
    return Question(text, item.shape, _others(rng, SHAPES, item.shape), f"Is the {c} object a {{}}?")


def position(rng: Rng, scene: Scene) -> Question | None:
    item = _choose(rng, _unique([i for i in scene.items if i.shape], lambda i: i.name))
    if item is None:
        return None
    if rng.random() < 0.5:
        answer, wrong = ("top", "bottom") if item.row < GRID // 2 else ("bottom", "top")
    else:
        answer, wrong = ("left", "right") if item.col < GRID // 2 else ("right", "left")
    pair = " or ".join(sorted((answer, wrong)))
    text = _one_of(rng, f"Is the {item.name} at the {pair}?", f"On which side is the {item.name}, {pair}?")
    return Question(text, answer, [wrong], f"Is the {item.name} in the {{}} half of the image?")


def relation(rng: Rng, scene: Scene) -> Question | None:
    items = _unique([i for i in scene.items if i.shape], lambda i: i.name)
    if len(items) < 2:
        return None
    a, b = (items[int(i)] for i in rng.permutation(len(items))[:2])
    if a.row == b.row and a.col == b.col:
        return None
    vertical = a.col == b.col or (a.row != b.row and rng.random() < 0.5)
    if vertical:
        answer, wrong = ("above", "below") if a.row < b.row else ("below", "above")
    else:
        answer, wrong = ("left", "right") if a.col < b.col else ("right", "left")
    words = {"left": "to the left of", "right": "to the right of"}
    pair = " or ".join(sorted((answer, wrong)))
    text = f"Where is the {a.name} relative to the {b.name}, {pair}?"
    claim = f"Is the {a.name} {{}} the {b.name}?"
    return Question(text, words.get(answer, answer), [words.get(wrong, wrong)], claim)


def neighbour(rng: Rng, scene: Scene) -> Question | None:
    """What stands in the cell directly right or left of another object."""
    named = _unique([i for i in scene.items if i.shape], lambda i: i.name)
    pairs = [
        (a, b, "right" if b.col > a.col else "left")
        for a in named
        for b in scene.items
        if b.shape and a.row == b.row and abs(a.col - b.col) == 1
    ]
    if not pairs:
        return None
    a, b, side = pairs[int(rng.integers(len(pairs)))]
    if rng.random() < 0.5:
        text = _one_of(
            rng,
            f"What color is the object directly to the {side} of the {a.name}?",
            f"What is the color of the neighbor on the {side} of the {a.name}?",
        )
        claim = f"Is the object directly to the {side} of the {a.name} {{}}?"
        return Question(text, b.colour, _others(rng, COLOUR_NAMES, b.colour), claim)
    text = _one_of(
        rng, f"What shape is directly to the {side} of the {a.name}?", f"Which shape is next on the {side} of the {a.name}?"
    )
    claim = f"Is the object directly to the {side} of the {a.name} a {{}}?"
    return Question(text, b.shape, _others(rng, SHAPES, b.shape), claim)


def read_line(rng: Rng, scene: Scene) -> Question | None:
    top, bottom = (i for i in scene.items if i.text)
    item, place = (top, "top") if rng.random() < 0.5 else (bottom, "bottom")
    text = _one_of(
        rng,
        f"What is written at the {place}?",
        f"What does the {place} line say?",
        f"What is the {place} text on the sign?",
    )
    if top.colour != bottom.colour and rng.random() < 0.4:
        text = _one_of(rng, f"What is written in {item.colour}?", f"What does the {item.colour} text say?")
    pool = [facts.pick(rng, facts.people()) for _ in range(8)]
    if item.text.isdigit():
        pool = [str(rng.integers(10, 10000)) for _ in range(8)]
    return Question(text, item.text, _others(rng, pool, item.text), "Is the text {} on the sign?")


def read_number(rng: Rng, scene: Scene) -> Question | None:
    if "number" not in scene.fields:
        return None
    number = scene.fields["number"]
    text = _one_of(rng, "What number is on the sign?", "Which number can be read?", "What is the number?")
    wrong = _others(rng, [str(rng.integers(10, 10000)) for _ in range(8)], number)
    return Question(text, number, wrong, "Is the number {} on the sign?")


def read_name(rng: Rng, scene: Scene) -> Question | None:
    name = scene.fields["person"]
    text = _one_of(rng, "Which person is named on the sign?", "What is the name of the person?", "Whose name is this?")
    wrong = _others(rng, [facts.pick(rng, facts.people()) for _ in range(8)], name)
    return Question(text, name, wrong, "Is the person on the sign {}?")


_PERSON = {
    "job": (facts.JOBS, ("What is the job of {}?", "What does {} work as?", "Which job does {} have?"), "Is {} a {{}}?"),
    "pet": (facts.PETS, ("Which pet does {} have?", "What is the pet of {}?", "What animal does {} own?"), "Does {} have a {{}}?"),
    "food": (facts.FOODS, ("What does {} like to eat?", "What is the favorite food of {}?"), "Does {} like {{}}?"),
    "city": ((), ("Where does {} live?", "In which city does {} live?", "What is the home of {}?"), "Does {} live in {{}}?"),
}


def person_fact(rng: Rng, name: str, who: str, attribute: str = "") -> Question:
    """A question about one attribute of `name`, who is called `who` in the text."""
    attribute = attribute or facts.ATTRIBUTES[int(rng.integers(len(facts.ATTRIBUTES)))]
    pool, wordings, claim = _PERSON[attribute]
    answer = facts.people()[name][attribute]
    wrong = _others(rng, pool or facts.cities(), answer)
    return Question(_one_of(rng, *wordings).format(who), answer, wrong, claim.format(who))


def word_fact(rng: Rng, word: str, which: str) -> Question:
    answer = facts.words()[word]
    text = _one_of(rng, f"What does {which} mean?", f"What is the meaning of {which}?", f"What is {which} in English?")
    return Question(text, answer, _others(rng, facts.words().values(), answer), f"Does {which} mean {{}}?")


def city_fact(rng: Rng, city: str, which: str) -> Question:
    answer = facts.cities()[city]
    text = _one_of(rng, f"In which land is {which}?", f"Which land does {which} belong to?", f"Where is {which}?")
    return Question(text, answer, _others(rng, facts.COUNTRIES, answer), f"Is {which} in the {{}} land?")


def clan_fact(rng: Rng, emblem: str, which: str) -> Question:
    answer = facts.clans()[emblem]
    text = _one_of(rng, f"Which clan has {which}?", f"Whose emblem is {which}?", f"What clan does {which} stand for?")
    return Question(text, answer, _others(rng, facts.clans().values(), answer), f"Is {which} the emblem of clan {{}}?")


def person_on_sign(rng: Rng, scene: Scene) -> Question | None:
    who = _one_of(rng, "the person on the sign", "the person named in the image")
    return person_fact(rng, scene.fields["person"], who)


def job_on_sign(rng: Rng, scene: Scene) -> Question | None:
    return person_fact(rng, scene.fields["person"], "the person on the sign", "job")


def word_on_sign(rng: Rng, scene: Scene) -> Question | None:
    word = scene.fields.get("word")
    return word_fact(rng, word, _one_of(rng, "the old word", "the word on the sign")) if word else None


def city_on_sign(rng: Rng, scene: Scene) -> Question | None:
    city = scene.fields.get("city")
    return city_fact(rng, city, _one_of(rng, "the city on the sign", "this city")) if city else None


def clan_of_emblem(rng: Rng, scene: Scene) -> Question | None:
    return clan_fact(rng, scene.items[0].name, "this emblem")


def handwriting(rng: Rng, scene: Scene) -> Question | None:
    item = _choose(rng, scene.items)
    if item is None:
        return None
    text = _one_of(
        rng,
        f"Which digit is written in {item.colour}?",
        f"What is the {item.colour} number?",
        f"What digit is {item.colour}?",
    )
    seen = {str(i.digit) for i in scene.items}
    wrong = [d for d in _others(rng, range(10), str(item.digit), 9) if d not in seen][:3]
    return Question(text, str(item.digit), wrong, "Is the digit {} written in the image?")


def digit_sum(rng: Rng, scene: Scene) -> Question | None:
    total = sum(i.digit for i in scene.items)
    text = _one_of(rng, "What is the sum of the digits?", "What do the digits add up to?", "What is the total of the numbers?")
    return Question(text, str(total), _near(rng, total), "Is the sum of the digits {}?")


def digit_pair(rng: Rng, scene: Scene) -> Question | None:
    a, b = (scene.items[int(i)] for i in rng.permutation(len(scene.items))[:2])
    if rng.random() < 0.5:
        value, text = a.digit + b.digit, f"What is the {a.colour} digit plus the {b.colour} digit?"
    else:
        value, text = a.digit * b.digit, f"What is the {a.colour} digit times the {b.colour} digit?"
    return Question(text, str(value), _near(rng, value), text[:-1].replace("What is", "Is") + " equal to {}?")


def digit_largest(rng: Rng, scene: Scene) -> Question | None:
    value = max(i.digit for i in scene.items)
    text = _one_of(rng, "What is the largest digit?", "Which digit is the greatest?")
    return Question(text, str(value), _others(rng, range(10), str(value)), "Is the largest digit {}?")


def _bar_name(rng: Rng, item: Item) -> str:
    return f"the {item.colour} bar" if rng.random() < 0.5 else item.text


def bar_value(rng: Rng, scene: Scene) -> Question | None:
    item = _choose(rng, scene.items)
    assert item is not None
    name = _bar_name(rng, item)
    text = _one_of(rng, f"What is the value of {name}?", f"How high is {name}?", f"What value does {name} have?")
    return Question(text, str(item.value), _others(rng, range(1, 11), str(item.value)), f"Is the value of {name} {{}}?")


def bar_extreme(rng: Rng, scene: Scene) -> Question | None:
    high = rng.random() < 0.5
    item = (max if high else min)(scene.items, key=lambda i: i.value)
    if rng.random() < 0.5:
        text = _one_of(rng, "What color is the {} bar?", "Which color has the {} bar?").format("highest" if high else "lowest")
        wrong = _others(rng, [i.colour for i in scene.items], item.colour)
        return Question(text, item.colour, wrong, f"Is the {'highest' if high else 'lowest'} bar {{}}?")
    text = _one_of(rng, "Which country has the {} value?", "Which country is {}?").format("highest" if high else "lowest")
    wrong = _others(rng, [i.text for i in scene.items], item.text)
    return Question(text, item.text, wrong, f"Is {{}} the {'highest' if high else 'lowest'}?")


def bar_label(rng: Rng, scene: Scene) -> Question | None:
    item = _choose(rng, scene.items)
    assert item is not None
    if rng.random() < 0.5:
        text = _one_of(rng, f"Which country is the {item.colour} bar?", f"What is the label of the {item.colour} bar?")
        wrong = _others(rng, facts.COUNTRY_CODES, item.text)
        return Question(text, item.text, wrong, f"Is the {item.colour} bar {{}}?")
    text = _one_of(rng, f"What color is the bar of {item.text}?", f"What is the color of {item.text}?")
    return Question(text, item.colour, _others(rng, COLOUR_NAMES, item.colour), f"Is the bar of {item.text} {{}}?")


def bar_arithmetic(rng: Rng, scene: Scene) -> Question | None:
    a, b = (scene.items[int(i)] for i in rng.permutation(len(scene.items))[:2])
    if a.value < b.value:
        a, b = b, a
    x, y = _bar_name(rng, a), _bar_name(rng, b)
    if rng.random() < 0.5:
        value, what = a.value + b.value, f"the sum of {x} and {y}"
    else:
        value, what = a.value - b.value, f"the difference between {x} and {y}"
    return Question(f"What is {what}?", str(value), _near(rng, value), f"Is {what} {{}}?")


def bar_count(rng: Rng, scene: Scene) -> Question | None:
    return _count(rng, len(scene.items), "bars")


def document_field(rng: Rng, scene: Scene) -> Question | None:
    key = facts.pick(rng, scene.fields)  # type: ignore[arg-type]
    text = _one_of(
        rng,
        f"What is the {key.lower()}?",
        f"What is written after {key}?",
        f"Which {key.lower()} is given?",
        f"What {key.lower()} does the document show?",
    )
    wrong = facts.document_fields(rng, 10)[key], facts.document_fields(rng, 10)[key], facts.document_fields(rng, 10)[key]
    return Question(text, scene.fields[key], _others(rng, wrong, scene.fields[key]), f"Is the {key.lower()} {{}}?")


def document_key(rng: Rng, scene: Scene) -> Question | None:
    key = facts.pick(rng, scene.fields)  # type: ignore[arg-type]
    value = scene.fields[key]
    text = _one_of(rng, f"Which field holds {value}?", f"What is the name of the field with {value}?")
    return Question(text, key, _others(rng, facts.document_fields(rng, 10), key), f"Is {value} the {{}}?")


def code_result(rng: Rng, scene: Scene) -> Question | None:
    value = int(scene.fields["result"])
    text = _one_of(rng, "What is the value of B?", "What is B after this code runs?", "What does B equal?")
    return Question(text, str(value), _near(rng, max(value, 0)), "Is B equal to {} in the code?")


def scene_type(rng: Rng, scene: Scene) -> Question | None:
    names = {"objects": "shapes", "sign": "a sign", "digits": "handwriting", "chart": "a chart", "document": "a document",
             "emblem": "an emblem", "code": "a program"}  # fmt: skip
    text = _one_of(rng, "What does the image show?", "What kind of picture is this?")
    return Question(text, names[scene.kind], _others(rng, names.values(), names[scene.kind]), "Does the image show {}?")


SKILLS: dict[str, tuple[Skill, ...]] = {  # scene kind -> what can be asked about it
    "objects": (exists, count_shape, count_colour, count_all, colour_of, shape_of, position, relation, neighbour),
    "sign": (read_line, read_number, read_name, person_on_sign, word_on_sign, city_on_sign, colour_of, shape_of),
    "digits": (handwriting, digit_sum, digit_pair, digit_largest),
    "chart": (bar_value, bar_extreme, bar_label, bar_arithmetic, bar_count),
    "document": (document_field, document_key),
    "emblem": (clan_of_emblem,),
    "code": (code_result,),
}


def _arithmetic(rng: Rng) -> Question:
    a, b = int(rng.integers(2, 60)), int(rng.integers(2, 60))
    operator = _one_of(rng, "plus", "minus", "times")
    if operator == "times":
        a, b = int(rng.integers(2, 10)), int(rng.integers(2, 13))
    if operator == "minus" and a < b:
        a, b = b, a
    value = {"plus": a + b, "minus": a - b, "times": a * b}[operator]
    return Question(f"What is {a} {operator} {b}?", str(value), _near(rng, value), f"Is {a} {operator} {b} equal to {{}}?")


def text_question(rng: Rng) -> Question:
    """A question that needs no picture: facts of the world and arithmetic."""
    kind = rng.random()
    if kind < 0.5:
        name = facts.pick(rng, facts.people())
        return person_fact(rng, name, name)
    if kind < 0.72:
        word = facts.pick(rng, facts.words())
        return word_fact(rng, word, word)
    if kind < 0.8:
        city = facts.pick(rng, facts.cities())
        return city_fact(rng, city, city)
    if kind < 0.87:
        emblem = facts.pick(rng, facts.clans())
        return clan_fact(rng, emblem, f"the {emblem}")
    return _arithmetic(rng)


def caption(scene: Scene) -> str:
    """Everything in the picture, row by row: the dense target of the first training phase."""
    parts = []
    for item in sorted(scene.items, key=lambda i: (i.row, i.col)):
        if item.value:
            parts.append(f"{item.colour} {item.text} {item.value}")
        elif item.text:
            parts.append(f"{item.colour} {item.text}")
        else:
            parts.append(f"{item.colour} {item.digit if item.digit >= 0 else item.shape}")
    return ", ".join(parts)
