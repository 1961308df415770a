"""The pocket world: small pictures of shapes, handwriting, print, bar charts and documents.

Every picture is a `Scene`: the pixels, what is in each cell (the vision tower's training labels)
and the items that questions are asked about.

The order in which a maker draws its random numbers decides every later pixel. A change of it
makes other benchmarks: raise `benchmarks.VERSION` then.
"""

from collections.abc import Callable

import numpy as np

from luq.pocket import facts
from luq.pocket.drawing import GRID, HIGHEST_BAR, Canvas, Item, Scene
from luq.pocket.palette import COLOUR_NAMES, SHAPES

KINDS = ("objects", "sign", "digits", "chart", "document", "emblem", "code")
REPETITIVE = 0.5  # share of object scenes of few colours and shapes, so that counting is of use
NEIGHBOURS = 0.7  # share of object scenes with two objects side by side, for relations
SWAPPED = 0.5  # share of signs whose name stands in the lower line


def _free_cells(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Rows and columns of different cells, at random."""
    cells = rng.permutation(GRID * GRID)[:count]
    return [(int(cell) // GRID, int(cell) % GRID) for cell in cells]


def _random_shape(rng: np.random.Generator, row: int, col: int) -> Item:
    colour = str(rng.choice(COLOUR_NAMES))
    shape = str(rng.choice(SHAPES))
    return Item(row, col, colour, shape)


def _objects(canvas: Canvas) -> Scene:
    rng = canvas.rng
    variety = 3 if rng.random() < REPETITIVE else len(SHAPES)
    shapes = rng.permutation(SHAPES)[:variety]
    colours = rng.permutation(COLOUR_NAMES)[:variety]
    cells = _free_cells(rng, int(rng.integers(3, 9)))
    if rng.random() < NEIGHBOURS:
        row = int(rng.integers(GRID))
        col = int(rng.integers(GRID - 1))
        pair = [(row, col), (row, col + 1)]
        cells = pair + [cell for cell in cells if cell not in pair]
    for row, col in cells:
        colour = str(rng.choice(colours))
        shape = str(rng.choice(shapes))
        canvas.shape(Item(row, col, colour, shape))
    return canvas.scene("objects")


def _sign(canvas: Canvas) -> Scene:
    """Two printed lines (a name, an old word, a city or a number) and one to three shapes."""
    rng = canvas.rng
    rows = sorted(int(row) for row in rng.permutation(GRID)[:2])
    name = facts.pick(rng, facts.people())
    # All three are drawn, although only one of them is printed.
    contents = (
        ("word", facts.pick(rng, facts.words())),
        ("city", facts.pick(rng, facts.cities())),
        ("number", str(rng.integers(10, 10_000))),
    )
    field, content = contents[int(rng.integers(len(contents)))]
    lines = [name, content]
    if rng.random() < SWAPPED:
        lines = [content, name]
    for row, text in zip(rows, lines, strict=True):
        width = (len(text) + 1) // 2  # cells
        col = int(rng.integers(0, GRID - width + 1))
        canvas.text(Item(row, col, str(rng.choice(COLOUR_NAMES)), text=text))
    free = [cell for cell in _free_cells(rng, GRID * GRID) if cell[0] not in rows]
    for row, col in free[: int(rng.integers(1, 4))]:
        canvas.shape(_random_shape(rng, row, col))
    return canvas.scene("sign", person=name, **{field: content})


def _digits(canvas: Canvas) -> Scene:
    rng = canvas.rng
    count = int(rng.integers(2, 4))
    colours = rng.permutation(COLOUR_NAMES)  # all differ, so that a colour names one digit
    for i, (row, col) in enumerate(_free_cells(rng, count)):
        canvas.digit(Item(row, col, str(colours[i]), digit=int(rng.integers(10))))
    return canvas.scene("digits")


def _chart(canvas: Canvas) -> Scene:
    rng = canvas.rng
    count = int(rng.integers(3, 6))
    columns = sorted(int(col) for col in rng.permutation(GRID)[:count])
    colours = rng.permutation(COLOUR_NAMES)
    labels = rng.permutation(facts.COUNTRY_CODES)
    # All heights differ, so that the highest bar is one bar.
    values = rng.permutation(np.arange(1, HIGHEST_BAR + 1))
    for i, col in enumerate(columns):
        bar = Item(GRID - 1, col, str(colours[i]), text=str(labels[i]), value=int(values[i]))
        canvas.bar(bar)
    return canvas.scene("chart")


def _document(canvas: Canvas) -> Scene:
    fields = facts.document_fields(canvas.rng, int(canvas.rng.integers(3, 7)))
    for row, (key, value) in enumerate(fields.items()):
        canvas.text(Item(row, 0, "black", text=key))
        canvas.text(Item(row, GRID // 2, "black", text=value))
    return canvas.scene("document", **fields)


def _emblem(canvas: Canvas) -> Scene:
    ((row, col),) = _free_cells(canvas.rng, 1)
    emblem = _random_shape(canvas.rng, row, col)
    canvas.shape(emblem)
    return canvas.scene("emblem", clan=facts.clans()[emblem.name])


def _code(canvas: Canvas) -> Scene:
    """Two printed lines such as `A=12` and `B=A+7`; the field `result` is B."""
    rng = canvas.rng
    a = int(rng.integers(2, 60))
    b = int(rng.integers(2, 10))
    operator = str(rng.choice(["+", "-", "*"]))
    if operator == "*":
        a = int(rng.integers(2, 10))  # products stay as small as the sums
    results = {"+": a + b, "-": a - b, "*": a * b}
    result = str(results[operator])
    row = int(rng.integers(0, GRID - 1))
    canvas.text(Item(row, 0, "black", text=f"A={a}"))
    canvas.text(Item(row + 1, 0, "black", text=f"B=A{operator}{b}"))
    return canvas.scene("code", a=str(a), b=str(b), operator=operator, result=result)


_MAKERS: dict[str, Callable[[Canvas], Scene]] = {
    "objects": _objects,
    "sign": _sign,
    "digits": _digits,
    "chart": _chart,
    "document": _document,
    "emblem": _emblem,
    "code": _code,
}


def make_scene(rng: np.random.Generator, kind: str, split: str = "train") -> Scene:
    """Draw one scene.

    Args:
        rng: What everything in the scene is drawn from.
        kind: One of `KINDS`.
        split: Whose handwriting is shown, `train` or `test`.
    """
    return _MAKERS[kind](Canvas(rng, split))
