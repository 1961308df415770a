"""Plain English for calibration and for perplexity: the pocket model's, WikiText-2, or a file."""

from pathlib import Path
from typing import Any

import numpy as np

from luq.errors import DataError

WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1")
SPLITS = {"calibration": "train", "report": "test"}  # of WikiText-2


def read(source: str, use: str) -> str:
    """WikiText-2 (`wikitext`) or a text file, whole. `use` is `calibration` or `report`; a DataError if it cannot be read."""
    if source == "wikitext":
        from datasets import load_dataset

        try:
            return "\n\n".join(load_dataset(*WIKITEXT, split=SPLITS[use])["text"])
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            raise DataError(
                f"{WIKITEXT[0]} cannot be read ({type(error).__name__} {reason}): connect, or give a text file"
            ) from error
    file = Path(source).expanduser()
    if not file.is_file():
        raise DataError(f"text={source} is neither 'pocket', 'wikitext' nor a text file")
    return file.read_text()


def windows(tokenizer: Any, source: str, length: int, seed: int) -> list[tuple[int, list[int]]]:
    """(offset, `length` tokens) of a text's windows, in a seeded order: none overlaps another."""
    ids = tokenizer(read(source, "calibration")).input_ids
    starts = np.random.default_rng([seed, 1]).permutation(len(ids) // length) * length
    if not len(starts):
        raise DataError(
            f"calibration.text={source} holds {len(ids)} tokens: fewer than one sample of {length}"
        )
    return [(int(start), ids[start : start + length]) for start in starts]
