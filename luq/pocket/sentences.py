"""What is to be seen in a picture, in English sentences.

A model that knows English is taught in it; the pocket models' own captions are lists (`skills`).
"""

from luq.pocket.drawing import Item, Scene
from luq.pocket.skills import SCENE_NAMES, in_reading_order

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _part(item: Item) -> str:
    """One thing as a part of a sentence about its row."""
    column = item.col + 1
    if item.text:
        return f"{item.text} in {item.colour} from column {column}"
    if item.digit >= 0:
        return f"{_with_article(item.colour)} {item.digit} in column {column}"
    return f"{_with_article(item.name)} in column {column}"


def description(scene: Scene) -> str:
    """The whole picture: what it shows, and then everything in it.

    Rows are ordinals and columns are numbers, as in `smol.words_of`.
    """
    sentences = [f"The image shows {SCENE_NAMES[scene.kind]}."]
    if scene.kind == "chart":
        for bar in in_reading_order(scene):
            sentences.append(f"The bar of {bar.text} is {bar.colour} and {bar.value} high.")
        return " ".join(sentences)
    if scene.kind == "document":
        sentences += [f"The {key} is {value}." for key, value in scene.fields.items()]
        return " ".join(sentences)
    rows: dict[int, list[Item]] = {}
    for item in in_reading_order(scene):
        rows.setdefault(item.row, []).append(item)
    for row, items in rows.items():
        parts = " and ".join(_part(item) for item in items)
        sentences.append(f"In the {ORDINALS[row]} row is {parts}.")
    return " ".join(sentences)
