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
CUT = 2  # version of how a text is cut into windows: what was read in others has other keys


@dataclass(frozen=True, eq=False, repr=False)
class TextSource(Identified):
    """Where text comes from. `use` is `calibration` or `report`: no source gives both the same."""

    content: str  # digest of a file, or what stands for the text of another source
    use: str
    cut: int  # version of how it is cut into windows
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
        return TextSource(f"{name} {shipped.version}", use, CUT, name)
    if name == "wikitext":
        return TextSource(digest(*WIKITEXT), use, CUT, name)
    file = Path(name).expanduser()
    if not file.is_file():
        source_names = ", ".join(repr(source) for source in (*PLUGINS, "wikitext"))
        raise DataError(f"text={name} is neither {source_names} nor a text file")
    return TextSource(file_digest(file)[1], use, CUT, name)


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


def start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text, such as a BOS token; nothing for many."""
    marked_ids = tokenizer("a").input_ids
    plain_ids = tokenizer("a", add_special_tokens=False).input_ids
    for count in range(len(marked_ids) - len(plain_ids) + 1):
        if marked_ids[count : count + len(plain_ids)] == plain_ids:
            return list(marked_ids[:count])
    return []


class Windows:
    """Cuts texts into windows, each of which begins as the tokenizer begins a text.

    Models are trained on texts with their first token, and many rest their attention on it: without
    it a window is read as no text is, with other losses and other activations.

    Args:
        tokenizer: the model's.
        name: of what is read, for errors.
        length: tokens of a window, with those that begin it.

    Raises:
        DataError: a window has no room for the text.
    """

    def __init__(self, tokenizer: Any, name: str, length: int):
        self.tokenizer = tokenizer
        self.length = length
        self.start = start_tokens(tokenizer)
        self.rest: list[int] = []  # tokens that no window has yet
        if length <= len(self.start):
            raise DataError(
                f"text={name} cannot be cut into windows of {length} tokens: the tokenizer begins "
                f"each with {len(self.start)} of its own. Ask for longer ones"
            )

    def add(self, text: str) -> list[list[int]]:
        """The windows that are full with this text, which goes on where the last one stopped."""
        return self._add(self._ids(text))

    def add_passage(self, text: str) -> list[list[int]]:
        """The same with a text of its own: with the tokens that begin and end one."""
        return self._add([*self.start, *self._ids(text), self.tokenizer.eos_token_id])

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _add(self, ids: list[int]) -> list[list[int]]:
        ids = self.rest + ids
        full: list[list[int]] = []
        place = 0
        while True:
            # A passage that happens to begin here has brought these tokens along.
            is_begun = ids[place : place + len(self.start)] == self.start
            start = [] if is_begun else self.start
            end = place + self.length - len(start)
            if end > len(ids):
                self.rest = ids[place:]
                return full
            full.append(start + ids[place:end])
            place = end


def windows(
    tokenizer: Any, source: TextSource, length: int, seed: int
) -> list[tuple[int, list[int]]]:
    """(number, `length` tokens) of a text's windows, in a seeded order: none overlaps another."""
    cutter = Windows(tokenizer, source.name, length)
    full = cutter.add(source.read())
    if not full:
        raise DataError(
            f"calibration.text={source.name} holds {len(cutter.rest)} tokens: fewer than one "
            f"sample of {length}"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(full))
    return [(int(index), full[index]) for index in order]
