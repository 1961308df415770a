"""The pocket models' own byte-pair tokenizer.

Digits are single pieces and words in capitals are cut in pairs of letters, as the pictures print
them. The benchmarks' fixed phrases are single added tokens.
"""

from pathlib import Path

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luq.pocket import text
from luq.pocket.benchmarks import ROWS, image_column
from luq.pocket.questions import Rng, text_question
from luq.pocket.skills import caption
from luq.questions import prompts

VOCABULARY = 2048
MAX_LENGTH = 2048  # tokens; the models' number of positions
SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
PHRASES = [prompts.SHORT, prompts.WORD, prompts.LETTER, prompts.INTEGER]
ROLES = [AddedToken("USER:", rstrip=True), AddedToken("ASSISTANT:", lstrip=True)]
QUESTIONS_PER_BENCHMARK = 400  # that the vocabulary is learned from
TEXT_QUESTIONS = 20 * QUESTIONS_PER_BENCHMARK
# In this order: a digit; two capitals; a word; a capital; white space; punctuation. A space
# before a piece belongs to it.
PIECES = r" ?\d| ?[A-Z]{2}(?![a-z])| ?[A-Za-z]?[a-z]+| ?[A-Z]|\s+| ?[^\sA-Za-z0-9]+"


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary[token]


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer of a pocket model's checkpoint."""
    # The class that reads any tokenizer's folder; the pocket models have fast ones.
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # type: ignore[return-value]


def _sample_of_the_world(rng: Rng) -> list[str]:
    """Questions with their answers, and captions."""
    lines = []
    for _ in range(TEXT_QUESTIONS):
        question = text_question(rng)
        claim = question.claim.format(question.answer)
        lines.append(f"{question.text} {question.answer} {claim}")
    for benchmark, make_rows in ROWS.items():
        for index in range(QUESTIONS_PER_BENCHMARK):
            row = make_rows(rng, "train", index)[0]
            prompt = prompts.PROMPTS[benchmark](row)
            target = prompts.TARGETS[benchmark](row)
            lines.append(f"{prompt} {target}")
            lines.append(caption(row[image_column(benchmark)]))
    return lines


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the vocabulary from the training text; takes about ten seconds.

    Returns:
        The same tokenizer every time: it depends on the training text alone.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(PHRASES) - len(ROLES),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    world = _sample_of_the_world(np.random.default_rng(0))
    tokenizer.train_from_iterator(world + text.split("train"), trainer)
    tokenizer.add_tokens(ROLES)
    tokenizer.add_tokens([AddedToken(phrase) for phrase in PHRASES])
    start = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types
        tokenizer_object=tokenizer,
        padding_side="left",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
