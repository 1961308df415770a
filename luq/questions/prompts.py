"""The wording of every benchmark: row -> prompt, row -> reference answer. Pure; used by the task YAMLs.

Prompts follow LLaVA-1.5's and lmms-eval's short-answer protocol. `VERSION` enters every evaluation key:
raise it when a prompt changes.
"""

import ast
from collections import Counter
from collections.abc import Callable
from typing import Any

Doc = dict[str, Any]
VERSION = 1
SHORT = "\nAnswer the question using a single word or phrase."
WORD = "\nAnswer the question with a single word."
LETTER = "\nAnswer with the option's letter from the given choices directly."
INTEGER = "\nAnswer the question with a single integer number."
DECIMALS = {1: "one decimal place", 2: "two decimal places"}
LETTERS = "ABCDEFGHIJ"


def mme(doc: Doc) -> str:
    return doc["question"].replace(" Please answer yes or no.", "").strip() + SHORT


def short(doc: Doc) -> str:
    return doc["question"] + SHORT


def textvqa(doc: Doc) -> str:
    return doc["question"].capitalize() + SHORT


def textvqa_ocr(doc: Doc) -> str:
    return (
        doc["question"].capitalize()
        + "\nReference OCR token: "
        + ", ".join(doc["ocr_tokens"])
        + SHORT
    )


def chartqa(doc: Doc) -> str:
    return doc["question"] + WORD


def options(doc: Doc) -> dict[str, str]:
    """MMBench's options that are there (a missing one is the string `nan` or None)."""
    found = {letter: doc.get(letter) for letter in "ABCDE"}
    return {k: str(v) for k, v in found.items() if v is not None and str(v) != "nan"}


def mmbench(doc: Doc) -> str:
    hint = "" if doc.get("hint") in (None, "nan", "") else f"{doc['hint']}\n"
    lines = "".join(f"\n{letter}. {text}" for letter, text in options(doc).items())
    return hint + doc["question"] + lines + LETTER


def choices(doc: Doc) -> list[str]:
    """MathVista's choices as a list (some releases store them as text)."""
    raw = doc.get("choices")
    if isinstance(raw, str):
        raw = ast.literal_eval(raw) if raw.startswith("[") else None
    return [str(c) for c in raw] if raw else []


def mathvista(doc: Doc) -> str:
    if doc["question_type"] == "multi_choice":
        lines = "".join(f"\n({LETTERS[i]}) {c}" for i, c in enumerate(choices(doc)))
        return doc["question"] + "\nChoices:" + lines + LETTER
    if doc["answer_type"] == "integer":
        return doc["question"] + INTEGER
    if doc["answer_type"] == "float":
        places = DECIMALS.get(
            int(doc["precision"] or 1), f"{int(doc['precision'] or 1)} decimal places"
        )
        return (
            doc["question"] + f"\nAnswer the question with a floating-point number with {places}."
        )
    return doc["question"] + "\nAnswer the question with a Python list."


def mathvista_target(doc: Doc) -> str:
    if doc["question_type"] == "multi_choice":
        return LETTERS[choices(doc).index(str(doc["answer"]))]
    return str(doc["answer"])


def usual_answer(doc: Doc) -> str:
    """The answer, or the most frequent of several (TextVQA and DocVQA: strings; VQAv2: records)."""
    if "answers" not in doc:
        return str(doc["answer"])
    answers = [str(a["answer"] if isinstance(a, dict) else a) for a in doc["answers"]]
    return Counter(answers).most_common(1)[0][0]


def yes_or_no(doc: Doc) -> str:
    """POPE's answers are in small letters; models say Yes and No."""
    return str(doc["answer"]).strip().capitalize()


PROMPTS: dict[str, Callable[[Doc], str]] = {
    "mme": mme, "mmbench": mmbench, "textvqa": textvqa, "textvqa_ocr": textvqa_ocr, "vqav2": short, "gqa": short, "pope": short,
    "chartqa": chartqa, "docvqa": short, "mathvista": mathvista,
}  # fmt: skip
TARGETS: dict[str, Callable[[Doc], str]] = {
    **dict.fromkeys(PROMPTS, usual_answer), "pope": yes_or_no, "mathvista": mathvista_target,
}  # fmt: skip
