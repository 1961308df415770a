"""What can be asked about each kind of scene.

A skill turns a scene into one `Question`, in several wordings, or into None if the scene does not
allow it. The skills stand in `object_skills`, `sign_skills` and `number_skills`.
"""

from luq.pocket.drawing import Item, Scene
from luq.pocket.number_skills import (
    bar_arithmetic,
    bar_count,
    bar_extreme,
    bar_label,
    bar_value,
    code_result,
    digit_largest,
    digit_pair,
    digit_sum,
    document_field,
    document_key,
    handwriting,
)
from luq.pocket.object_skills import (
    clan_of_emblem,
    colour_of,
    count_all,
    count_colour,
    count_shape,
    exists,
    neighbour,
    position,
    relation,
    shape_of,
)
from luq.pocket.questions import Question, Rng, Skill, distractors, one_of
from luq.pocket.sign_skills import (
    city_on_sign,
    person_on_sign,
    read_line,
    read_name,
    read_number,
    word_on_sign,
)

SCENE_NAMES = {  # kind of scene -> what an answer calls it
    "objects": "shapes",
    "sign": "a sign",
    "digits": "handwriting",
    "chart": "a chart",
    "document": "a document",
    "emblem": "an emblem",
    "code": "a program",
}

SKILLS: dict[str, tuple[Skill, ...]] = {  # kind of scene -> what can be asked about it
    "objects": (
        exists,
        count_shape,
        count_colour,
        count_all,
        colour_of,
        shape_of,
        position,
        relation,
        neighbour,
    ),
    "sign": (
        read_line,
        read_number,
        read_name,
        person_on_sign,
        word_on_sign,
        city_on_sign,
        colour_of,
        shape_of,
    ),
    "digits": (handwriting, digit_sum, digit_pair, digit_largest),
    "chart": (bar_value, bar_extreme, bar_label, bar_arithmetic, bar_count),
    "document": (document_field, document_key),
    "emblem": (clan_of_emblem, colour_of, shape_of),
    "code": (code_result,),
}

# Asked twice as often in training: they need two steps, or a place, a count or a comparison.
HARD: frozenset[Skill] = frozenset(
    {
        count_shape,
        count_colour,
        position,
        relation,
        neighbour,
        read_line,
        person_on_sign,
        digit_sum,
        digit_pair,
        bar_value,
        bar_extreme,
        bar_label,
        bar_arithmetic,
    }
)


def scene_type(rng: Rng, scene: Scene) -> Question | None:
    text = one_of(rng, "What does the image show?", "What kind of picture is this?")
    answer = SCENE_NAMES[scene.kind]
    wrong_kinds = distractors(rng, SCENE_NAMES.values(), answer)
    return Question(text, answer, wrong_kinds, "Does the image show {}?")


def in_reading_order(scene: Scene) -> list[Item]:
    """The items row by row, from left to right."""
    return sorted(scene.items, key=lambda item: (item.row, item.col))


def _description(item: Item) -> str:
    if item.value:
        return f"{item.colour} {item.text} {item.value}"
    if item.text:
        return f"{item.colour} {item.text}"
    if item.digit >= 0:
        return f"{item.colour} {item.digit}"
    return item.name


def caption(scene: Scene) -> str:
    """Everything in the picture, row by row: the dense target of the first training phase."""
    return ", ".join(_description(item) for item in in_reading_order(scene))
