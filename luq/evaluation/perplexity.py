"""Perplexity on held-out text."""

import math

import torch
from torch import Tensor

from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.evaluation.compare import bootstrap
from luq.models.vlm import VLM
from luq.questions import text


def text_tokens(vlm: VLM, config: EvaluationConfig) -> Tensor:
    """Sequences of held-out text [n, text_length]; a DataError if there is not one."""
    tokenizer = vlm.processor.tokenizer
    if config.text == "pocket":
        from luq.pocket.text import split

        ids = [
            i
            for passage in tokenizer(split("report")).input_ids
            for i in (*passage, tokenizer.eos_token_id)
        ]
    else:
        ids = tokenizer(text.read(config.text, "report")).input_ids
    n = min(len(ids), config.text_tokens) // config.text_length
    if n == 0:
        raise DataError(
            f"evaluation.text={config.text} holds {len(ids)} tokens: fewer than evaluation.text_length"
        )
    return torch.tensor(ids[: n * config.text_length]).view(n, config.text_length)


def text_losses(vlm: VLM, config: EvaluationConfig) -> list[float]:
    """Mean negative log-likelihood (nats per token) of each sequence of the held-out text."""
    sequences, losses = text_tokens(vlm, config), []
    with torch.no_grad():
        for batch in sequences.split(max(1, 2048 // config.text_length)):
            batch = batch.to(vlm.device)
            logs = (
                vlm.model(input_ids=batch, attention_mask=torch.ones_like(batch))
                .logits[:, :-1]
                .float()
            )
            loss = torch.nn.functional.cross_entropy(
                logs.transpose(1, 2), batch[:, 1:], reduction="none"
            )
            losses += loss.mean(1).tolist()
    return losses


def perplexity(losses: list[float], length: int) -> dict[str, float]:
    """exp of the mean loss, with its 95 % bootstrap interval over sequences of `length` tokens."""
    value, low, high = (math.exp(min(x, 700)) for x in bootstrap(losses))
    return {"value": value, "low": low, "high": high, "tokens": len(losses) * (length - 1)}
