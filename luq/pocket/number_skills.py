"""Skills about numbers: handwriting, bar charts, documents and short programs. See `skills`."""

from luq.pocket import facts
from luq.pocket.questions import Question, Rng, choose, count, near, one_of, others
from luq.pocket.world import COLOUR_NAMES, Item, Scene


def handwriting(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, scene.items)
    if item is None:
        return None
    text = one_of(
        rng,
        f"Which digit is written in {item.colour}?",
        f"What is the {item.colour} number?",
        f"What digit is {item.colour}?",
    )
    seen = {str(i.digit) for i in scene.items}
    wrong = [d for d in others(rng, range(10), str(item.digit), 9) if d not in seen][:3]
    return Question(text, str(item.digit), wrong, "Is the digit {} written in the image?")


def digit_sum(rng: Rng, scene: Scene) -> Question | None:
    total = sum(i.digit for i in scene.items)
    text = one_of(
        rng,
        "What is the sum of the digits?",
        "What do the digits add up to?",
        "What is the total of the numbers?",
    )
    return Question(text, str(total), near(rng, total), "Is the sum of the digits {}?")


def digit_pair(rng: Rng, scene: Scene) -> Question | None:
    a, b = (scene.items[int(i)] for i in rng.permutation(len(scene.items))[:2])
    if rng.random() < 0.5:
        value, text = a.digit + b.digit, f"What is the {a.colour} digit plus the {b.colour} digit?"
    else:
        value, text = a.digit * b.digit, f"What is the {a.colour} digit times the {b.colour} digit?"
    return Question(
        text, str(value), near(rng, value), text[:-1].replace("What is", "Is") + " equal to {}?"
    )


def digit_largest(rng: Rng, scene: Scene) -> Question | None:
    value = max(i.digit for i in scene.items)
    text = one_of(rng, "What is the largest digit?", "Which digit is the greatest?")
    return Question(
        text, str(value), others(rng, range(10), str(value)), "Is the largest digit {}?"
    )


def _bar_name(rng: Rng, item: Item) -> str:
    return f"the {item.colour} bar" if rng.random() < 0.5 else item.text


def bar_value(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, scene.items)
    assert item is not None
    name = _bar_name(rng, item)
    text = one_of(
        rng,
        f"What is the value of {name}?",
        f"How high is {name}?",
        f"What value does {name} have?",
    )
    return Question(
        text,
        str(item.value),
        others(rng, range(1, 11), str(item.value)),
        f"Is the value of {name} {{}}?",
    )


def bar_extreme(rng: Rng, scene: Scene) -> Question | None:
    high = rng.random() < 0.5
    item = (max if high else min)(scene.items, key=lambda i: i.value)
    if rng.random() < 0.5:
        text = one_of(rng, "What color is the {} bar?", "Which color has the {} bar?").format(
            "highest" if high else "lowest"
        )
        wrong = others(rng, [i.colour for i in scene.items], item.colour)
        return Question(
            text, item.colour, wrong, f"Is the {'highest' if high else 'lowest'} bar {{}}?"
        )
    text = one_of(rng, "Which country has the {} value?", "Which country is {}?").format(
        "highest" if high else "lowest"
    )
    wrong = others(rng, [i.text for i in scene.items], item.text)
    return Question(text, item.text, wrong, f"Is {{}} the {'highest' if high else 'lowest'}?")


def bar_label(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, scene.items)
    assert item is not None
    if rng.random() < 0.5:
        text = one_of(
            rng,
            f"Which country is the {item.colour} bar?",
            f"What is the label of the {item.colour} bar?",
        )
        wrong = others(rng, facts.COUNTRY_CODES, item.text)
        return Question(text, item.text, wrong, f"Is the {item.colour} bar {{}}?")
    text = one_of(
        rng, f"What color is the bar of {item.text}?", f"What is the color of {item.text}?"
    )
    return Question(
        text,
        item.colour,
        others(rng, COLOUR_NAMES, item.colour),
        f"Is the bar of {item.text} {{}}?",
    )


def bar_arithmetic(rng: Rng, scene: Scene) -> Question | None:
    a, b = (scene.items[int(i)] for i in rng.permutation(len(scene.items))[:2])
    if a.value < b.value:
        a, b = b, a
    x, y = _bar_name(rng, a), _bar_name(rng, b)
    if rng.random() < 0.5:
        value, what = a.value + b.value, f"the sum of {x} and {y}"
    else:
        value, what = a.value - b.value, f"the difference between {x} and {y}"
    return Question(f"What is {what}?", str(value), near(rng, value), f"Is {what} {{}}?")


def bar_count(rng: Rng, scene: Scene) -> Question | None:
    return count(rng, len(scene.items), "bars")


def document_field(rng: Rng, scene: Scene) -> Question | None:
    key = facts.pick(rng, scene.fields)
    text = one_of(
        rng,
        f"What is the {key.lower()}?",
        f"What is written after {key}?",
        f"Which {key.lower()} is given?",
        f"What {key.lower()} does the document show?",
    )
    wrong = (
        facts.document_fields(rng, 10)[key],
        facts.document_fields(rng, 10)[key],
        facts.document_fields(rng, 10)[key],
    )
    return Question(
        text,
        scene.fields[key],
        others(rng, wrong, scene.fields[key]),
        f"Is the {key.lower()} {{}}?",
    )


def document_key(rng: Rng, scene: Scene) -> Question | None:
    key = facts.pick(rng, scene.fields)
    value = scene.fields[key]
    text = one_of(
        rng, f"Which field holds {value}?", f"What is the name of the field with {value}?"
    )
    return Question(
        text, key, others(rng, facts.document_fields(rng, 10), key), f"Is {value} the {{}}?"
    )


def code_result(rng: Rng, scene: Scene) -> Question | None:
    value = int(scene.fields["result"])
    text = one_of(
        rng, "What is the value of B?", "What is B after this code runs?", "What does B equal?"
    )
    return Question(text, str(value), near(rng, max(value, 0)), "Is B equal to {} in the code?")
