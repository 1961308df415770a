"""Drawing the pocket world: items, masks and the canvas that writes down what each cell holds.

A picture is a 6 x 6 grid of 12-pixel cells, one cell per vision patch. Handwriting comes from
scikit-learn's `load_digits`; the last 500 digits of a fixed permutation are never drawn in the
`train` split.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from luq.pocket.palette import COLOUR_NAMES, COLOURS, SHAPES

GRID = 6  # cells per side
CELL = 12  # pixels per side of a cell
SIZE = GRID * CELL
HALF = CELL // 2  # width of a printed character and height of one unit of a bar
CHARACTERS = " ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=+-*:"
HIGHEST_BAR = 10
# What the vision tower learns to name in each cell -> number of classes. Class 0: there is none.
LABELS = {
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "digit": 10 + 1,
    "left": len(CHARACTERS) + 1,
    "right": len(CHARACTERS) + 1,
    "height": HIGHEST_BAR + 1,
}

TINT = (225, 256)  # range of the background's three channels
PAPER_NOISE = 3.0  # standard deviation of a background pixel, in grey levels
INK_NOISE = 8.0  # standard deviation of an item's colour, in grey levels
BAR_MARGIN = 2  # pixels left free on either side of a bar

HELD_OUT_DIGITS = 500
DIGITS_SEED = 20
DIGIT_SCALE = 15.9  # load_digits counts ink from 0 to 16: 16 becomes 254, which a byte holds

# Shapes are drawn in cells of 96 x 96 pixels and then averaged, which makes their edges smooth.
OVERSAMPLING = 8
FINE_CELL = CELL * OVERSAMPLING
LOW = 2 * OVERSAMPLING
HIGH = 10 * OVERSAMPLING
MIDDLE = FINE_CELL // 2
HALF_SHAFT = 8  # of the arrow
HALF_BEAM = 10  # of the cross
RING_WIDTH = 20
OUTLINES = {
    "square": [(LOW, LOW), (HIGH, LOW), (HIGH, HIGH), (LOW, HIGH)],
    "triangle": [(MIDDLE, LOW), (HIGH, HIGH), (LOW, HIGH)],
    "diamond": [(MIDDLE, LOW), (HIGH, MIDDLE), (MIDDLE, HIGH), (LOW, MIDDLE)],
    "arrow": [
        (LOW, MIDDLE - HALF_SHAFT),
        (MIDDLE, MIDDLE - HALF_SHAFT),
        (MIDDLE, LOW),
        (HIGH, MIDDLE),
        (MIDDLE, HIGH),
        (MIDDLE, MIDDLE + HALF_SHAFT),
        (LOW, MIDDLE + HALF_SHAFT),
    ],
    "hourglass": [(LOW, LOW), (HIGH, LOW), (LOW, HIGH), (HIGH, HIGH)],
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
        """Colour and shape, as questions call it: "red circle"."""
        return f"{self.colour} {self.shape}"


@dataclass
class Scene:
    """A picture and what it holds.

    Attributes:
        kind: One of `world.KINDS`.
        pixels: The picture, [72, 72, 3].
        labels: Name of a label -> class in each cell, row by row, [36].
        items: What questions are asked about.
        fields: What the picture says in words or in print, such as the name on a sign.
    """

    kind: str
    pixels: NDArray[np.uint8]
    labels: dict[str, NDArray[np.int64]]
    items: list[Item] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str) -> None:
    if shape in OUTLINES:
        draw.polygon(OUTLINES[shape], fill=255)
    elif shape == "cross":
        draw.rectangle([MIDDLE - HALF_BEAM, LOW, MIDDLE + HALF_BEAM, HIGH], fill=255)
        draw.rectangle([LOW, MIDDLE - HALF_BEAM, HIGH, MIDDLE + HALF_BEAM], fill=255)
    else:
        draw.ellipse([LOW, LOW, HIGH, HIGH], fill=255)
    if shape == "ring":
        inner_low = LOW + RING_WIDTH
        inner_high = HIGH - RING_WIDTH
        draw.ellipse([inner_low, inner_low, inner_high, inner_high], fill=0)


@lru_cache(maxsize=1)
def _shape_masks() -> dict[str, NDArray[np.float32]]:
    """Shape -> share of ink in each pixel, [12, 12]."""
    masks = {}
    for shape in SHAPES:
        large = Image.new("L", (FINE_CELL, FINE_CELL), 0)
        _draw_shape(ImageDraw.Draw(large), shape)
        small = large.resize((CELL, CELL), Image.Resampling.BOX)
        masks[shape] = np.asarray(small, np.float32) / np.float32(255)
    return masks


@lru_cache(maxsize=1)
def _glyphs() -> dict[str, NDArray[np.float32]]:
    """Character -> share of ink in each pixel, [12, 6]."""
    font = ImageFont.load_default_imagefont()
    glyphs = {}
    for character in CHARACTERS:
        canvas = Image.new("L", (HALF, CELL), 0)
        ImageDraw.Draw(canvas).text((0, 0), character, fill=255, font=font)
        glyphs[character] = np.asarray(canvas, np.float32) / np.float32(255)
    return glyphs


def _digit_mask(ink: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One 8 x 8 image of `load_digits` at the size of a cell, [12, 12]."""
    image = Image.fromarray(np.uint8(ink * DIGIT_SCALE))
    return np.asarray(image.resize((CELL, CELL), Image.Resampling.BILINEAR))


@lru_cache(maxsize=1)
def handwriting_masks() -> dict[str, dict[int, NDArray[np.float32]]]:
    """Split (`train` or `test`) -> digit -> share of ink in each pixel, [n, 12, 12]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(DIGITS_SEED).permutation(len(data.target))
    rows_of_split = {"train": order[:-HELD_OUT_DIGITS], "test": order[-HELD_OUT_DIGITS:]}
    splits = {}
    for split, rows in rows_of_split.items():
        masks = [_digit_mask(ink) for ink in data.images[rows]]
        stack = np.stack(masks).astype(np.float32) / 255
        splits[split] = {digit: stack[data.target[rows] == digit] for digit in range(10)}
    return splits


def _colour_class(colour: str) -> int:
    return COLOUR_NAMES.index(colour) + 1


class Canvas:
    """Draws items on a lightly tinted background and writes down what each cell holds."""

    def __init__(self, rng: np.random.Generator, split: str):
        self.rng = rng
        self.split = split
        tint = rng.integers(*TINT, 3)
        noise = rng.normal(0, PAPER_NOISE, (SIZE, SIZE, 3))
        self.pixels = np.clip(tint + noise, 0, 255).astype(np.float32)
        self.labels = {name: np.zeros(GRID * GRID, np.int64) for name in LABELS}
        self.items: list[Item] = []

    def _paint(self, y: int, x: int, mask: NDArray[np.float32], colour: str) -> None:
        """Lay ink over the paper; (x, y) is the mask's upper left pixel."""
        height, width = mask.shape
        patch = self.pixels[y : y + height, x : x + width]
        ink = np.asarray(COLOURS[colour], np.float32) + self.rng.normal(0, INK_NOISE, 3)
        cover = mask[..., None]  # 1 where the ink covers the paper wholly
        patch[:] = patch * (1 - cover) + ink * cover

    def _label(self, row: int, col: int, **classes: int) -> None:
        for name, value in classes.items():
            self.labels[name][row * GRID + col] = value

    def _glyph(self, row: int, col: int, side: str, character: str, colour: str) -> None:
        """Print one character into the `left` or the `right` half of a cell."""
        x = col * CELL if side == "left" else col * CELL + HALF
        self._paint(row * CELL, x, _glyphs()[character], colour)
        self._label(row, col, **{side: CHARACTERS.index(character) + 1})

    def shape(self, item: Item) -> None:
        # A shape stands up to one pixel off the middle of its cell.
        shift = self.rng.integers(-1, 2, 2)
        mask = np.roll(_shape_masks()[item.shape], tuple(shift), (0, 1))
        self._paint(item.row * CELL, item.col * CELL, mask, item.colour)
        shape_class = SHAPES.index(item.shape) + 1
        self._label(item.row, item.col, shape=shape_class, colour=_colour_class(item.colour))
        self.items.append(item)

    def digit(self, item: Item) -> None:
        pool = handwriting_masks()[self.split][item.digit]
        mask = pool[self.rng.integers(len(pool))]
        self._paint(item.row * CELL, item.col * CELL, mask, item.colour)
        self._label(item.row, item.col, digit=item.digit + 1, colour=_colour_class(item.colour))
        self.items.append(item)

    def text(self, item: Item) -> None:
        """Print two characters a cell, from the item's cell to the right."""
        for i, character in enumerate(item.text):
            side = "left" if i % 2 == 0 else "right"
            col = item.col + i // 2
            self._glyph(item.row, col, side, character, item.colour)
            self._label(item.row, col, colour=_colour_class(item.colour))
        self.items.append(item)

    def bar(self, item: Item) -> None:
        """A bar of `value` half cells standing on row 4, its two-letter label in row 5."""
        ground = GRID - 1  # the row of the label
        height = item.value * HALF
        mask = np.ones((height, CELL - 2 * BAR_MARGIN), np.float32)
        self._paint(ground * CELL - height, item.col * CELL + BAR_MARGIN, mask, item.colour)
        highest_row = ground - (item.value + 1) // 2
        for row in range(highest_row, GRID):
            self._label(row, item.col, height=item.value, colour=_colour_class(item.colour))
        self._glyph(ground, item.col, "left", item.text[0], "black")
        self._glyph(ground, item.col, "right", item.text[1], "black")
        self.items.append(item)

    def scene(self, kind: str, **fields: str) -> Scene:
        """The finished picture."""
        pixels = np.clip(self.pixels, 0, 255).astype(np.uint8)
        return Scene(kind, pixels, self.labels, self.items, fields)
