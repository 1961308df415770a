"""The colours and shapes of the pocket world."""

COLOURS = {  # name -> red, green, blue
    "red": (214, 39, 40),
    "green": (34, 139, 34),
    "blue": (31, 80, 200),
    "yellow": (226, 200, 10),
    "purple": (130, 50, 170),
    "orange": (245, 130, 20),
    "cyan": (20, 190, 210),
    "black": (20, 20, 20),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "diamond",
    "cross",
    "ring",
    "arrow",
    "hourglass",
)
