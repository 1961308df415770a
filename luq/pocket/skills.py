"""Skills: each turns a scene into one `Question`, in many wordings, or None if the scene does not allow it."""

from luq.pocket import facts
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
)  # fmt: skip
from luq.pocket.questions import (
    Question,
    Rng,
    Skill,
    choose,
    city_fact,
    clan_fact,
    count,
    one_of,
    others,
    person_fact,
    unique,
    word_fact,
)
from luq.pocket.world import COLOUR_NAMES, GRID, SHAPES, Scene


def exists(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, [i for i in scene.items if i.shape])
    if item is None:
        return None
    present = {i.name for i in scene.items}
    absent = [n for n in facts.clans() if n not in present]
    text = one_of(
        rng, "Which object can be seen in the image?", "Which of these is in the picture?"
    )
    claim = one_of(
        rng,
        "Is there a {} in the image?",
        "Is there a {} in this picture?",
        "Can you see a {} here?",
    )
    return Question(text, item.name, others(rng, absent, item.name), claim)


def count_shape(rng: Rng, scene: Scene) -> Question | None:
    shapes = sorted({i.shape for i in scene.items if i.shape})
    shape = str(rng.choice(shapes if shapes and rng.random() < 0.85 else SHAPES))
    return count(
        rng,
        sum(i.shape == shape for i in scene.items),
        f"{shape}{'es' if shape.endswith('s') else 's'}",
    )


def count_colour(rng: Rng, scene: Scene) -> Question | None:
    colour = str(rng.choice([i.colour for i in scene.items]))
    return count(rng, sum(i.colour == colour for i in scene.items), f"{colour} objects")


def count_all(rng: Rng, scene: Scene) -> Question | None:
    return count(rng, len(scene.items), "objects")


def colour_of(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, unique([i for i in scene.items if i.shape], lambda i: i.shape))
    if item is None:
        return None
    s = item.shape
    text = one_of(
        rng,
        f"What color is the {s}?",
        f"What is the color of the {s}?",
        f"Which color does the {s} have?",
    )
    return Question(text, item.colour, others(rng, COLOUR_NAMES, item.colour), f"Is the {s} {{}}?")


def shape_of(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, unique([i for i in scene.items if i.shape], lambda i: i.colour))
    if item is None or any(i.text and i.colour == item.colour for i in scene.items):
        return None
    c = item.colour
    text = one_of(
        rng, f"What shape is {c}?", f"What is the {c} object?", f"What shape is the {c} object?"
    )
    return Question(text, item.shape, others(rng, SHAPES, item.shape), f"Is the {c} object a {{}}?")


def position(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, unique([i for i in scene.items if i.shape], lambda i: i.name))
    if item is None:
        return None
    if rng.random() < 0.5:
        answer, wrong = ("top", "bottom") if item.row < GRID // 2 else ("bottom", "top")
    else:
        answer, wrong = ("left", "right") if item.col < GRID // 2 else ("right", "left")
    pair = " or ".join(sorted((answer, wrong)))
    text = one_of(
        rng, f"Is the {item.name} at the {pair}?", f"On which side is the {item.name}, {pair}?"
    )
    return Question(text, answer, [wrong], f"Is the {item.name} in the {{}} half of the image?")


def relation(rng: Rng, scene: Scene) -> Question | None:
    items = unique([i for i in scene.items if i.shape], lambda i: i.name)
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
    named = unique([i for i in scene.items if i.shape], lambda i: i.name)
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
        text = one_of(
            rng,
            f"What color is the object directly to the {side} of the {a.name}?",
            f"What is the color of the neighbor on the {side} of the {a.name}?",
        )
        claim = f"Is the object directly to the {side} of the {a.name} {{}}?"
        return Question(text, b.colour, others(rng, COLOUR_NAMES, b.colour), claim)
    text = one_of(
        rng,
        f"What shape is directly to the {side} of the {a.name}?",
        f"Which shape is next on the {side} of the {a.name}?",
    )
    claim = f"Is the object directly to the {side} of the {a.name} a {{}}?"
    return Question(text, b.shape, others(rng, SHAPES, b.shape), claim)


def read_line(rng: Rng, scene: Scene) -> Question | None:
    top, bottom = (i for i in scene.items if i.text)
    item, place = (top, "top") if rng.random() < 0.5 else (bottom, "bottom")
    text = one_of(
        rng,
        f"What is written at the {place}?",
        f"What does the {place} line say?",
        f"What is the {place} text on the sign?",
    )
    if top.colour != bottom.colour and rng.random() < 0.4:
        text = one_of(
            rng, f"What is written in {item.colour}?", f"What does the {item.colour} text say?"
        )
    pool = [facts.pick(rng, facts.people()) for _ in range(8)]
    if item.text.isdigit():
        pool = [str(rng.integers(10, 10000)) for _ in range(8)]
    return Question(text, item.text, others(rng, pool, item.text), "Is the text {} on the sign?")


def read_number(rng: Rng, scene: Scene) -> Question | None:
    if "number" not in scene.fields:
        return None
    number = scene.fields["number"]
    text = one_of(
        rng, "What number is on the sign?", "Which number can be read?", "What is the number?"
    )
    wrong = others(rng, [str(rng.integers(10, 10000)) for _ in range(8)], number)
    return Question(text, number, wrong, "Is the number {} on the sign?")


def read_name(rng: Rng, scene: Scene) -> Question | None:
    name = scene.fields["person"]
    text = one_of(
        rng,
        "Which person is named on the sign?",
        "What is the name of the person?",
        "Whose name is this?",
    )
    wrong = others(rng, [facts.pick(rng, facts.people()) for _ in range(8)], name)
    return Question(text, name, wrong, "Is the person on the sign {}?")


def person_on_sign(rng: Rng, scene: Scene) -> Question | None:
    who = one_of(rng, "the person on the sign", "the person named in the image")
    return person_fact(rng, scene.fields["person"], who)


def job_on_sign(rng: Rng, scene: Scene) -> Question | None:
    return person_fact(rng, scene.fields["person"], "the person on the sign", "job")


def word_on_sign(rng: Rng, scene: Scene) -> Question | None:
    word = scene.fields.get("word")
    return (
        word_fact(rng, word, one_of(rng, "the old word", "the word on the sign")) if word else None
    )


def city_on_sign(rng: Rng, scene: Scene) -> Question | None:
    city = scene.fields.get("city")
    return city_fact(rng, city, one_of(rng, "the city on the sign", "this city")) if city else None


def clan_of_emblem(rng: Rng, scene: Scene) -> Question | None:
    return clan_fact(rng, scene.items[0].name, "this emblem")


def scene_type(rng: Rng, scene: Scene) -> Question | None:
    names = {"objects": "shapes", "sign": "a sign", "digits": "handwriting", "chart": "a chart", "document": "a document",
             "emblem": "an emblem", "code": "a program"}  # fmt: skip
    text = one_of(rng, "What does the image show?", "What kind of picture is this?")
    return Question(
        text,
        names[scene.kind],
        others(rng, names.values(), names[scene.kind]),
        "Does the image show {}?",
    )


SKILLS: dict[str, tuple[Skill, ...]] = {  # scene kind -> what can be asked about it
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


HARD: frozenset[Skill] = frozenset({  # asked twice as often: two steps, or a place, a count or a comparison
    count_shape, count_colour, position, relation, neighbour, read_line, person_on_sign, digit_sum, digit_pair, bar_value,
    bar_extreme, bar_label, bar_arithmetic,
})  # fmt: skip


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
