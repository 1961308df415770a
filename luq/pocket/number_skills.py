"""Skills about numbers: handwriting, bar charts, documents and short programs. See `skills`."""

from luq.pocket import facts
from luq.pocket.drawing import HIGHEST_BAR, Item, Scene
from luq.pocket.palette import COLOUR_NAMES
from luq.pocket.questions import (
    Question,
    Rng,
    choose,
    choose_two,
    count_question,
    distractors,
    near_numbers,
    one_of,
)


def handwriting(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, scene.items)
    if item is None:
        return None
    digit = str(item.digit)
    text = one_of(
        rng,
        f"Which digit is written in {item.colour}?",
        f"What is the {item.colour} number?",
        f"What digit is {item.colour}?",
    )
    # The claim names no colour, so that every digit in the picture would be right.
    present = {str(written.digit) for written in scene.items}
    candidates = distractors(rng, range(10), digit, count=9)
    absent = [candidate for candidate in candidates if candidate not in present]
    return Question(text, digit, absent[:3], "Is the digit {} written in the image?")


def digit_sum(rng: Rng, scene: Scene) -> Question | None:
    total = sum(item.digit for item in scene.items)
    text = one_of(
        rng,
        "What is the sum of the digits?",
        "What do the digits add up to?",
        "What is the total of the numbers?",
    )
    return Question(text, str(total), near_numbers(rng, total), "Is the sum of the digits {}?")


def digit_pair(rng: Rng, scene: Scene) -> Question | None:
    first, second = choose_two(rng, scene.items)
    if rng.random() < 0.5:
        operator = "plus"
        result = first.digit + second.digit
    else:
        operator = "times"
        result = first.digit * second.digit
    term = f"the {first.colour} digit {operator} the {second.colour} digit"
    wrong_results = near_numbers(rng, result)
    return Question(f"What is {term}?", str(result), wrong_results, f"Is {term} equal to {{}}?")


def digit_largest(rng: Rng, scene: Scene) -> Question | None:
    largest = str(max(item.digit for item in scene.items))
    text = one_of(rng, "What is the largest digit?", "Which digit is the greatest?")
    wrong_digits = distractors(rng, range(10), largest)
    return Question(text, largest, wrong_digits, "Is the largest digit {}?")


def _bar_name(rng: Rng, item: Item) -> str:
    return f"the {item.colour} bar" if rng.random() < 0.5 else item.text


def bar_value(rng: Rng, scene: Scene) -> Question | None:
    item = choose(rng, scene.items)
    if item is None:
        return None
    name = _bar_name(rng, item)
    value = str(item.value)
    text = one_of(
        rng,
        f"What is the value of {name}?",
        f"How high is {name}?",
        f"What value does {name} have?",
    )
    wrong_values = distractors(rng, range(1, HIGHEST_BAR + 1), value)
    return Question(text, value, wrong_values, f"Is the value of {name} {{}}?")


def bar_extreme(rng: Rng, scene: Scene) -> Question | None:
    """Colour or label of the highest or of the lowest bar."""
    by_value = sorted(scene.items, key=lambda item: item.value)
    item = by_value[0]
    extreme = "lowest"
    if rng.random() < 0.5:
        item = by_value[-1]
        extreme = "highest"
    if rng.random() < 0.5:
        text = one_of(
            rng, f"What color is the {extreme} bar?", f"Which color has the {extreme} bar?"
        )
        wrong_colours = distractors(rng, [bar.colour for bar in scene.items], item.colour)
        return Question(text, item.colour, wrong_colours, f"Is the {extreme} bar {{}}?")
    text = one_of(rng, f"Which country has the {extreme} value?", f"Which country is {extreme}?")
    wrong_labels = distractors(rng, [bar.text for bar in scene.items], item.text)
    return Question(text, item.text, wrong_labels, f"Is {{}} the {extreme}?")


def bar_label(rng: Rng, scene: Scene) -> Question | None:
    """Label of a bar by its colour, or colour by its label."""
    item = choose(rng, scene.items)
    if item is None:
        return None
    colour = item.colour
    label = item.text
    if rng.random() < 0.5:
        text = one_of(
            rng,
            f"Which country is the {colour} bar?",
            f"What is the label of the {colour} bar?",
        )
        wrong_labels = distractors(rng, facts.COUNTRY_CODES, label)
        return Question(text, label, wrong_labels, f"Is the {colour} bar {{}}?")
    text = one_of(rng, f"What color is the bar of {label}?", f"What is the color of {label}?")
    wrong_colours = distractors(rng, COLOUR_NAMES, colour)
    return Question(text, colour, wrong_colours, f"Is the bar of {label} {{}}?")


def bar_arithmetic(rng: Rng, scene: Scene) -> Question | None:
    higher, lower = choose_two(rng, scene.items)
    if higher.value < lower.value:
        higher, lower = lower, higher
    higher_name = _bar_name(rng, higher)
    lower_name = _bar_name(rng, lower)
    if rng.random() < 0.5:
        result = higher.value + lower.value
        term = f"the sum of {higher_name} and {lower_name}"
    else:
        result = higher.value - lower.value
        term = f"the difference between {higher_name} and {lower_name}"
    wrong_results = near_numbers(rng, result)
    return Question(f"What is {term}?", str(result), wrong_results, f"Is {term} {{}}?")


def bar_count(rng: Rng, scene: Scene) -> Question | None:
    return count_question(rng, len(scene.items), "bars")


def document_field(rng: Rng, scene: Scene) -> Question | None:
    key = facts.pick(rng, scene.fields)
    value = scene.fields[key]
    name = key.lower()
    text = one_of(
        rng,
        f"What is the {name}?",
        f"What is written after {key}?",
        f"Which {name} is given?",
        f"What {name} does the document show?",
    )
    # Values of the same field in three other documents, which have all the fields.
    count = len(facts.DOCUMENT_KEYS)
    pool = [facts.document_fields(rng, count)[key] for _ in range(3)]
    return Question(text, value, distractors(rng, pool, value), f"Is the {name} {{}}?")


def document_key(rng: Rng, scene: Scene) -> Question | None:
    key = facts.pick(rng, scene.fields)
    value = scene.fields[key]
    text = one_of(
        rng, f"Which field holds {value}?", f"What is the name of the field with {value}?"
    )
    pool = facts.document_fields(rng, len(facts.DOCUMENT_KEYS))
    return Question(text, key, distractors(rng, pool, key), f"Is {value} the {{}}?")


def code_result(rng: Rng, scene: Scene) -> Question | None:
    result = int(scene.fields["result"])
    text = one_of(
        rng, "What is the value of B?", "What is B after this code runs?", "What does B equal?"
    )
    wrong_results = near_numbers(rng, max(result, 0))
    return Question(text, str(result), wrong_results, "Is B equal to {} in the code?")
