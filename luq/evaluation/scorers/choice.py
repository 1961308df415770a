"""Which option of a multiple-choice question an answer names: by its letter or by its text.

Models are asked for a letter, and many answer in sentences. The rules are tried in turn, the surest
first:

1. the whole answer is an option's text: "dog";
2. the whole answer is a letter: "B", "(b)", "**B**", "Option B.";
3. a letter is said to be the answer: "The answer is B", "answer: (B)", "B is correct". The last
   such statement counts;
4. the answer begins with a letter and a mark, or with an option's text and a mark: "B. dog",
   "(B) dog", "No, because ...";
5. one letter stands alone: "I think it is B", "option B";
6. the text of one option stands in the answer as whole words: "It is the dog.";
7. the answer's number is that of one option: "145 degrees" for "145\u00b0".

A capital A before another word is the article, and so is a mere "a"; an option after "not" is not
named. An answer that names no option, or several alike, has none.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from luq.evaluation.scorers.number import ASCII, numbers, stated_number

# LaTeX's and HTML's wrappers: \boxed{B}, <answer>B</answer>.
_WRAPPER = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*(?=\{)|</?\w+>")
_MARKS = " \t\n.,;:!?*_`\"'()[]{}$"
_BEFORE = r"[\s(\[{*_`\"'$:<]*"  # marks that open a letter: **(B
_AFTER = r"[\s)\]}*_`\"'$:>.,;!?]*"  # and that close it
_NOUN = r"(?:answer|option|choice|letter)"
_IS = r"\b(?:is|would be|should be|must be|seems|appears to be)\b"
# "The answer is", "the correct option would be the", "Answer:", "I choose"
_INTRODUCTION = (
    rf"(?:\b{_NOUN}(?:\s+\w+){{0,3}}?\s*(?:{_IS}|:|=)|\bi choose)"
    rf"\s*(?:(?:the|most likely|probably|{_NOUN})\s+)*"
)
_ANSWER = re.compile(_INTRODUCTION, re.IGNORECASE)
# A letter after it, or "B is correct", "(B) would be the best choice"
_STATEMENT = re.compile(
    rf"(?i:{_INTRODUCTION}{_BEFORE})(?P<letter>[A-Za-z])(?!\w)"
    rf"|(?<!\w)(?P<correct>[A-Z])[)\]*\"'.]*\s+{_IS}\s+(?:(?:the|most|likely|probably)\s+)*"
    r"(?:correct|right|true|best|answer)\b"
)
_LETTER_ONLY = re.compile(
    rf"{_BEFORE}(?i:the\s+)?(?i:{_NOUN})?{_BEFORE}(?P<letter>[A-Za-z]){_AFTER}"
)
_LETTER_BEGINS = re.compile(rf"{_BEFORE}(?P<letter>[A-Za-z])[*_`\"']*[.):\]][.):\]*_`\"']*(?=\s|$)")
_LONE_LETTER = re.compile(
    r"(?<![A-Za-z0-9_'/-])(?P<letter>[A-Z])(?![A-Za-z0-9_'/?-]|\s*=)|\((?P<small>[a-z])\)"
)
_MARK_FOLLOWS = re.compile(r"[*_`\"')\]]*(?:[.,;:!\n]|$)")
_OTHER_LETTER_FOLLOWS = re.compile(r"\W*(?:or|and|,|/)\W*(?i:option\s+)?[A-Z](?!\w)")
_DENIAL_BEFORE = re.compile(
    r"(?:\b(?:not|never|nor|neither)|n't)\s+(?:(?:an?|the|option)\s+)*\W*$", re.IGNORECASE
)
_DENIAL_FOLLOWS = re.compile(r"\W*\s(?:isn't|(?:is|was)\s+(?:not|wrong|incorrect|false))\b")
# Things that have letters for names.
_NAME_BEFORE = re.compile(
    r"(?:\b(?:angle|point|line|side|segment|circle|vertex|figure|step|vitamin)s?\s+"
    r"|[\u2220\u25b3\u2299]\s*)$",
    re.IGNORECASE,
)
# The article and the pronoun. A verb or a conjunction never follows the article.
_LETTERS_THAT_ARE_WORDS = "AI"
_WORD_FOLLOWS = re.compile(r"\s+[^\W_]")
_NO_ARTICLE = re.compile(
    r"\s+(?:is|are|was|because|since|as|and|or|but|would|should|seems|appears|fits|matches|shows)\b"
)


class _Mention(NamedTuple):
    """An option's text in an answer, from `start` to `end`."""

    start: int
    end: int
    letter: str


def named_option(text: str, options: Mapping[str, str]) -> str:
    """The option that an answer names.

    Args:
        text: the answer.
        options: capital letter -> the option's text.

    Returns:
        The option's letter; empty if the answer names none, or several alike.
    """
    answer = _cleaned(text)
    texts: dict[str, str] = {}
    for letter, option in options.items():
        texts[letter] = _cleaned(option)
    mentions = _mentions(answer, texts)
    return (
        _by_whole_text(answer, texts)
        or _by_stated_letter(answer, texts)
        or _by_beginning(answer, texts, mentions)
        or _by_lone_letter(answer, texts, mentions)
        or _by_text(answer, mentions)
        or _by_number(answer, texts)
    )


def _cleaned(text: str) -> str:
    """A text without wrappers, in ASCII's signs, with single spaces within its lines."""
    lines = _WRAPPER.sub("", text.translate(ASCII)).strip().splitlines()
    return "\n".join(" ".join(line.split()) for line in lines)


def _by_whole_text(answer: str, options: Mapping[str, str]) -> str:
    """Rule 1, first with the marks around the texts and then without."""
    for marks in ("", _MARKS):
        compared = answer.casefold().strip(marks)
        for letter, option in options.items():
            if compared and compared == option.casefold().strip(marks):
                return letter
    return ""


def _by_stated_letter(answer: str, options: Mapping[str, str]) -> str:
    """Rules 2 and 3."""
    lone_letter = _LETTER_ONLY.fullmatch(answer)
    # A mere "a" is an article that nothing follows.
    if lone_letter and answer != "a":
        return _letter(lone_letter["letter"], options)
    stated = ""
    for match in _STATEMENT.finditer(answer):
        group = "letter" if match["letter"] else "correct"
        letter = _letter(match[group], options)
        is_one_of_several = _OTHER_LETTER_FOLLOWS.match(answer, match.end())
        if letter and not is_one_of_several and not _is_word(answer, match, group):
            stated = letter
    return stated


def _letter(letter: str, options: Mapping[str, str]) -> str:
    """The option's letter; empty if there is no such option."""
    return letter.upper() if letter.upper() in options else ""


def _is_word(answer: str, match: re.Match[str], group: str) -> bool:
    """Whether a letter is the article or the pronoun: another word follows it without a mark."""
    if match[group].upper() not in _LETTERS_THAT_ARE_WORDS:
        return False
    end = match.end(group)
    return bool(_WORD_FOLLOWS.match(answer, end)) and not _NO_ARTICLE.match(answer, end)


def _by_beginning(answer: str, options: Mapping[str, str], mentions: list[_Mention]) -> str:
    """Rule 4."""
    beginning = _LETTER_BEGINS.match(answer)
    if beginning:
        return _letter(beginning["letter"], options)
    for mention in mentions:
        is_first = not answer[: mention.start].strip(_MARKS)
        if is_first and _MARK_FOLLOWS.match(answer, mention.end):
            return mention.letter
    return ""


def _by_lone_letter(answer: str, options: Mapping[str, str], mentions: list[_Mention]) -> str:
    """Rule 5: no letter of the options' own texts, as in "sample A"."""
    masked = answer
    for start, end, _ in mentions:
        masked = masked[:start] + "x" * (end - start) + masked[end:]
    letters: set[str] = set()
    for match in _LONE_LETTER.finditer(masked):
        group = "letter" if match["letter"] else "small"
        letter = _letter(match[group], options)
        before = masked[: match.start()]
        is_denied = _DENIAL_BEFORE.search(before) or _DENIAL_FOLLOWS.match(masked, match.end())
        is_name = _NAME_BEFORE.search(before) or _is_word(masked, match, group)
        if letter and not is_denied and not is_name:
            letters.add(letter)
    return letters.pop() if len(letters) == 1 else ""


def _mentions(answer: str, options: Mapping[str, str]) -> list[_Mention]:
    """The options' texts in an answer that nothing denies, without those inside a longer one.

    Texts of one letter are left to the rules for letters.
    """
    mentions: list[_Mention] = []
    for letter in sorted(options, key=lambda letter: -len(options[letter])):
        option = options[letter]
        if not option or (len(option) == 1 and option.isalpha()):
            continue
        # Whole words and whole numbers: "No" is not in "Noon", nor 7 in 17, -7, 7.2 or 1,7.
        pattern = re.compile(
            rf"(?<![\w-])(?<!\d[.,]){re.escape(option)}(?!\w)(?![.,]\d)", re.IGNORECASE
        )
        for match in pattern.finditer(answer):
            start, end = match.span()
            if all(end <= longer.start or longer.end <= start for longer in mentions):
                mentions.append(_Mention(start, end, letter))
    return [m for m in mentions if not _DENIAL_BEFORE.search(answer[: m.start])]


def _by_text(answer: str, mentions: list[_Mention]) -> str:
    """Rule 6. Of several texts, the first that follows the last "answer is"."""
    letters = {mention.letter for mention in mentions}
    if len(letters) == 1:
        return letters.pop()
    introductions = list(_ANSWER.finditer(answer))
    if not introductions:
        return ""
    following = [m for m in mentions if m.start >= introductions[-1].end()]
    return min(following).letter if following else ""


def _by_number(answer: str, options: Mapping[str, str]) -> str:
    """Rule 7, where every option has one number, and all differ."""
    letters: dict[float, str] = {}
    for letter, option in options.items():
        numbers_of_option = numbers(option)
        if len(numbers_of_option) != 1:
            return ""
        letters[numbers_of_option[0]] = letter
    number = stated_number(answer)
    if number is None or len(letters) < len(options):
        return ""
    return letters.get(number, "")
