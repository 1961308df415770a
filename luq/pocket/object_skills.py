"""Skills about coloured shapes: what is there, how many, and where. See `skills`."""

from luq.pocket import facts
from luq.pocket.drawing import GRID, Item, Scene
from luq.pocket.palette import COLOUR_NAMES, SHAPES
from luq.pocket.questions import (
    Question,
    Rng,
    choose,
    choose_two,
    clan_fact,
    count_question,
    distractors,
    one_of,
    unique,
)


def _shapes(scene: Scene) -> list[Item]:
    return [item for item in scene.items if item.shape]


def _uniquely_named(scene: Scene) -> list[Item]:
    return unique(_shapes(scene), lambda item: item.name)


def exists(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, _shapes(scene))
    if item is None:
        return None
    present = {present_item.name for present_item in scene.items}
    absent = [emblem for emblem in facts.clans() if emblem not in present]
    text = one_of(
        rng, "Which object can be seen in the image?", "Which of these is in the picture?"
    )
    claim = one_of(
        rng,
        "Is there a {} in the image?",
        "Is there a {} in this picture?",
        "Can you see a {} here?",
    )
    return Question(text, item.name, distractors(rng, absent, item.name), claim)


def count_shape(rng: Rng, scene: Scene) -> Question | None:
    present = sorted({item.shape for item in _shapes(scene)})
    pool = SHAPES
    if present and rng.random() < 0.85:  # in the other questions the answer may be 0
        pool = tuple(present)
    shape = str(rng.choice(pool))
    count = sum(item.shape == shape for item in scene.items)
    plural = shape + "es" if shape.endswith("s") else shape + "s"
    return count_question(rng, count, plural)


def count_colour(rng: Rng, scene: Scene) -> Question | None:
    colour = str(rng.choice([item.colour for item in scene.items]))
    count = sum(item.colour == colour for item in scene.items)
    return count_question(rng, count, f"{colour} objects")


def count_all(rng: Rng, scene: Scene) -> Question | None:
    return count_question(rng, len(scene.items), "objects")


def colour_of(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, unique(_shapes(scene), lambda item: item.shape))
    if item is None:
        return None
    shape = item.shape
    text = one_of(
        rng,
        f"What color is the {shape}?",
        f"What is the color of the {shape}?",
        f"Which color does the {shape} have?",
    )
    wrong_colours = distractors(rng, COLOUR_NAMES, item.colour)
    return Question(text, item.colour, wrong_colours, f"Is the {shape} {{}}?")


def shape_of(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, unique(_shapes(scene), lambda item: item.colour))
    if item is None:
        return None
    colour = item.colour
    printed_colours = {text_item.colour for text_item in scene.items if text_item.text}
    if colour in printed_colours:  # "the red object" could be the text
        return None
    text = one_of(
        rng,
        f"What shape is {colour}?",
        f"What is the {colour} object?",
        f"What shape is the {colour} object?",
    )
    wrong_shapes = distractors(rng, SHAPES, item.shape)
    return Question(text, item.shape, wrong_shapes, f"Is the {colour} object a {{}}?")


def position(rng: Rng, scene: Scene) -> Question | None:
    """In which half of the picture something is."""
    item = choose(rng, _uniquely_named(scene))
    if item is None:
        return None
    if rng.random() < 0.5:
        answer, opposite = "top", "bottom"
        coordinate = item.row
    else:
        answer, opposite = "left", "right"
        coordinate = item.col
    if coordinate >= GRID // 2:
        answer, opposite = opposite, answer
    sides = " or ".join(sorted((answer, opposite)))
    text = one_of(
        rng, f"Is the {item.name} at the {sides}?", f"On which side is the {item.name}, {sides}?"
    )
    claim = f"Is the {item.name} in the {{}} half of the image?"
    return Question(text, answer, [opposite], claim)


def relation(rng: Rng, scene: Scene) -> Question | None:
    """On which side of another object something is."""
    items = _uniquely_named(scene)
    if len(items) < 2:
        return None
    first, second = choose_two(rng, items)
    same_row = first.row == second.row
    same_col = first.col == second.col
    if same_row and same_col:
        return None
    if same_col or (not same_row and rng.random() < 0.5):
        answer, opposite = "above", "below"
        comes_first = first.row < second.row
    else:
        answer, opposite = "left", "right"
        comes_first = first.col < second.col
    if not comes_first:
        answer, opposite = opposite, answer
    sides = " or ".join(sorted((answer, opposite)))
    text = f"Where is the {first.name} relative to the {second.name}, {sides}?"
    claim = f"Is the {first.name} {{}} the {second.name}?"
    phrases = {"left": "to the left of", "right": "to the right of"}
    answer = phrases.get(answer, answer)
    opposite = phrases.get(opposite, opposite)
    return Question(text, answer, [opposite], claim)


def _side_by_side(scene: Scene) -> list[tuple[Item, Item]]:
    """Every uniquely named object with each of its left and right neighbours."""
    pairs = []
    for item in _uniquely_named(scene):
        for candidate in _shapes(scene):
            if item.row == candidate.row and abs(item.col - candidate.col) == 1:
                pairs.append((item, candidate))
    return pairs


def neighbour(rng: Rng, scene: Scene) -> Question | None:
    """What stands in the cell directly right or left of another object."""
    pairs = _side_by_side(scene)
    if not pairs:
        return None
    item, adjacent = pairs[int(rng.integers(len(pairs)))]
    side = "right" if adjacent.col > item.col else "left"
    if rng.random() < 0.5:
        text = one_of(
            rng,
            f"What color is the object directly to the {side} of the {item.name}?",
            f"What is the color of the neighbor on the {side} of the {item.name}?",
        )
        claim = f"Is the object directly to the {side} of the {item.name} {{}}?"
        wrong_colours = distractors(rng, COLOUR_NAMES, adjacent.colour)
        return Question(text, adjacent.colour, wrong_colours, claim)
    text = one_of(
        rng,
        f"What shape is directly to the {side} of the {item.name}?",
        f"Which shape is next on the {side} of the {item.name}?",
    )
    claim = f"Is the object directly to the {side} of the {item.name} a {{}}?"
    return Question(text, adjacent.shape, distractors(rng, SHAPES, adjacent.shape), claim)


def clan_of_emblem(rng: Rng, scene: Scene) -> Question | None:
    return clan_fact(rng, scene.items[0].name, "this emblem")
