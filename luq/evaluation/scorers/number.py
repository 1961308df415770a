"""The number that an answer gives: "24 cm^2" gives 24, "x = 1,200.50" gives 1200.5.

Read are thousands' commas, a point without a digit before it, exponents (1e3, 1.5 x 10^3),
fractions (3/4, \\frac{3}{4}), the words from zero to twelve, digits of every script, and the signs
that are typed for a minus. The digits of units and names (cm^2, m2, H2O) and of dates are no
numbers, and a percent sign changes nothing.
"""

import math
import re

# Characters of full width, and the signs that are typed for a minus, as ASCII.
_FULL_WIDTH = {0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)}
_MINUS_SIGNS = dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2212, 0xFE63), "-")
ASCII = _FULL_WIDTH | _MINUS_SIGNS

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_NO_NUMBERS = r"\d+/\d+/\d+|\^\s*\{?[+-]?\d+\}?|[A-Za-z_]\w*"  # dates, powers of units, words
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"  # 12, 1,200, 1.5, .5
_E = r"[eE](?P<e>[+-]?\d+)"
_TEN = r"\s*(?:\\times|\\cdot|[\u00d7x*])\s*10\s*\^\s*\{?(?P<ten>[+-]?\d+)\}?"
_SIGN = r"(?<![\w)\]}])-[$\u20ac\u00a3]?"  # in 10-24 the minus is none
_NUMBER = re.compile(
    rf"{_NO_NUMBERS}"
    rf"|(?P<sign>{_SIGN})?(?P<digits>{_DIGITS})(?:{_E}|{_TEN})?(?:\s*/\s*(?P<divisor>{_DIGITS}))?"
)
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
# What stands before what is called the answer, and before what a sentence says.
_ANSWER = re.compile(r"(?i:\banswer(?:\s+\w+){0,3}?\s*(?:\bis\b|:|=))|\\boxed")
_VERB = re.compile(r"[=\u2248]|\b(?:is|are|was|were|be|equals|has|have)\b", re.IGNORECASE)


def numbers(text: str) -> list[float]:
    """All finite numbers of a text, in turn."""
    with_digits = _WORD.sub(lambda word: str(_WORDS.index(word[0].lower())), text.translate(ASCII))
    values: list[float] = []
    for match in _NUMBER.finditer(_FRACTION.sub(r"\1/\2", with_digits)):
        if match["digits"] is None:
            continue
        exponent = match["e"] or match["ten"] or "0"
        value = float(f"{_without_commas(match['digits'])}e{exponent}")
        divisor = float(_without_commas(match["divisor"] or "1"))
        if divisor:
            value /= divisor
        if match["sign"]:
            value = -value
        if math.isfinite(value):
            values.append(value)
    return values


def _without_commas(digits: str) -> str:
    return digits.replace(",", "")


def stated_number(text: str) -> float | None:
    """The number that a text gives as its answer; None if it has none.

    That is the first number after the last "answer is", else the first after the last verb or
    equals sign that has one ("12 + 12 = 24 cm"), else the last number. What stands in parentheses
    counts only if there is nothing else: "24 (in 2010)".
    """
    for without_asides in (_IN_PARENTHESES.sub(" ", text), text):
        for cue in (_ANSWER, _VERB):
            for match in reversed(list(cue.finditer(without_asides))):
                following = numbers(without_asides[match.end() :])
                if following:
                    return following[0]
        all_numbers = numbers(without_asides)
        if all_numbers:
            return all_numbers[-1]
    return None
