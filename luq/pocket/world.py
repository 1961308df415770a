"""The pocket world: small pictures of shapes, handwriting, print, bar charts and documents.

Every picture is a `Scene`: the pixels, what is in each cell (the vision tower's training labels) and the
items that questions are asked about.
"""

import numpy as np

from luq.pocket import facts
from luq.pocket.drawing import CELL, COLOUR_NAMES, GRID, LABELS, SHAPES, SIZE, Canvas, Item, Scene

KINDS = ("objects", "sign", "digits", "chart", "document", "emblem", "code")
__all__ = [
    "CELL",
    "COLOUR_NAMES",
    "GRID",
    "KINDS",
    "LABELS",
    "SHAPES",
    "SIZE",
    "Item",
    "Scene",
    "make_scene",
]


def _free_cells(rng: np.random.Generator, n: int, rows: int = GRID) -> list[tuple[int, int]]:
    return [(int(c) // GRID, int(c) % GRID) for c in rng.permutation(rows * GRID)[:n]]


def _objects(canvas: Canvas) -> Scene:
    rng = canvas.rng
    popular = rng.random() < 0.5  # half of the scenes repeat colours and shapes, for counting
    shapes = rng.permutation(SHAPES)[: 3 if popular else 8]
    colours = rng.permutation(COLOUR_NAMES)[: 3 if popular else 8]
    cells = _free_cells(rng, int(rng.integers(3, 9)))
    if rng.random() < 0.7:  # neighbours, for relations
        row, col = int(rng.integers(GRID)), int(rng.integers(GRID - 1))
        cells = [(row, col), (row, col + 1)] + [
            c for c in cells if c not in ((row, col), (row, col + 1))
        ]
    for row, col in cells:
        canvas.shape(Item(row, col, str(rng.choice(colours)), str(rng.choice(shapes))))
    return canvas.scene("objects")


def _sign(canvas: Canvas) -> Scene:
    """Two printed lines (a name, an old word, a city or a number) and two or three shapes."""
    rng = canvas.rng
    rows = sorted(int(r) for r in rng.permutation(GRID)[:2])
    name = facts.pick(rng, facts.people())
    other = (
        facts.pick(rng, facts.words()),
        facts.pick(rng, facts.cities()),
        str(rng.integers(10, 10000)),
    )
    kind = int(rng.integers(3))
    lines = [name, other[kind]]
    swap = rng.random() < 0.5
    for row, text in zip(rows, lines[::-1] if swap else lines, strict=True):
        col = int(rng.integers(0, GRID - (len(text) + 1) // 2 + 1))
        canvas.text(Item(row, col, str(rng.choice(COLOUR_NAMES)), text=text))
    free = [c for c in _free_cells(rng, 36) if c[0] not in rows]
    for row, col in free[: int(rng.integers(1, 4))]:
        canvas.shape(Item(row, col, str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPES))))
    return canvas.scene("sign", person=name, **{("word", "city", "number")[kind]: lines[1]})


def _digit_scene(canvas: Canvas) -> Scene:
    rng = canvas.rng
    n = int(rng.integers(2, 4))
    colours = rng.permutation(COLOUR_NAMES)
    for i, (row, col) in enumerate(_free_cells(rng, n)):
        canvas.digit(Item(row, col, str(colours[i]), digit=int(rng.integers(10))))
    return canvas.scene("digits")


def _chart(canvas: Canvas) -> Scene:
    rng = canvas.rng
    n = int(rng.integers(3, 6))
    columns = sorted(int(c) for c in rng.permutation(GRID)[:n])
    colours = rng.permutation(COLOUR_NAMES)
    labels = rng.permutation(facts.COUNTRY_CODES)
    values = rng.permutation(np.arange(1, 11))  # all heights differ, so the highest is unique
    for i, col in enumerate(columns):
        canvas.bar(Item(GRID - 1, col, str(colours[i]), text=str(labels[i]), value=int(values[i])))
    return canvas.scene("chart")


def _document(canvas: Canvas) -> Scene:
    rng = canvas.rng
    fields = facts.document_fields(rng, int(rng.integers(3, 7)))
    for row, (key, value) in enumerate(fields.items()):
        canvas.text(Item(row, 0, "black", text=key))
        canvas.text(Item(row, 3, "black", text=value))
    return canvas.scene("document", **fields)


def _emblem(canvas: Canvas) -> Scene:
    rng = canvas.rng
    ((row, col),) = _free_cells(rng, 1)
    canvas.shape(Item(row, col, str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPES))))
    return canvas.scene("emblem", clan=facts.clans()[canvas.items[0].name])


def _code(canvas: Canvas) -> Scene:
    """Two printed lines such as `A=12` and `B=A+7`; `result` is B."""
    rng = canvas.rng
    a, b, operator = (
        int(rng.integers(2, 60)),
        int(rng.integers(2, 10)),
        str(rng.choice(list("+-*"))),
    )
    if operator == "*":
        a = int(rng.integers(2, 10))
    result = {"+": a + b, "-": a - b, "*": a * b}[operator]
    row = int(rng.integers(0, GRID - 1))
    canvas.text(Item(row, 0, "black", text=f"A={a}"))
    canvas.text(Item(row + 1, 0, "black", text=f"B=A{operator}{b}"))
    return canvas.scene("code", a=str(a), b=str(b), operator=operator, result=str(result))


_MAKERS = {
    "objects": _objects,
    "sign": _sign,
    "digits": _digit_scene,
    "chart": _chart,
    "document": _document,
    "emblem": _emblem,
    "code": _code,
}


def make_scene(rng: np.random.Generator, kind: str, split: str = "train") -> Scene:
    """Draw one scene of `kind`; `split` chooses the handwriting pool (`train` or `test`)."""
    return _MAKERS[kind](Canvas(rng, split))
