"""Skills about signs: reading what is printed, and facts about what was read. See `skills`."""

from luq.pocket import facts
from luq.pocket.drawing import Scene
from luq.pocket.questions import (
    Question,
    Rng,
    city_fact,
    distractors,
    one_of,
    person_fact,
    word_fact,
)

POOL = 8  # candidates of which the distractors are chosen; some may be the same


def _random_names(rng: Rng) -> list[str]:
    return [facts.pick(rng, facts.people()) for _ in range(POOL)]


def _random_numbers(rng: Rng) -> list[str]:
    return [str(rng.integers(10, 10_000)) for _ in range(POOL)]


def read_line(rng: Rng, scene: Scene) -> Question | None:
    top, bottom = (item for item in scene.items if item.text)
    line = top
    place = "top"
    if rng.random() >= 0.5:
        line = bottom
        place = "bottom"
    text = one_of(
        rng,
        f"What is written at the {place}?",
        f"What does the {place} line say?",
        f"What is the {place} text on the sign?",
    )
    if top.colour != bottom.colour and rng.random() < 0.4:
        text = one_of(
            rng, f"What is written in {line.colour}?", f"What does the {line.colour} text say?"
        )
    pool = _random_names(rng)
    if line.text.isdigit():
        pool = _random_numbers(rng)
    return Question(
        text, line.text, distractors(rng, pool, line.text), "Is the text {} on the sign?"
    )


def read_number(rng: Rng, scene: Scene) -> Question | None:
    if "number" not in scene.fields:
        return None
    number = scene.fields["number"]
    text = one_of(
        rng, "What number is on the sign?", "Which number can be read?", "What is the number?"
    )
    wrong_numbers = distractors(rng, _random_numbers(rng), number)
    return Question(text, number, wrong_numbers, "Is the number {} on the sign?")


def read_name(rng: Rng, scene: Scene) -> Question | None:
    name = scene.fields["person"]
    text = one_of(
        rng,
        "Which person is named on the sign?",
        "What is the name of the person?",
        "Whose name is this?",
    )
    wrong_names = distractors(rng, _random_names(rng), name)
    return Question(text, name, wrong_names, "Is the person on the sign {}?")


def person_on_sign(rng: Rng, scene: Scene) -> Question | None:
    phrase = one_of(rng, "the person on the sign", "the person named in the image")
    return person_fact(rng, scene.fields["person"], phrase)


def job_on_sign(rng: Rng, scene: Scene) -> Question | None:
    return person_fact(rng, scene.fields["person"], "the person on the sign", "job")


def word_on_sign(rng: Rng, scene: Scene) -> Question | None:
    if "word" not in scene.fields:
        return None
    phrase = one_of(rng, "the old word", "the word on the sign")
    return word_fact(rng, scene.fields["word"], phrase)


def city_on_sign(rng: Rng, scene: Scene) -> Question | None:
    if "city" not in scene.fields:
        return None
    phrase = one_of(rng, "the city on the sign", "this city")
    return city_fact(rng, scene.fields["city"], phrase)
