"""The pocket models' own byte-pair tokenizer.

Digits are single pieces and words in capitals are cut in pairs of letters, as the pictures print
them. The benchmarks' fixed phrases are single added tokens.
"""

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
from transformers import PreTrainedTokenizerFast

from luq.pocket import text
from luq.pocket.benchmarks import ROWS
from luq.pocket.questions import text_question
from luq.pocket.skills import caption
from luq.questions import prompts

VOCABULARY = 2048
SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
PHRASES = [prompts.SHORT, prompts.WORD, prompts.LETTER, prompts.INTEGER]


def _sample_of_the_world(rng: np.random.Generator, n: int = 400) -> list[str]:
    lines = [
        f"{q.text} {q.answer} {q.claim.format(q.answer)}"
        for q in (text_question(rng) for _ in range(20 * n))
    ]
    for name, rows in ROWS.items():
        for i in range(n):
            doc = rows(rng, "train", i)[0]
            lines.append(f"{prompts.PROMPTS[name](doc)} {prompts.TARGETS[name](doc)}")
            scene = doc.get("image") or doc["decoded_image"]
            lines.append(caption(scene))
    return lines


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the vocabulary from the training text; takes about ten seconds and depends on nothing else."""
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r" ?\d| ?[A-Z]{2}(?![a-z])| ?[A-Za-z]?[a-z]+| ?[A-Z]|\s+| ?[^\sA-Za-z0-9]+")
    cut = pre_tokenizers.Split(pattern, "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(PHRASES) - 2,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    world = _sample_of_the_world(np.random.default_rng(0))
    tokenizer.train_from_iterator(world + text.split("train"), trainer)
    tokenizer.add_tokens([AddedToken("USER:", rstrip=True), AddedToken("ASSISTANT:", lstrip=True)])
    tokenizer.add_tokens([AddedToken(phrase) for phrase in PHRASES])
    start = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
