"""How a loaded model is asked, the same in evaluation, calibration and chat.

Text of users and datasets is text, whatever tokens it spells; answers are greedy, from the
probabilities that fidelity measures; and nothing longer than the context is asked.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import GenerationConfig

PLACEHOLDER = "<image>"  # lm-eval's place for an image in a prompt
# Of models whose configuration names no context length.
DEFAULT_CONTEXT = 2048
# How a processor calls the tokens that stand for images and videos.
_MEDIA_TOKENS = ("image_token", "video_token", "boi_token", "eoi_token")


def context_length(model: Any) -> int:
    """Positions that the language model was made for."""
    text = model.config.get_text_config()
    return int(getattr(text, "max_position_embeddings", DEFAULT_CONTEXT))


def greedy(model: Any, tokens: int | None = None) -> "GenerationConfig":
    """The generation config of greedy answers, with a checkpoint's own tokens that end them.

    What else a checkpoint's generation_config.json says is left out: Qwen2.5-VL's repetition
    penalty would change the answers, and is not in the probabilities.

    Args:
        model: Whose answers they are.
        tokens: Of an answer, at most; None: who generates says it.
    """
    from transformers import GenerationConfig

    checkpoint_config = model.generation_config
    return GenerationConfig(  # type: ignore[no-untyped-call]  # theirs
        do_sample=False,
        max_new_tokens=tokens,
        bos_token_id=checkpoint_config.bos_token_id,
        eos_token_id=checkpoint_config.eos_token_id,
        pad_token_id=checkpoint_config.pad_token_id,
    )


def plain_text(processor: Any, text: str) -> str:
    """The text with a space in every special token that it spells, as in `< image>`.

    So the tokenizer does not take it for the token, which would part images from their places or
    end the turn.

    Args:
        processor: with its tokenizer.
        text: of a user or a dataset.
    """
    tokenizer = processor.tokenizer
    tokens: set[str] = {PLACEHOLDER, *tokenizer.all_special_tokens}
    tokens.update(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)
    for name in _MEDIA_TOKENS:
        token = getattr(processor, name, None)
        if isinstance(token, str):
            tokens.add(token)
    return spelled_apart(text, frozenset(tokens))


def spelled_apart(text: str, tokens: frozenset[str]) -> str:
    """The text with a space in every one of some tokens that it spells."""
    return _spelled(tokens).sub(_with_space, text)


@lru_cache(maxsize=8)
def _spelled(tokens: frozenset[str]) -> re.Pattern[str]:
    """Matches every one of some tokens; of two that begin alike, the longer."""
    # A token of one character, or of spaces, is ordinary text.
    marks = [token for token in tokens if len(token.strip()) > 1]
    longest_first = sorted(marks, key=lambda token: (-len(token), token))
    return re.compile("|".join(re.escape(token) for token in longest_first))


def _with_space(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[0]} {token[1:]}"
