"""Plain English for calibration and for perplexity: a plug-in's, WikiText-2's, or a file's.

A `TextSource` is what stands in keys: the content, never the name of a file.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luq.config.checks import VOLATILE
from luq.errors import DataError
from luq.plugins import PLUGINS, plugin
from luq.store.digests import file_digest
from luq.store.keys import Identified, digest

WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1")
WIKITEXT_SPLITS = {"calibration": "train", "report": "test"}


@dataclass(frozen=True, eq=False, repr=False)
class TextSource(Identified):
    """Where text comes from. `use` is `calibration` or `report`: no source gives both the same."""

    content: str  # digest of a file, or what stands for the text of another source
    use: str
    name: str = field(metadata=VOLATILE)

    def passages(self) -> list[str] | None:
        """A plug-in's passages, each a text of its own; None for other sources."""
        shipped = plugin(self.name)
        return None if shipped is None else shipped.passages(self.use)

    @property
    def is_here(self) -> bool:
        """Whether it can be read without a connection."""
        return self.name != "wikitext"

    def whole(self) -> str:
        """All of it as one text."""
        passages = self.passages()
        return self.read() if passages is None else "\n\n".join(passages)

    def read(self) -> str:
        """WikiText-2 or a text file, whole; a DataError if it cannot be read."""
        if self.name == "wikitext":
            return _read_wikitext(WIKITEXT_SPLITS[self.use])
        file = Path(self.name).expanduser()
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"text={file} cannot be read as UTF-8 text ({error})") from error


def text_source(name: str, use: str) -> TextSource:
    """The source that a setting names.

    Raises:
        DataError: it is neither a plug-in, `wikitext` nor a text file.
    """
    shipped = plugin(name)
    if shipped is not None:
        return TextSource(f"{name} {shipped.version}", use, name)
    if name == "wikitext":
        return TextSource(digest(*WIKITEXT), use, name)
    file = Path(name).expanduser()
    if not file.is_file():
        known = ", ".join(repr(source) for source in (*PLUGINS, "wikitext"))
        raise DataError(f"text={name} is neither {known} nor a text file")
    return TextSource(file_digest(file)[1], use, name)


def _read_wikitext(split: str) -> str:
    from datasets import load_dataset

    try:
        lines = load_dataset(*WIKITEXT, split=split)["text"]
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise DataError(
            f"{WIKITEXT[0]} cannot be read ({type(error).__name__} {reason}): connect, or give a "
            "text file"
        ) from error
    return "\n\n".join(lines)


def windows(
    tokenizer: Any, source: TextSource, length: int, seed: int
) -> list[tuple[int, list[int]]]:
    """(offset, `length` tokens) of a text's windows, in a seeded order: none overlaps another."""
    ids = tokenizer(source.read()).input_ids
    generator = np.random.default_rng([seed, 1])
    starts = generator.permutation(len(ids) // length) * length
    if not len(starts):
        raise DataError(
            f"calibration.text={source.name} holds {len(ids)} tokens: fewer than one sample of "
            f"{length}"
        )
    return [(int(start), ids[start : start + length]) for start in starts]
