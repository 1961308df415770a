"""Calibration and evaluation are compared by content, whatever it is called."""

import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.questions import overlap
from luq.questions.overlap import check_texts, shared_rows, text_overlap
from luq.questions.sources import Questions, calibration_table, evaluation_table
from luq.questions.text import text_source
from luq.store.store import Store

WORDS = [f"w{i}" for i in range(500)]


def paragraphs(seed: int, count: int = 60, words: int = 40) -> list[str]:
    """Paragraphs of random words: two seeds share no sequence of 13."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=words)).capitalize() + "." for _ in range(count)]


MINE = paragraphs(0)
OTHERS = paragraphs(1)


def shuffled(parts: list[str]) -> list[str]:
    return random.Random(2).sample(parts, len(parts))


LEAKS: dict[str, Callable[[], str]] = {
    "a copy": lambda: "\n\n".join(MINE),
    "another order": lambda: "\n\n".join(shuffled(MINE)),
    "other white space": lambda: "\r\n".join(MINE).replace(" ", "   "),
    "one line": lambda: " ".join(MINE),
    "upper case": lambda: "\n".join(MINE).upper(),
    "other punctuation": lambda: "\n".join(MINE).replace(".", " !").replace(" w7 ", ", w7; "),
    "a part of it": lambda: "\n\n".join(MINE[20:23]),
    "it and more": lambda: "\n\n".join([*OTHERS, *MINE]),
    "some paragraphs": lambda: "\n\n".join([*OTHERS[:30], MINE[5], MINE[9], *OTHERS[30:]]),
    "one long paragraph of many": lambda: " ".join([*paragraphs(3, 3000), *MINE[5:7]]),
}


@pytest.mark.parametrize("make", LEAKS.values(), ids=LEAKS)
def test_the_same_passages_are_a_leak(make: Callable[[], str], tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    copy = tmp_path / "copy.txt"
    mine.write_text("\n\n".join(MINE), encoding="utf-8")
    copy.write_bytes(make().encode())
    for calibration, report in ((mine, copy), (copy, mine)):
        with pytest.raises(DataError) as refused:
            check_texts(
                text_source(str(calibration), "calibration"), text_source(str(report), "report")
            )
        message = str(refused.value)
        assert f"calibration.text={calibration}" in message
        assert f"evaluation.text={report}" in message
        assert "passages" in message
        example = message.partition("for example '")[2].partition("'")[0]
        assert example in overlap.text_overlap("\n".join(MINE), example).example
        assert len(example.split()) == overlap.EXAMPLE_WORDS


def test_other_texts_with_the_same_headings_are_none(tmp_path: Path) -> None:
    """A licence of 30 words, headings and set phrases, within a hundredth of the sequences."""
    heading = " ".join(WORDS[:30])
    mine = "\n".join([heading, *paragraphs(4, 200)])
    other = "\n".join([heading.upper(), *paragraphs(5, 200)])
    found = text_overlap(mine, other)
    assert (found.passages, found.longest) == (1, 30)
    assert 0 < found.share <= overlap.LARGEST_SHARE
    assert not found.is_leak


def test_a_hundredth_and_fifty_words_are_the_limits() -> None:
    def both(words: int, more: int) -> overlap.Overlap:
        heading = " ".join(WORDS[:words])
        return text_overlap(
            "\n".join([heading, *paragraphs(6, more)]), "\n".join([heading, *paragraphs(7, more)])
        )

    assert not both(49, 200).is_leak
    assert both(50, 200).is_leak, "fifty words are no heading"
    assert not both(30, 50).is_leak
    assert both(30, 40).is_leak, "18 of 1618 sequences"


@pytest.mark.parametrize(
    ("text", "other", "longest"),
    [
        ("", "", 0),
        ("", "some words", 0),
        ("--- !", "some words", 0),
        ("two words", "Two  words", 2),
        ("two words", "other words there", 0),
        ("学而时习之不亦说乎", "子曰:学而时习之,不亦说乎?", 9),
    ],
)
def test_short_and_unspaced_texts(text: str, other: str, longest: int) -> None:
    assert text_overlap(text, other).longest == longest


def test_a_plug_in_s_passages_are_read_too(tmp_path: Path) -> None:
    report = text_source("pocket", "report")
    calibration = text_source("pocket", "calibration")
    check_texts(calibration, report)
    copy = tmp_path / "copy.txt"
    copy.write_text("\n".join((report.passages() or [])[:20]), encoding="utf-8")
    with pytest.raises(DataError, match=r"copy\.txt and evaluation\.text=pocket share"):
        check_texts(text_source(str(copy), "calibration"), report)
    other = tmp_path / "other.txt"
    other.write_text("\n".join(MINE), encoding="utf-8")
    check_texts(calibration, text_source(str(other), "report"))


# questions


def picture(seed: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (32, 32 + seed)).save(file, "PNG")
    return file.getvalue()


def row(index: int, question: str = "", image: int | None = None) -> dict[str, Any]:
    seed = index if image is None else image
    return {
        "question_id": index,
        "question": question or f"what is number {index}?",
        "answers": ["a"] * 10,
        "ocr_tokens": [],
        "image": {"bytes": picture(seed), "path": None},
    }


def table(folder: Path, rows: list[dict[str, Any]]) -> Questions:
    from datasets import Features, Sequence, Value
    from datasets import Image as ImageFeature

    folder.mkdir()
    features = Features(
        {
            "question_id": Value("int64"),
            "question": Value("string"),
            "answers": Sequence(Value("string")),
            "ocr_tokens": Sequence(Value("string")),
            "image": ImageFeature(),
        }
    )
    Dataset.from_list(rows, features).to_parquet(folder / "textvqa.parquet")
    opened = calibration_table("textvqa", str(folder), folder / "cache")
    return opened.open(Store(folder / "cache").tools)


def test_a_question_is_the_same_if_its_words_and_its_image_are(tmp_path: Path) -> None:
    calibrated = table(tmp_path / "a", [row(i) for i in range(6)])
    asked_rows = [
        row(10),
        row(11, "What  is NUMBER 2? ", image=2),  # the same, written otherwise
        row(12, "who made this?", image=3),  # another question about a picture that was seen
        row(13, "what is number 4?", image=40),  # the same question about another picture
        row(14, "what is number 5?", image=5),  # the same, but the calibration did not take it
        row(15, "what is number 1?", image=1),  # the same, but it is not asked
    ]
    asked = table(tmp_path / "b", asked_rows)
    names = [f"textvqa:{i}" for i in range(5)]
    passages = ["stdlib:3:0-4", "textvqa.txt:128", "textvqa:999"]
    shared = shared_rows(asked, range(5), {"textvqa": calibrated}, [*passages, *names])
    assert shared == [("textvqa:1", "textvqa:2")]


def test_a_benchmark_is_compared_with_all_that_the_calibration_asks(tmp_path: Path) -> None:
    rows = table(tmp_path / "a", [row(0)])
    tools = Store(tmp_path / "cache").tools
    config = EvaluationConfig("x", ["textvqa_ocr"], data=str(tmp_path / "a"))
    asked = evaluation_table("textvqa_ocr", config, tmp_path / "cache").open(tools)
    assert shared_rows(asked, [0], {"textvqa": rows}, ["textvqa:0"]) == [
        ("textvqa_ocr:0", "textvqa:0")
    ]
