"""Tokenizers as llama.cpp has them."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer

from luq.errors import ConfigError, ModelError
from luq.export.gguf import vocabulary
from luq.export.gguf.vocabulary import FILE, vocabulary_of, without_blanks
from luq.pocket.shipped import WEIGHTS as POCKET

QUESTIONS = (
    "<image>\nHow many shapes are there?\nAnswer the question using a single word or phrase.",
    "<image>\nIs the red circle left of 2 blue squares?  (A) yes (B) no",
    "What is the capital of Zembla?\nAnswer the question with a single word.",
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def content(**changes: Any) -> dict[str, Any]:
    """tokenizer.json of pocket_llava with something else in it."""
    whole: dict[str, Any] = json.loads((POCKET / "pocket_llava" / FILE).read_text(encoding="utf-8"))
    model = changes.pop("model", {})
    return whole | changes | {"model": whole["model"] | model}


def folder_of(place: Path, tokenizer: dict[str, Any]) -> Path:
    place.mkdir(exist_ok=True)
    (place / FILE).write_text(json.dumps(tokenizer), encoding="utf-8")
    return place


def split(regex: str) -> dict[str, Any]:
    """A pre-tokenizer of a regular expression."""
    first = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [first, BYTE_LEVEL]}


DIGITS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        BYTE_LEVEL | {"use_regex": True},
    ],
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "gpt-2"),
        ({"pre_tokenizer": BYTE_LEVEL | {"use_regex": True}}, "gpt-2"),
        ({"pre_tokenizer": DIGITS}, "smollm"),
        ({"pre_tokenizer": split(vocabulary.QWEN2), "normalizer": {"type": "NFC"}}, "qwen2"),
        ({"pre_tokenizer": split(vocabulary.LLAMA3), "model": {"ignore_merges": True}}, "llama-bpe"),
    ],
)  # fmt: skip
def test_a_known_pre_tokenizer_has_llama_cpps_name(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "x", content(**changes))
    assert vocabulary_of(folder, 2048).pre_tokenizer() == expected


def test_the_patterns_are_those_of_the_models() -> None:
    """Written out, as their tokenizer.json has them."""
    assert vocabulary.QWEN2 == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    assert vocabulary.QWEN2.replace(r"\p{N}| ", r"\p{N}{1,3}| ") == vocabulary.LLAMA3


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": split(r"\w+")},
        {"pre_tokenizer": split(vocabulary.LLAMA3)},  # llama.cpp's takes known words whole
        {"pre_tokenizer": BYTE_LEVEL | {"use_regex": True, "add_prefix_space": True}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
    ],
)
def test_an_unknown_pre_tokenizer_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", content(**changes))
    with pytest.raises(ConfigError, match="splits texts as none of llama"):
        vocabulary_of(folder, 2048)


@pytest.mark.parametrize(
    ("tokenizer", "error", "words"),
    [
        (None, ModelError, "is missing"),
        ({"model": {"type": "Unigram"}}, ConfigError, "Unigram"),
        ({}, ModelError, "none of transformers' tokenizers"),
        (content(model={"vocab": {"a": 5000}}), ModelError, "none of transformers' tokenizers"),
    ],
)
def test_other_tokenizers_are_refused(
    tokenizer: dict[str, Any] | None, error: type[Exception], words: str, tmp_path: Path
) -> None:
    if tokenizer is not None:
        folder_of(tmp_path, tokenizer)
    with pytest.raises(error, match=words):
        vocabulary_of(tmp_path, 2048)


def test_tokens_and_their_kinds() -> None:
    kind = gguf.TokenType
    tokens, types = vocabulary_of(POCKET / "pocket_llava", 2050).tokens()
    shipped = AutoTokenizer.from_pretrained(POCKET / "pocket_llava")
    assert tokens[:2048] == shipped.convert_ids_to_tokens(range(2048))
    assert tokens[2048:] == ["[PAD2048]", "[PAD2049]"]
    assert types[0] == types[3] == kind.CONTROL
    assert types[4] == kind.NORMAL
    assert types[2042] == kind.USER_DEFINED
    assert types[2049] == kind.UNUSED


def llama_cpp_ids(name: str, text: str) -> list[int]:
    """Tokens of a text as llama.cpp makes them: GPT-2's pattern, blanks stay around added tokens."""
    whole = json.loads((POCKET / name / FILE).read_text(encoding="utf-8"))
    for entry in whole["added_tokens"]:
        entry["lstrip"] = entry["rstrip"] = False
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return tokenizer.encode(text).ids


@pytest.mark.parametrize("name", ["pocket_llava", "pocket_qwen"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_chat_has_the_same_tokens(name: str, question: str) -> None:
    shipped = AutoTokenizer.from_pretrained(POCKET / name)
    chat = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "And which?"},
    ]
    text = shipped.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    added = content()["added_tokens"] if name == "pocket_llava" else []
    template = without_blanks(shipped.chat_template, added)
    there = shipped.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    expected = shipped(text).input_ids
    assert llama_cpp_ids(name, there) == expected
    if name == "pocket_llava":
        assert llama_cpp_ids(name, text) != expected, "the shipped template has blanks"


def test_blanks_go_only_where_the_tokenizer_takes_them() -> None:
    added = [
        {"content": "A:", "lstrip": False, "rstrip": True},
        {"content": "(B)", "lstrip": True, "rstrip": False},
    ]
    template = "{{ ' A: ' }}{{ '\\n (B) ' }}\n (B)x"
    assert without_blanks(template, added) == "{{ ' A:' }}{{ '(B) ' }}(B)x"


class Written(gguf.GGUFWriter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(None, "llama")

    def value(self, key: str) -> Any:
        entry = self.kv_data[0].get(f"tokenizer.{key}")
        return None if entry is None else entry.value


def test_sentencepieces_tokens_get_scores(tmp_path: Path) -> None:
    """Merges by score give the tokens that merges by rank give."""
    merges = [("l", "o"), ("lo", "w"), ("\u2581", "low"), ("l", "ow"), ("o", "w")]
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x41>",
        "\u2581",
        "l",
        "o",
        "w",
        "lo",
        "low",
        "\u2581low",
        "ow",
    ]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    model = BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>")
    tokenizer = json.loads(Tokenizer(model).to_str())
    tokenizer["added_tokens"] = [
        {"id": number, "content": pieces[number], "special": True, "lstrip": False, "rstrip": False,
         "normalized": False, "single_word": False}
        for number in range(3)
    ]  # fmt: skip
    tokenizer["normalizer"] = {
        "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}],
    }  # fmt: skip
    folder_of(tmp_path, tokenizer)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    writer = Written()
    vocabulary_of(tmp_path, 12).add_keys(writer)
    kind = gguf.TokenType
    assert writer.value("ggml.model") == "llama"
    assert writer.value("ggml.token_type")[:5] == [
        kind.UNKNOWN, kind.CONTROL, kind.CONTROL, kind.BYTE, kind.NORMAL,
    ]  # fmt: skip
    scores = dict(zip(pieces, writer.value("ggml.scores"), strict=True))
    assert scores["lo"] > scores["low"] > scores["\u2581low"] > scores["ow"] > scores["l"]
    assert writer.value("ggml.add_space_prefix") is True
    assert writer.value("ggml.add_bos_token") is False
    assert writer.value("ggml.merges") is None
    assert (writer.value("ggml.eos_token_id"), writer.value("ggml.eot_token_id")) == (2, 1)


def test_byte_pairs_keep_their_merges() -> None:
    writer = Written()
    vocabulary_of(POCKET / "pocket_qwen", 2055).add_keys(writer)
    assert writer.value("ggml.model") == "gpt2"
    merges = json.loads((POCKET / "pocket_qwen" / FILE).read_text(encoding="utf-8"))["model"]["merges"]  # fmt: skip
    assert writer.value("ggml.merges") == [" ".join(pair) for pair in merges]
    assert writer.value("ggml.add_bos_token") is True
    assert writer.value("ggml.add_eos_token") is False
    assert writer.value("ggml.scores") is None
    assert writer.value("ggml.eos_token_id") == 2050
