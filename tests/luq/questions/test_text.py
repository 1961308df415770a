"""How texts are cut into windows: each begins as the tokenizer begins a text."""

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from luq.errors import DataError
from luq.evaluation.perplexity import text_tokens
from luq.pocket.family import FAMILIES
from luq.questions.text import Windows, start_tokens, text_source, windows

WORDS = "The bar of the chart is blue and the sign is red. " * 40


@pytest.fixture
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """It begins a text with a BOS token, which is number 1."""
    return FAMILIES["pocket_llava"].make_tokenizer()


@pytest.fixture(params=[True, False], ids=["BOS", "no BOS"])
def tokenizer(
    request: pytest.FixtureRequest, bos_tokenizer: PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    if not request.param:
        bos_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    return bos_tokenizer


def test_start_tokens_are_what_stands_before_every_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert start_tokens(tokenizer) == tokenizer("").input_ids
    assert [*start_tokens(tokenizer), *tokenizer("red", add_special_tokens=False).input_ids] == (
        tokenizer("red").input_ids
    )


def test_every_window_begins_a_text_and_none_is_lost(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    book = tmp_path / "book.txt"
    book.write_text(WORDS, encoding="utf-8")
    start = start_tokens(tokenizer)
    plain = tokenizer(WORDS, add_special_tokens=False).input_ids
    made = windows(tokenizer, text_source(str(book), "calibration"), 32, seed=0)
    assert [number for number, _ in made] != sorted(number for number, _ in made)
    read: list[int] = []
    for _, ids in sorted(made):
        assert len(ids) == 32
        assert ids[: len(start)] == start
        read += ids[len(start) :]
    assert read == plain[: len(read)]
    assert len(plain) - len(read) < 32


def test_perplexity_is_of_texts_with_their_first_token(
    bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    book = tmp_path / "book.txt"
    book.write_text(WORDS, encoding="utf-8")
    sequences = text_tokens(bos_tokenizer, text_source(str(book), "report"), 100, 32)
    assert sequences.shape == (3, 32)
    assert sequences[:, 0].tolist() == [1, 1, 1]
    assert sequences[0].tolist() == bos_tokenizer(WORDS).input_ids[:32]
    plug_in = text_tokens(bos_tokenizer, text_source("pocket", "report"), 2000, 32)
    assert set(plug_in[:, 0].tolist()) == {1}


def test_a_passage_that_begins_a_window_has_one_first_token(
    bos_tokenizer: PreTrainedTokenizerFast,
) -> None:
    passage = bos_tokenizer("red and blue").input_ids + [bos_tokenizer.eos_token_id]
    cutter = Windows(bos_tokenizer, "book", len(passage))
    assert cutter.add_passage("red and blue") == [passage]
    assert cutter.add_passage("red and blue") == [passage]
    # One that begins within a window keeps its own.
    longer = Windows(bos_tokenizer, "book", len(passage) + 2)
    assert longer.add_passage("red and blue") == []
    assert longer.add_passage("red and blue") == [[*passage, *passage[:2]]]
    assert longer.rest == passage[2:]


def test_a_window_must_have_room_for_text(
    bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="windows of 1 tokens: the tokenizer begins each with 1"):
        Windows(bos_tokenizer, "book", 1)
    book = tmp_path / "book.txt"
    book.write_text("red", encoding="utf-8")
    with pytest.raises(DataError, match=r"book\.txt holds \d tokens"):
        text_tokens(bos_tokenizer, text_source(str(book), "report"), 1000, 500)
