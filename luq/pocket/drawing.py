"""Drawing the pocket world: items, masks and the canvas that writes down what each cell holds.

A picture is a 6 x 6 grid of 12-pixel cells, one cell per vision patch. Handwriting comes from
scikit-learn's `load_digits`; the last 500 digits of a fixed permutation are never drawn in the `train` split.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GRID, CELL = 6, 12
SIZE = GRID * CELL
COLOURS = {
    "red": (214, 39, 40),
    "green": (34, 139, 34),
    "blue": (31, 80, 200),
    "yellow": (226, 200, 10),
    "purple": (130, 50, 170),
    "orange": (245, 130, 20),
    "cyan": (20, 190, 210),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "arrow", "hourglass")
COLOUR_NAMES = tuple(COLOURS)
CHARACTERS = " ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=+-*:"
LABELS = {  # what the vision tower learns to name in each cell -> number of classes (0: none)
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "digit": 11,
    "left": len(CHARACTERS) + 1,
    "right": len(CHARACTERS) + 1,
    "height": 11,
}


@dataclass(frozen=True)
class Item:
    """One thing in a picture: a shape, a handwritten digit, a printed text or a bar."""

    row: int
    col: int
    colour: str = "black"
    shape: str = ""
    digit: int = -1
    text: str = ""
    value: int = 0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass
class Scene:
    """A picture and what it holds; `pixels` is uint8 [72, 72, 3], each label int [36]."""

    kind: str
    pixels: np.ndarray
    labels: dict[str, np.ndarray]
    items: list[Item] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


@lru_cache(maxsize=1)
def _shape_masks() -> dict[str, np.ndarray]:
    scale, masks = 8, {}
    n, lo, hi = CELL * scale, 2 * scale, 10 * scale
    mid = n // 2
    outlines = {
        "square": [(lo, lo), (hi, lo), (hi, hi), (lo, hi)],
        "triangle": [(mid, lo), (hi, hi), (lo, hi)],
        "diamond": [(mid, lo), (hi, mid), (mid, hi), (lo, mid)],
        "arrow": [
            (lo, mid - 8),
            (mid, mid - 8),
            (mid, lo),
            (hi, mid),
            (mid, hi),
            (mid, mid + 8),
            (lo, mid + 8),
        ],
        "hourglass": [(lo, lo), (hi, lo), (lo, hi), (hi, hi)],
    }
    for shape in SHAPES:
        canvas = Image.new("L", (n, n), 0)
        draw = ImageDraw.Draw(canvas)
        if shape in outlines:
            draw.polygon(outlines[shape], fill=255)
        elif shape == "cross":
            draw.rectangle([mid - 10, lo, mid + 10, hi], fill=255)
            draw.rectangle([lo, mid - 10, hi, mid + 10], fill=255)
        else:
            draw.ellipse([lo, lo, hi, hi], fill=255)
            if shape == "ring":
                draw.ellipse([lo + 20, lo + 20, hi - 20, hi - 20], fill=0)
        small = canvas.resize((CELL, CELL), Image.Resampling.BOX)
        masks[shape] = np.asarray(small, np.float32) / 255
    return masks


@lru_cache(maxsize=1)
def _glyphs() -> dict[str, np.ndarray]:
    font = ImageFont.load_default_imagefont()
    glyphs = {}
    for character in CHARACTERS:
        canvas = Image.new("L", (CELL // 2, CELL), 0)
        ImageDraw.Draw(canvas).text((0, 0), character, fill=255, font=font)
        glyphs[character] = np.asarray(canvas, np.float32) / 255
    return glyphs


@lru_cache(maxsize=1)
def _digits() -> dict[str, dict[int, np.ndarray]]:
    """Handwriting masks [n, 12, 12] by split and digit."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(20).permutation(len(data.target))
    splits: dict[str, dict[int, np.ndarray]] = {}
    for split, rows in (("train", order[:-500]), ("test", order[-500:])):
        masks = [
            np.asarray(
                Image.fromarray(np.uint8(im * 15.9)).resize((CELL, CELL), Image.Resampling.BILINEAR)
            )
            for im in data.images[rows]
        ]
        stack = np.stack(masks).astype(np.float32) / 255
        splits[split] = {d: stack[data.target[rows] == d] for d in range(10)}
    return splits


class Canvas:
    """Draws items on a lightly tinted background and writes down what each cell holds."""

    def __init__(self, rng: np.random.Generator, split: str):
        self.rng, self.split = rng, split
        tint = rng.integers(225, 256, 3)
        noise = rng.normal(0, 3, (SIZE, SIZE, 3))
        self.pixels = np.clip(tint + noise, 0, 255).astype(np.float32)
        self.labels = {name: np.zeros(GRID * GRID, np.int64) for name in LABELS}
        self.items: list[Item] = []

    def _paint(self, y: int, x: int, mask: np.ndarray, colour: str) -> None:
        h, w = mask.shape
        patch = self.pixels[y : y + h, x : x + w]
        ink = np.asarray(COLOURS[colour], np.float32) + self.rng.normal(0, 8, 3)
        patch[:] = patch * (1 - mask[..., None]) + ink * mask[..., None]

    def _label(self, row: int, col: int, **values: int) -> None:
        for name, value in values.items():
            self.labels[name][row * GRID + col] = value

    def shape(self, item: Item) -> None:
        mask = np.roll(_shape_masks()[item.shape], tuple(self.rng.integers(-1, 2, 2)), (0, 1))
        self._paint(item.row * CELL, item.col * CELL, mask, item.colour)
        self._label(
            item.row,
            item.col,
            shape=SHAPES.index(item.shape) + 1,
            colour=COLOUR_NAMES.index(item.colour) + 1,
        )
        self.items.append(item)

    def digit(self, item: Item) -> None:
        pool = _digits()[self.split][item.digit]
        self._paint(
            item.row * CELL, item.col * CELL, pool[self.rng.integers(len(pool))], item.colour
        )
        self._label(
            item.row, item.col, digit=item.digit + 1, colour=COLOUR_NAMES.index(item.colour) + 1
        )
        self.items.append(item)

    def text(self, item: Item) -> None:
        for i, character in enumerate(item.text):
            self._paint(
                item.row * CELL,
                item.col * CELL + i * (CELL // 2),
                _glyphs()[character],
                item.colour,
            )
            side = "left" if i % 2 == 0 else "right"
            self._label(item.row, item.col + i // 2, **{side: CHARACTERS.index(character) + 1})
        for i in range((len(item.text) + 1) // 2):
            self._label(item.row, item.col + i, colour=COLOUR_NAMES.index(item.colour) + 1)
        self.items.append(item)

    def bar(self, item: Item) -> None:
        """A bar of `value` half cells standing on row 4, its two-letter label in row 5."""
        height = item.value * (CELL // 2)
        mask = np.ones((height, CELL - 4), np.float32)
        self._paint((GRID - 1) * CELL - height, item.col * CELL + 2, mask, item.colour)
        colour = COLOUR_NAMES.index(item.colour) + 1
        for row in range(GRID - 1 - (item.value + 1) // 2, GRID):
            self._label(row, item.col, height=item.value, colour=colour)
        for side, character, x in (("left", item.text[0], 0), ("right", item.text[1], CELL // 2)):
            self._paint((GRID - 1) * CELL, item.col * CELL + x, _glyphs()[character], "black")
            self._label(GRID - 1, item.col, **{side: CHARACTERS.index(character) + 1})
        self.items.append(item)

    def scene(self, kind: str, **fields: str) -> Scene:
        pixels = np.clip(self.pixels, 0, 255).astype(np.uint8)
        return Scene(kind, pixels, self.labels, self.items, fields)
