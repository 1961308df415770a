"""A tokenizer as llama.cpp has it: tokens, merges, how texts are split, and the chat template."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from luq.errors import ConfigError, ModelError
from luq.export.gguf.package import gguf_package
from luq.models.quiet import quiet
from luq.models.settings_files import read_settings

FILE = "tokenizer.json"
GENERATION = "generation_config.json"
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
WORD_BEGIN = "\u2581"  # what SentencePiece writes for a blank
# What follows an apostrophe in English.
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}"
LLAMA3 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}"
# Of the models that come with LUQ: it is no other program's. GPT-2's is nearest: it gives other
# tokens for words in capitals, which this one cuts in pairs of letters.
SHIPPED = r" ?\d| ?[A-Z]{2}(?![a-z])| ?[A-Za-z]?[a-z]+| ?[A-Z]|\s+| ?[^\sA-Za-z0-9]+"
# How tokenizers split a text before they merge pieces, and whether they take whole words that they
# know before they merge -> llama.cpp's name for it.
Steps = tuple[tuple[str, object], ...]
PRE_TOKENIZERS: dict[tuple[Steps, bool], str] = {
    ((("ByteLevel", True),), False): "gpt-2",
    ((("Digits", True), ("ByteLevel", True)), False): "smollm",
    ((("Split", QWEN2), ("ByteLevel", False)), False): "qwen2",
    ((("Split", LLAMA3), ("ByteLevel", False)), True): "llama-bpe",
    ((("Split", SHIPPED), ("ByteLevel", False)), False): "gpt-2",
}
NORMALIZERS = (None, "NFC")  # llama.cpp's byte pairs take texts as they come


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Args:
        folder: a checkpoint.
        content: of its tokenizer.json.
        size: rows of the embeddings.
    """

    folder: Path
    content: dict[str, Any]
    size: int

    @property
    def is_sentencepiece(self) -> bool:
        """Whether it has tokens for single bytes, as SentencePiece's byte pairs do."""
        return bool(self.content["model"].get("byte_fallback"))

    def add_keys(self, writer: Any) -> None:
        """Give a `gguf.GGUFWriter` all that llama.cpp needs to make tokens of texts."""
        gguf = gguf_package()
        tokens, types = self.tokens()
        writer.add_tokenizer_model("llama" if self.is_sentencepiece else "gpt2")
        writer.add_tokenizer_pre(self.pre_tokenizer())
        writer.add_token_list(tokens)
        if self.is_sentencepiece:
            writer.add_token_scores(self.scores(tokens))
            writer.add_add_space_prefix(self._puts_blank_first())
        writer.add_token_types(types)
        with quiet():  # it guesses what is put around texts, and warns: here it is asked for
            special = gguf.SpecialVocab(
                self.folder, load_merges=not self.is_sentencepiece, n_vocab=self.size
            )
        special.add_special_token = self._puts_around(special.special_token_ids)
        self._add_other_ends(special)
        template = special.chat_template
        if isinstance(template, str):
            special.chat_template = without_blanks(template, self.content["added_tokens"])
        special.add_to_gguf(writer, quiet=True)

    def tokens(self) -> tuple[list[str], list[int]]:
        """All tokens by their id, and llama.cpp's kinds of them."""
        kind = gguf_package().TokenType
        tokens = [f"[PAD{number}]" for number in range(self.size)]
        types = [int(kind.UNUSED)] * self.size
        unknown = self.content["model"].get("unk_token")
        for text, number in self.content["model"]["vocab"].items():
            is_byte = self.is_sentencepiece and BYTE_TOKEN.fullmatch(text)
            tokens[number] = text
            types[number] = int(kind.BYTE if is_byte else kind.NORMAL)
        for entry in self.content["added_tokens"]:
            text, number = entry["content"], entry["id"]
            tokens[number] = text
            types[number] = int(kind.CONTROL if entry["special"] else kind.USER_DEFINED)
            if self.is_sentencepiece and text == unknown:
                types[number] = int(kind.UNKNOWN)
        return tokens, types

    def scores(self, tokens: list[str]) -> list[float]:
        """By which llama.cpp merges SentencePiece's tokens: the higher, the sooner.

        tokenizer.json has an order of pairs instead. It was made of such scores, so that all pairs
        that give one token follow each other: the place of the first one is as good.
        """
        ranks: dict[str, int] = {}
        for rank, pair in enumerate(self.content["model"]["merges"]):
            left, right = pair.split(" ") if isinstance(pair, str) else pair
            ranks.setdefault(left + right, rank)
        last = len(self.content["model"]["merges"])
        return [-float(ranks.get(token, last)) for token in tokens]

    def pre_tokenizer(self) -> str:
        """llama.cpp's name for how texts are split before pieces are merged.

        Raises:
            ConfigError: this version knows none that does the same.
        """
        if self.is_sentencepiece:
            return "default"
        steps: list[tuple[str, object]] = []
        for step in _steps(self.content.get("pre_tokenizer")):
            steps.append((step["type"], _setting(step)))
        normalizer = (self.content.get("normalizer") or {}).get("type")
        ignores_merges = bool(self.content["model"].get("ignore_merges"))
        name = PRE_TOKENIZERS.get((tuple(steps), ignores_merges))
        if name is None or normalizer not in NORMALIZERS:
            pre_tokenizer_names = ", ".join(dict.fromkeys(PRE_TOKENIZERS.values()))
            raise ConfigError(
                f"{self.folder / FILE} splits texts as none of llama.cpp's tokenizers that this "
                f"version knows ({pre_tokenizer_names}) does: "
                f"{json.dumps(self.content.get('pre_tokenizer'))}. Leave --format gguf out"
            )
        return name

    @property
    def differences(self) -> list[str]:
        """What llama.cpp is known to make other tokens of."""
        steps = _steps(self.content.get("pre_tokenizer"))
        if not any(_setting(step) == SHIPPED for step in steps):
            return []
        return [
            "llama.cpp has no name for how this tokenizer cuts words in capitals: with "
            f"{self.pre_tokenizer()} it makes other tokens of them than the run saw"
        ]

    def _puts_blank_first(self) -> bool:
        """Whether a text gets a blank before it."""
        for step in _steps(self.content.get("normalizer")):
            if step["type"] == "Prepend" and step.get("prepend") == WORD_BEGIN:
                return True
        for step in _steps(self.content.get("pre_tokenizer")):
            if step["type"] == "Metaspace":
                return bool(step.get("prepend_scheme", "always") != "never")
        return False

    def _puts_around(self, special_ids: dict[str, int]) -> dict[str, bool]:
        """Whether a text's tokens begin with bos, and end with eos."""
        tokens = Tokenizer.from_file(str(self.folder / FILE)).encode("a").ids
        return {
            "bos": tokens[0] == special_ids.get("bos"),
            "eos": tokens[-1] == special_ids.get("eos"),
        }

    def _add_other_ends(self, special: Any) -> None:
        """Further tokens that end an answer: llama.cpp has room for two beside the tokenizer's."""
        file = self.folder / GENERATION
        if not file.exists():
            return
        ends = read_settings(file).get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends]
        special_ids = special.special_token_ids
        further_ends = [end for end in ends if type(end) is int and end != special_ids.get("eos")]
        for name, end in zip(("eot", "eom"), further_ends, strict=False):
            special_ids.setdefault(name, end)


def _steps(part: dict[str, Any] | None) -> Iterable[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, one after the other."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        steps: list[dict[str, Any]] = part.get("pretokenizers") or part.get("normalizers") or []
        return steps
    return [part]


def _setting(step: dict[str, Any]) -> object:
    """What tells a step of a pre-tokenizer from others of its type; None: it is none of ours."""
    if step["type"] == "Split":
        is_plain = step.get("behavior") == "Isolated" and not step.get("invert")
        return step["pattern"].get("Regex") if is_plain else None
    if step["type"] == "Digits":
        return step.get("individual_digits")
    if step["type"] == "ByteLevel" and not step.get("add_prefix_space"):
        return step.get("use_regex", True)
    return None


def without_blanks(template: str, added_tokens: list[dict[str, Any]]) -> str:
    """A chat template without blanks that its tokenizer takes away around added tokens.

    llama.cpp leaves them where they are.

    Args:
        template: in Jinja.
        added_tokens: entries of tokenizer.json.
    """
    blanks = r"(?:\s|\\n)+"
    for entry in added_tokens:
        content = re.escape(entry["content"])
        if entry["lstrip"]:
            template = re.sub(f"{blanks}(?={content})", "", template)
        if entry["rstrip"]:
            template = re.sub(f"(?<={content}){blanks}", "", template)
    return template


def vocabulary_of(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a checkpoint.

    Args:
        folder: the checkpoint.
        size: rows of its embeddings.

    Raises:
        ModelError: it has no tokenizer.json, or another kind of tokenizer.
        ConfigError: llama.cpp would split texts in another way.
    """
    if not (folder / FILE).exists():
        raise ModelError(
            f"{folder / FILE} is missing, which --format gguf reads: write it with transformers' "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    content = read_settings(folder / FILE)
    try:
        if content["model"]["type"] != "BPE":
            raise ConfigError(
                f"{folder / FILE} is no tokenizer of byte pairs but {content['model']['type']}: "
                "leave --format gguf out"
            )
        vocabulary = Vocabulary(folder, content, size)
        vocabulary.pre_tokenizer()
        vocabulary.tokens()
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / FILE} is none of transformers' tokenizers ({error!r}): copy it again"
        ) from error
    return vocabulary
