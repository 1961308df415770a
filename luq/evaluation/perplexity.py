"""Losses on held-out text, from which perplexity is made."""

from typing import Any

import torch
from torch import Tensor

from luq.errors import DataError
from luq.models.vlm import VLM
from luq.questions.text import TextSource

BATCH_TOKENS = 2048  # in one forward pass, or one sequence if that is longer


def text_tokens(tokenizer: Any, source: TextSource, tokens: int, length: int) -> Tensor:
    """Sequences of held-out text [n, length], of at most `tokens` tokens in all.

    Raises:
        DataError: the text is shorter than one sequence.
    """
    passages = source.passages()
    ids: list[int] = []
    if passages is None:
        ids = tokenizer(source.read()).input_ids
    else:
        # Passages end where a text ended in training, so that none continues the one before it.
        for passage in tokenizer(passages).input_ids:
            ids += [*passage, tokenizer.eos_token_id]
    count = min(len(ids), tokens) // length
    if count == 0:
        raise DataError(
            f"evaluation.text={source.name} holds {len(ids)} tokens: fewer than "
            "evaluation.text_length"
        )
    return torch.tensor(ids[: count * length]).view(count, length)


def text_losses(vlm: VLM, sequences: Tensor) -> list[float]:
    """Mean negative log-likelihood (nats per token) of each sequence [n, length]."""
    losses: list[float] = []
    size = max(1, BATCH_TOKENS // sequences.shape[1])
    with torch.no_grad():
        for start in range(0, len(sequences), size):
            batch = sequences[start : start + size].to(vlm.device)
            output = vlm.model(input_ids=batch, attention_mask=torch.ones_like(batch))
            # The logits at a place are of the next token: the last has none to predict.
            logits = output.logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), batch[:, 1:], reduction="none"
            )
            losses += loss.mean(1).tolist()
    return losses
