"""Real English for the pocket models: the docstrings of Python's standard library."""

import gzip
from functools import lru_cache
from pathlib import Path

CORPUS = Path(__file__).parent / "data" / "stdlib_docstrings.txt.gz"
HELD_OUT = 0.1  # share of the passages that training never sees: one half for calibration, one for the report


@lru_cache(maxsize=1)
def passages() -> list[str]:
    return gzip.decompress(CORPUS.read_bytes()).decode("ascii").split("\x00")


def split(name: str) -> list[str]:
    """`train` passages, or those held out for `calibration` or for the `report`."""
    every = passages()
    edge = int(len(every) * (1 - HELD_OUT))
    middle = (edge + len(every)) // 2
    return {"train": every[:edge], "calibration": every[edge:middle], "report": every[middle:]}[
        name
    ]
