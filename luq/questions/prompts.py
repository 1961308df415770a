"""The wording of every benchmark: row -> prompt, row -> reference answer.

Pure functions. Prompts follow LLaVA-1.5's and lmms-eval's short-answer protocol. Those that begin
with `qwen_` are the wording with which VLMEvalKit asks Qwen2.5-VL: its authors set it to the
datasets' own prompts.
"""

import ast
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from luq.config.evaluation import PROTOCOLS

Doc = dict[str, Any]
VERSION = 2  # enters every evaluation key: raise it when a prompt changes
DEFAULT_PROTOCOL = PROTOCOLS[0]
YES_OR_NO = " Please answer yes or no."
SHORT = "\nAnswer the question using a single word or phrase."
WORD = "\nAnswer the question with a single word."
LETTER = "\nAnswer with the option's letter from the given choices directly."
INTEGER = "\nAnswer the question with a single integer number."
LIST = "\nAnswer the question with a Python list."
DECIMALS = {1: "one decimal place", 2: "two decimal places"}
LETTERS = "ABCDEFGHIJ"
# MMBench's options are columns of these names. A missing option is None or a text `nan`.
OPTION_COLUMNS = "ABCDE"
MISSING = "nan"
# A rotation has the `index` of its base question plus a multiple of this.
MMBENCH_ROTATION = 1_000_000


def is_null(value: object) -> bool:
    """Whether a field is missing, which tables say as None or not-a-number."""
    return value is None or value != value


def text_of(value: object) -> str:
    """A field as a text; empty if it is missing."""
    return "" if is_null(value) else str(value)


def _question(doc: Doc) -> str:
    question: str = doc["question"]
    return question


def mme(doc: Doc) -> str:
    """The question without MME's own request for a format."""
    return _question(doc).replace(YES_OR_NO, "").strip() + SHORT


def short(doc: Doc) -> str:
    """The question, to be answered in a word or phrase: VQAv2, GQA, POPE and DocVQA."""
    return _question(doc) + SHORT


def textvqa(doc: Doc) -> str:
    """The question with a capital; TextVQA's are in small letters."""
    return _question(doc).capitalize() + SHORT


def textvqa_ocr(doc: Doc) -> str:
    """TextVQA's question with the words that an OCR system read in the image."""
    question = _question(doc).capitalize()
    tokens = [text_of(token) for token in doc["ocr_tokens"] or []]
    return question + "\nReference OCR token: " + ", ".join(tokens) + SHORT


def chartqa(doc: Doc) -> str:
    """The question, to be answered in a word."""
    return _question(doc) + WORD


def options(doc: Doc) -> dict[str, str]:
    """Letter -> text of MMBench's options, without those that are missing."""
    texts: dict[str, str] = {}
    for letter in OPTION_COLUMNS:
        option = text_of(doc.get(letter))
        if option not in ("", MISSING):
            texts[letter] = option
    return texts


def mmbench_base(doc: Doc) -> str:
    """The name of a row's base question, which all its rotations share.

    A row without a number makes a base question of its own.
    """
    index = doc.get("index")
    try:
        return str(int(index) % MMBENCH_ROTATION)  # type: ignore[arg-type]  # said below
    except (TypeError, ValueError, OverflowError):
        return text_of(index)


def mmbench(doc: Doc) -> str:
    """The hint if there is one, the question and its lettered options."""
    hint = text_of(doc.get("hint"))
    hint_line = "" if hint in ("", MISSING) else f"{hint}\n"
    lines = "".join(f"\n{letter}. {text}" for letter, text in options(doc).items())
    return hint_line + _question(doc) + lines + LETTER


def choices(doc: Doc) -> list[str]:
    """MathVista's choices; empty if there are none. Some releases store the list as text."""
    raw = doc.get("choices")
    if isinstance(raw, str):
        try:
            raw = ast.literal_eval(raw)
        except (ValueError, SyntaxError):
            return []
    return [str(choice) for choice in raw] if isinstance(raw, Sequence) else []


def decimal_places(precision: float | None) -> int:
    """Decimal places of a MathVista answer; one where the table has None, not-a-number or 0."""
    if precision is None or not math.isfinite(precision):
        return 1
    return int(precision) or 1


def _question_with_unit(doc: Doc) -> str:
    """MathVista's question; the benchmark's own query puts the unit behind it."""
    unit = text_of(doc.get("unit"))
    return _question(doc) + ("" if unit in ("", MISSING) else f" (Unit: {unit})")


def mathvista(doc: Doc) -> str:
    """The question, and in which form its answer is expected."""
    question = _question_with_unit(doc)
    if doc["question_type"] == "multi_choice":
        lines = "".join(f"\n({LETTERS[i]}) {text}" for i, text in enumerate(choices(doc)))
        return question + "\nChoices:" + lines + LETTER
    if doc["answer_type"] == "integer":
        return question + INTEGER
    if doc["answer_type"] == "float":
        count = decimal_places(doc["precision"])
        places = DECIMALS.get(count, f"{count} decimal places")
        return question + f"\nAnswer the question with a floating-point number with {places}."
    return question + LIST


def mathvista_target(doc: Doc) -> str:
    """The letter of the right choice, or the answer."""
    if doc["question_type"] == "multi_choice":
        return LETTERS[choices(doc).index(text_of(doc["answer"]))]
    return text_of(doc["answer"])


def usual_answer(doc: Doc) -> str:
    """The answer, or the most frequent of several; empty if it is missing.

    Several answers are strings (TextVQA, DocVQA) or records (VQAv2).
    """
    if "answers" not in doc:
        return text_of(doc["answer"])
    counts: Counter[str] = Counter()
    for answer in doc["answers"]:
        counts[text_of(answer["answer"] if isinstance(answer, dict) else answer)] += 1
    return counts.most_common(1)[0][0]


def yes_or_no(doc: Doc) -> str:
    """POPE's answer as models write it, Yes or No; it is stored in small letters."""
    return text_of(doc["answer"]).strip().capitalize()


def qwen_mme(doc: Doc) -> str:
    """The question with MME's own request for a format."""
    return _question(doc)


def qwen_pope(doc: Doc) -> str:
    """The question with MME's request, as Qwen2-VL was asked; POPE has none of its own."""
    return _question(doc) + YES_OR_NO


def qwen_mmbench(doc: Doc) -> str:
    """Hint, question and options, each under its name."""
    hint = text_of(doc.get("hint"))
    hint_line = "" if hint in ("", MISSING) else f"Hint: {hint}\n"
    lines = "".join(f"{letter}. {text}\n" for letter, text in options(doc).items())
    question = f"Question: {_question(doc)}\nOptions:\n{lines}"
    return hint_line + question + "Please select the correct answer from the options above."


def qwen_mathvista(doc: Doc) -> str:
    """The benchmark's own query: what is expected "at the end", then the question."""
    choices_of_doc = choices(doc)
    lines = "".join(f"\n({LETTERS[i]}) {text}" for i, text in enumerate(choices_of_doc))
    listed = f"\nChoices:{lines}" if choices_of_doc else ""
    return f"Hint: {_hint(doc)}, at the end.\nQuestion: {_question_with_unit(doc)}{listed}"


def _hint(doc: Doc) -> str:
    """What MathVista's own query says of the answer, with examples."""
    if doc["question_type"] == "multi_choice":
        return "Please answer the question and provide the correct option letter, e.g., A, B, C, D"
    if doc["answer_type"] == "integer":
        kind = "an integer answer and provide the final value, e.g., 1, 2, 3"
    elif doc["answer_type"] == "float":
        count = decimal_places(doc["precision"])
        places = DECIMALS.get(count, f"{count} decimal places")
        examples = "1.23, 1.34, 1.45" if count == 2 else "1.2, 1.3, 1.4"
        kind = (
            f"a floating-point number with {places} and provide the final value, e.g., {examples}"
        )
    else:
        examples = "[1, 2, 3], [1.2, 1.3, 1.4]"
        kind = f"a Python list as an answer and provide the final list, e.g., {examples}"
    return f"Please answer the question requiring {kind}"


# The task YAMLs name the same functions, for plain lm-eval; a test compares them.
PROMPTS: dict[str, Callable[[Doc], str]] = {
    "mme": mme,
    "mmbench": mmbench,
    "textvqa": textvqa,
    "textvqa_ocr": textvqa_ocr,
    "vqav2": short,
    "gqa": short,
    "pope": short,
    "chartqa": chartqa,
    "docvqa": short,
    "mathvista": mathvista,
}
# Protocol -> benchmark -> its wording, where it is not that of PROMPTS.
OTHER_PROMPTS: dict[str, dict[str, Callable[[Doc], str]]] = {
    "qwen": {
        "mme": qwen_mme,
        "mmbench": qwen_mmbench,
        "textvqa": short,
        "pope": qwen_pope,
        "chartqa": short,
        "mathvista": qwen_mathvista,
    },
}
TARGETS: dict[str, Callable[[Doc], str]] = {
    "mme": usual_answer,
    "mmbench": usual_answer,
    "textvqa": usual_answer,
    "textvqa_ocr": usual_answer,
    "vqav2": usual_answer,
    "gqa": usual_answer,
    "pope": yes_or_no,
    "chartqa": usual_answer,
    "docvqa": usual_answer,
    "mathvista": mathvista_target,
}


def protocol_of(benchmark: str, protocol: str) -> str:
    """The protocol itself if the benchmark has a wording of its own in it, else the default."""
    has_own = benchmark in OTHER_PROMPTS.get(protocol, {})
    return protocol if has_own else DEFAULT_PROTOCOL


def prompt_of(benchmark: str, protocol: str) -> Callable[[Doc], str]:
    """The wording of a benchmark in a protocol."""
    return OTHER_PROMPTS.get(protocol, {}).get(benchmark, PROMPTS[benchmark])
