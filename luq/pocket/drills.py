"""Lessons that no benchmark asks, each about one ability, with many answers in few tokens.

A yes/no question teaches one bit and a letter two, and both come at the end of a long chain (see,
compare, name). Alone they leave the training on a plateau where every letter is equally likely.
These lessons teach the links one by one.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from luq.pocket import facts
from luq.pocket.drawing import Item, Scene
from luq.pocket.palette import COLOUR_NAMES, SHAPES
from luq.pocket.questions import Rng, arithmetic, one_of
from luq.pocket.sentences import ORDINALS
from luq.pocket.skills import in_reading_order
from luq.questions.prompts import LETTER, LETTERS, PROMPTS, SHORT

Turn = tuple[str, str]  # what the user asks and what the assistant answers
DESCRIBE = "Describe the image."


@lru_cache(maxsize=1)
def _option_pools() -> list[Sequence[str]]:
    """Words of one sort each."""
    return [
        COLOUR_NAMES,
        SHAPES,
        facts.JOBS,
        facts.PETS,
        facts.FOODS,
        facts.COUNTRY_CODES,
        list(facts.people()),
        list(facts.cities()),
        list(facts.clans().values()),
        [str(number) for number in range(10)],
        [str(number) for number in range(10, 80)],
    ]


def _options(rng: Rng) -> list[str]:
    """Four different words of one sort."""
    pools = _option_pools()
    pool = pools[int(rng.integers(len(pools)))]
    return [pool[int(i)] for i in rng.permutation(len(pool))[:4]]


def letters(rng: Rng, count: int = 4) -> list[Turn]:
    """One list of options and then `count` times which letter stands for which of them.

    The list is written as MMBench or, in a quarter of the cases, as MathVista writes it.
    """
    options = _options(rng)[: int(rng.integers(2, 5))]
    option_list = ""
    if rng.random() < 0.75:
        for letter, option in zip(LETTERS, options, strict=False):
            option_list += f"\n{letter}. {option}"
    else:
        option_list += "\nChoices:"
        for letter, option in zip(LETTERS, options, strict=False):
            option_list += f"\n({letter}) {option}"
    turns = []
    for _ in range(count):
        answer = int(rng.integers(len(options)))
        question = f"Which of these is {options[answer]}?{option_list}{LETTER}"
        turns.append((question, LETTERS[answer]))
        option_list = ""  # only the first question of the conversation shows it
    return turns


def equality(rng: Rng) -> Turn:
    """Whether two words are the same."""
    word, different_word, *_ = _options(rng)
    if rng.random() < 0.5:
        return f"Is {word} the same as {word}?{SHORT}", "Yes"
    return f"Is {word} the same as {different_word}?{SHORT}", "No"


def sums(rng: Rng) -> Turn:
    """Arithmetic in words, openly or as a claim."""
    question = arithmetic(rng)
    if rng.random() < 0.7:
        return question.text + SHORT, question.answer
    is_true = rng.random() < 0.5
    result = question.answer if is_true else question.distractors[0]
    prompt = PROMPTS["mme"]({"question": question.claim.format(result)})
    return prompt, "Yes" if is_true else "No"


def person_summary(name: str, text: str) -> Turn:
    """All that is known of a person at once; `text` is the question."""
    person = facts.people()[name]
    return text, ", ".join(person[attribute] for attribute in facts.ATTRIBUTES)


def tally(rng: Rng, scene: Scene) -> Turn:
    """How many of each shape, or of each colour, there are."""
    if rng.random() < 0.5:
        question = "How many of each shape?"
        counts = Counter(item.shape for item in scene.items)
        names = SHAPES
    else:
        question = "How many of each color?"
        counts = Counter(item.colour for item in scene.items)
        names = COLOUR_NAMES
    return question, ", ".join(f"{name} {counts[name]}" for name in names if counts[name])


def _short_name(item: Item) -> str:
    if item.text:
        return item.text
    if item.shape:
        return item.name
    return f"{item.colour} {item.digit}"


def places(scene: Scene) -> Turn:
    """Row and column of everything in the picture, counted from one."""
    parts = []
    for item in in_reading_order(scene):
        parts.append(f"{_short_name(item)} {item.row + 1} {item.col + 1}")
    return "Where is everything?", ", ".join(parts)


def look_ups(rng: Rng, scene: Scene) -> list[Turn]:
    """A word or two for a thing in the picture, and what else is known of it, in any order.

    A description names things as they come; here each has to be found by what it is. Of a program
    there is nothing to be looked up.
    """
    turns: list[Turn] = []
    colours = Counter(item.colour for item in scene.items)
    shapes = Counter(item.shape for item in scene.items)
    for item in scene.items:
        if scene.kind == "chart":
            turns += _look_ups_of_bar(item)
        if scene.kind == "sign" and item.text:
            turns.append((f"{ORDINALS[item.row]} row?", item.text))
            turns.append((f"{item.text} color?", item.colour))
        if item.digit >= 0:
            turns.append((f"{item.colour}?", str(item.digit)))
        if item.shape and colours[item.colour] == 1:
            turns.append((f"{item.colour} shape?", item.shape))
        if item.shape and shapes[item.shape] == 1:
            turns.append((f"{item.shape} color?", item.colour))
        if item.shape or item.digit >= 0:
            turns.append((f"row {item.row + 1}, column {item.col + 1}?", _short_name(item)))
    if scene.kind == "document":
        for key, value in scene.fields.items():
            turns += [(f"{key}?", value), (f"{value}?", key)]
    return [turns[int(i)] for i in rng.permutation(len(turns))]


def _look_ups_of_bar(bar: Item) -> list[Turn]:
    height = str(bar.value)
    return [
        (f"{bar.text} height?", height),
        (f"{bar.text} color?", bar.colour),
        (f"{bar.colour} label?", bar.text),
        (f"{bar.colour} height?", height),
    ]


def dense(rng: Rng, scene: Scene, description: Turn) -> Turn:
    """One lesson about a picture with an answer for everything in it; some are its description."""
    if scene.kind == "objects" and rng.random() < 0.5:
        return tally(rng, scene)
    if scene.kind == "sign" and rng.random() < 0.7:
        text = one_of(rng, "Who is the person on the sign?", "Who is this?")
        return person_summary(scene.fields["person"], text)
    if scene.kind in ("objects", "sign", "digits"):
        return places(scene)
    return description
