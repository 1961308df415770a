"""Losses on held-out text, from which perplexity is made."""

from typing import Any

import torch
from torch import Tensor

from luq.errors import DataError
from luq.models.computing import answered_in
from luq.models.vlm import VLM
from luq.questions.text import TextSource, Windows

BATCH_TOKENS = 2048  # in one forward pass, or one sequence if that is longer


def text_tokens(tokenizer: Any, source: TextSource, tokens: int, length: int) -> Tensor:
    """Sequences of held-out text [n, length], of at most `tokens` tokens in all.

    Each begins as the tokenizer begins a text.

    Raises:
        DataError: the text is shorter than one sequence.
    """
    cutter = Windows(tokenizer, source.name, length)
    passages = source.passages()
    sequences: list[list[int]] = []
    if passages is None:
        sequences = cutter.add(source.read())
    else:
        # Passages end where a text ended in training, so that none continues the one before it.
        for passage in passages:
            sequences += cutter.add_passage(passage)
    sequences = sequences[: tokens // length]
    if not sequences:
        raise DataError(
            f"evaluation.text={source.name} holds {len(cutter.rest)} tokens: fewer than "
            "evaluation.text_length"
        )
    return torch.tensor(sequences)


def text_losses(vlm: VLM, sequences: Tensor, compute: str = "model") -> list[float]:
    """Mean negative log-likelihood (nats per token) of each sequence [n, length].

    Args:
        vlm: what reads them.
        sequences: of tokens.
        compute: as `EvaluationConfig.compute`.
    """
    losses: list[float] = []
    size = max(1, BATCH_TOKENS // sequences.shape[1])
    with torch.no_grad(), answered_in(compute, vlm):
        for start in range(0, len(sequences), size):
            batch = sequences[start : start + size].to(vlm.device)
            output = vlm.model(input_ids=batch, attention_mask=torch.ones_like(batch))
            # The logits at a place are of the next token: the last has none to predict.
            logits = output.logits[:, :-1].flatten(0, 1).float()  # [places, vocabulary]
            loss = torch.nn.functional.cross_entropy(
                logits, batch[:, 1:].flatten(), reduction="none"
            )
            losses += loss.view(len(batch), -1).mean(1).tolist()
    return losses
