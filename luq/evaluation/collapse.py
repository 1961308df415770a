"""Whether a model still is one: it is not if it answers everything alike, or with gibberish."""

import re

from luq.evaluation.predictions import AnswerRow

FEWEST_ANSWERS = 20  # of fewer, equal answers say nothing
GIBBERISH_SHARE = 0.5  # more gibberish than this is no model
# More equal answers than this are no model. Answers of yes/no benchmarks are about half equal.
EQUAL_SHARE = 0.95
_WORD_CHARACTER = re.compile(r"\w")
_REPEATED_CHARACTER = re.compile(r"(.)\1{5,}")  # six times or more
_REPEATED_WORDS = 4


def _is_gibberish(text: str) -> bool:
    """Whether nothing is said, or one word or one character over and over."""
    if not _WORD_CHARACTER.search(text):
        return True
    words = text.split()
    if len(words) >= _REPEATED_WORDS and len(set(words)) == 1:
        return True
    return _REPEATED_CHARACTER.search(text) is not None


def collapsed(rows: list[AnswerRow]) -> str:
    """Why the model of these answers is none any more; empty if it is one."""
    texts = [row["text"].strip().lower() for row in rows if "text" in row]
    if len(texts) < FEWEST_ANSWERS:
        return ""
    gibberish = sum(_is_gibberish(text) for text in texts)
    if gibberish > GIBBERISH_SHARE * len(texts):
        return "most answers are gibberish"
    most_frequent = max(set(texts), key=texts.count)
    if texts.count(most_frequent) > EQUAL_SHARE * len(texts):
        return f"{most_frequent!r} to nearly every question"
    return ""
