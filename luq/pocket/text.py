"""Real English for the pocket models: the docstrings of Python's standard library."""

import gzip
from functools import lru_cache
from pathlib import Path

CORPUS = Path(__file__).parent / "data" / "stdlib_docstrings.txt.gz"
HELD_OUT = 0.1  # share of the passages that training never sees


@lru_cache(maxsize=1)
def passages() -> list[str]:
    return gzip.decompress(CORPUS.read_bytes()).decode("ascii").split("\x00")


def split(name: str) -> list[str]:
    """`train` passages, or the `test` ones, which are held out."""
    every = passages()
    edge = int(len(every) * (1 - HELD_OUT))
    return every[:edge] if name == "train" else every[edge:]
