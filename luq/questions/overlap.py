"""What calibration and evaluation share by content, whatever it is called and wherever it lies.

Two texts are compared by their sequences of `WORDS` words: 13, as is usual where training data is
searched for benchmarks (Brown et al. 2020, appendix C). Case, punctuation, white space and line
ends count for nothing, and so does the order of passages. Two questions are the same if their words
and the bytes of their images are: another question about the same image is another question.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from luq.errors import DataError
from luq.questions.sources import QuestionTable
from luq.questions.tables import Questions
from luq.questions.text import TextSource
from luq.store.digests import file_digest

WORDS = 13  # of a sequence that is looked for
# Texts of one kind share headings and set phrases. Over the 13-word sequences of either text,
# WikiText-2's parts share less than 0.002 % and the standard library's docstrings 0.3 %.
LARGEST_SHARE = 0.01
# So many words one after the other are no set phrase: the longest that those texts share has 38.
LONGEST_PASSAGE = 50
QUESTION = "question"  # the column that all benchmarks have
EXAMPLE_WORDS = 12  # that an error quotes

# Languages that are written without spaces: each character is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits look random (Knuth's golden ratio)
_SHIFT = np.uint64(29)

Hashes = npt.NDArray[np.uint64]


class Overlap(NamedTuple):
    """What two texts share.

    `passages`: how many runs of words; `longest`: words of the longest one, which `example` begins.
    `share`: of the sequences of that text of which it is more.
    """

    passages: int
    longest: int
    share: float
    example: str

    @property
    def is_leak(self) -> bool:
        """Whether it is more than chance."""
        return self.share > LARGEST_SHARE or self.longest >= LONGEST_PASSAGE


def text_overlap(text: str, other_text: str) -> Overlap:
    """What two texts share, in any order; of a text shorter than a sequence all of it is one."""
    text_words = _words(text)
    other_words = _words(other_text)
    length = min(WORDS, len(text_words), len(other_words))
    if length == 0:
        return Overlap(0, 0, 0.0, "")
    numbers: dict[str, int] = {}
    sequences = _sequences(text_words, numbers, length)
    other_sequences = _sequences(other_words, numbers, length)
    is_shared = np.isin(sequences, other_sequences)
    share = max(float(is_shared.mean()), float(np.isin(other_sequences, sequences).mean()))
    starts, ends = _runs(is_shared)
    if not len(starts):
        return Overlap(0, 0, 0.0, "")
    lengths = ends - starts + length - 1  # a run of n sequences has n + length - 1 words
    longest = int(lengths.argmax())
    first_word = int(starts[longest])
    words = text_words[first_word : first_word + min(int(lengths[longest]), EXAMPLE_WORDS)]
    return Overlap(len(starts), int(lengths[longest]), share, " ".join(words))


def _words(text: str) -> list[str]:
    """The words of a text without case, punctuation and white space."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _sequences(words: list[str], numbers: dict[str, int], length: int) -> Hashes:
    """A hash of every sequence of `length` words; `numbers` gives each word one, and grows."""
    ids = np.array([numbers.setdefault(word, len(numbers) + 1) for word in words], np.uint64)
    hashes = np.zeros(len(ids) - length + 1, np.uint64)
    for offset in range(length):
        # 64 bits that wrap around: among millions of sequences no two are alike by chance.
        hashes = hashes * _MULTIPLIER + ids[offset : offset + len(hashes)]
        hashes ^= hashes >> _SHIFT
    return hashes


def _runs(flags: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First index, and one after the last, of every run of True."""
    padded = np.concatenate([[False], flags, [False]])
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    return changes[::2], changes[1::2]


def check_texts(calibration: TextSource, report: TextSource) -> None:
    """A DataError if the text for perplexity is, in part, the text of the calibration."""
    overlap = _source_overlap(calibration, report)
    if overlap.is_leak:
        raise DataError(
            f"calibration.text={calibration.name} and evaluation.text={report.name} share "
            f"{overlap.passages} passages, {overlap.share:.1%} of one of them, for example "
            f"{overlap.example!r} ({overlap.longest} words): calibrate on another text. Allowed "
            f"are {LARGEST_SHARE:.0%} of the sequences of {WORDS} words, and no passage of "
            f"{LONGEST_PASSAGE} words"
        )


@lru_cache(maxsize=64)  # the runs of a sweep compare the same texts
def _source_overlap(calibration: TextSource, report: TextSource) -> Overlap:
    return text_overlap(calibration.whole(), report.whole())


def same_files(table: QuestionTable, other_table: QuestionTable) -> bool:
    """Whether two tables are read from the same content, or from a file that both have."""
    if table.content == other_table.content:
        return True
    return bool(_file_contents(table) & _file_contents(other_table))


def _file_contents(table: QuestionTable) -> set[tuple[int, str]]:
    """Sizes and digests of a table's own parquet files."""
    contents: set[tuple[int, str]] = set()
    for location in table.locations:
        for file in location.files.paths if location.files is not None else ():
            contents.add(file_digest(file))
    return contents


class SharedRow(NamedTuple):
    """A question that is asked, and the one of the calibration that is the same."""

    asked: str  # BENCHMARK:ROW
    calibrated: str


def shared_rows(
    benchmark_questions: Questions,
    asked_rows: Iterable[int],
    calibrated: dict[str, Questions],
    names: list[str],
) -> list[SharedRow]:
    """The questions that are asked and that a model was calibrated on.

    Args:
        benchmark_questions: all that a benchmark has.
        asked_rows: which of them are asked.
        calibrated: benchmark -> its questions for calibration.
        names: BENCHMARK:ROW of those that the calibration used.

    Returns:
        A pair for each question that is in both.
    """
    by_words: dict[str, list[str]] = {}  # a question's words -> names of the calibration
    images: dict[str, str] = {}  # name -> digest of its image
    for name, questions, row in _named_rows(names, calibrated):
        words = plain_words(questions.docs[row][QUESTION])
        by_words.setdefault(words, []).append(name)
        images[name] = _image_digest(questions, row)
    question_texts = list(benchmark_questions.docs.select_columns([QUESTION])[QUESTION])
    shared: list[SharedRow] = []
    for row in asked_rows:
        same_words = by_words.get(plain_words(question_texts[row]))
        # An image is only read where the words agree: it can take megabytes.
        if same_words is None:
            continue
        image = _image_digest(benchmark_questions, row)
        for name in same_words:
            if images[name] == image:
                shared.append(SharedRow(f"{benchmark_questions.benchmark}:{row}", name))
                break
    return shared


def _named_rows(
    names: list[str], tables: dict[str, Questions]
) -> Iterator[tuple[str, Questions, int]]:
    """The rows that names stand for; a passage of text among them is no question."""
    for name in names:
        benchmark, _, row = name.partition(":")
        if benchmark in tables and row.isdecimal() and int(row) < len(tables[benchmark].docs):
            yield name, tables[benchmark], int(row)


def plain_words(question: object) -> str:
    """A question without case and white space that means nothing."""
    return " ".join(str(question).casefold().split())


def _image_digest(questions: Questions, row: int) -> str:
    """Digest of an image's encoded bytes; empty where there are none."""
    image_row = questions.image_rows[row]
    if image_row < 0:
        return ""
    image = questions.images[image_row][questions.images.column_names[0]]
    encoded = image and image["bytes"]
    return hashlib.sha256(encoded).hexdigest() if encoded else ""
