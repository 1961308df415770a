"""Whether a model is none any more: one answer to everything, or gibberish."""

import re

from luq.evaluation.predictions import Row


def _gibberish(text: str) -> bool:
    """Nothing said, no letter or digit, or one word or character over and over."""
    words = text.split()
    if not re.search(r"\w", text) or (len(words) >= 4 and len(set(words)) == 1):
        return True
    return bool(re.search(r"(.)\1{5,}", text))


def collapsed(rows: list[Row]) -> str:
    """Why a model is none any more: one answer makes up more than 95 % of all, or most are gibberish. Empty if it is one."""
    texts = [row["text"].strip().lower() for row in rows if "text" in row]
    if len(texts) < 20:
        return ""
    most = max(set(texts), key=texts.count)
    if sum(map(_gibberish, texts)) > 0.5 * len(texts):
        return "most answers are gibberish"
    return f"{most!r} to nearly every question" if texts.count(most) > 0.95 * len(texts) else ""
