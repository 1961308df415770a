"""Real English for the pocket models: the docstrings of Python's standard library."""

import gzip
from functools import lru_cache
from pathlib import Path

CORPUS = Path(__file__).parent / "data" / "stdlib_docstrings.txt.gz"
SEPARATOR = "\x00"
# Share of the passages that training never sees: one half for calibration, one for the report.
HELD_OUT = 0.1


@lru_cache(maxsize=1)
def passages() -> list[str]:
    """All passages of the corpus, in its fixed order."""
    return gzip.decompress(CORPUS.read_bytes()).decode("ascii").split(SEPARATOR)


def split(name: str) -> list[str]:
    """`train` passages, or those held out for `calibration` or for the `report`."""
    corpus = passages()
    end_of_train = int(len(corpus) * (1 - HELD_OUT))
    end_of_calibration = (end_of_train + len(corpus)) // 2
    splits = {
        "train": corpus[:end_of_train],
        "calibration": corpus[end_of_train:end_of_calibration],
        "report": corpus[end_of_calibration:],
    }
    return splits[name]
