"""Fidelity: what the answers' probabilities say where the answers themselves are too coarse.

Teacher-forced on the reference answers, one forward pass per batch: KL divergence to the 16-bit model's distribution,
agreement of the most likely token, and the log-likelihood of the reference answer. And perplexity on held-out text.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luq.errors import DataError
from luq.evaluation.ask import quiet, sound
from luq.evaluation.predictions import FidelityRow
from luq.questions.prompts import PROMPTS, TARGETS, Doc
from luq.questions.sources import Questions

TOP = 256  # tokens of the 16-bit distribution that are kept; KL counts the others as one


class Forced(NamedTuple):
    """One question with its reference answer: the whole text, and how many of its tokens are the answer's."""

    id: int
    text: str
    image: Any
    answer: list[int]


def forced(lm: Any, questions: Questions, id_: int, doc: Doc, system: str) -> Forced:
    """The chat with the reference answer, written as the model's own template writes it, end of turn included."""
    turns = [("system", system)] if system else []
    turns.append(("user", "<image>" + PROMPTS[questions.benchmark](doc)))
    answer, end = TARGETS[questions.benchmark](doc), lm.tokenizer.eos_token

    def chat(*more: tuple[str, str]) -> str:
        made: str = lm.apply_chat_template(
            [{"role": r, "content": c} for r, c in (*turns, *more)], add_generation_prompt=not more
        )
        return made

    prompt = chat()
    whole = chat(("assistant", answer)).rstrip() + end
    if not whole.startswith(prompt):
        whole = f"{prompt} {answer}{end}"
    before, after = (
        lm.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, whole)
    )
    return Forced(id_, whole, questions.image(id_).convert("RGB"), after[len(before) :])


def _batches(lm: Any, questions: Questions, ids: list[int], strict: bool) -> Iterator[list[Forced]]:
    """Questions of similar length together; one whose image does not decode is left out (its score says so)."""
    docs = dict(zip(ids, questions.docs.select(ids), strict=True))
    order = sorted(ids, key=lambda i: (-len(PROMPTS[questions.benchmark](docs[i])), i))
    for start in range(0, len(order), lm.batch_size):
        batch = []
        for id_ in order[start : start + lm.batch_size]:
            try:
                batch.append(forced(lm, questions, id_, docs[id_], lm.vlm.config.system_prompt))
            except DataError:
                if strict:
                    raise
        if batch:
            yield batch


def log_probabilities(
    lm: Any, questions: Questions, ids: list[int], strict: bool, advance: Callable[[int], None]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(id, answer tokens [n], log-probabilities of every token at the n places that predict them [n, vocabulary]).

    `lm` is a model of `harness.make_lm`.
    """
    good, _ = sound(questions, ids, strict)
    with quiet(), torch.no_grad():
        for batch in _batches(lm, questions, good, strict):
            encoded = lm.tok_batch_multimodal_encode(
                [f.text for f in batch], [[f.image] for f in batch]
            )
            longest = max(len(f.answer) for f in batch)
            logits = lm.vlm.model(**encoded, logits_to_keep=longest + 1).logits
            for row, question in zip(logits, batch, strict=True):
                n = len(question.answer)
                yield (
                    question.id,
                    torch.tensor(question.answer),
                    row[-n - 1 : -1].float().log_softmax(-1).cpu(),
                )
            advance(len(batch))


def write_reference(file: Path, answers: Iterator[tuple[int, Tensor, Tensor]]) -> None:
    """Keep the 16-bit model's TOP most likely tokens at every answer token."""
    ids, counts, tops, values = [], [], [], []
    for id_, tokens, logs in answers:
        top = logs.topk(min(TOP, logs.shape[-1]), dim=-1)
        ids.append(id_)
        counts.append(len(tokens))
        tops.append(top.indices.int())
        values.append(top.values)
    empty = torch.zeros(0, TOP)
    tensors = {
        "ids": torch.tensor(ids, dtype=torch.int64),
        "counts": torch.tensor(counts, dtype=torch.int64),
    }
    save_file(
        tensors | {"top": torch.cat([empty.int(), *tops]), "log": torch.cat([empty, *values])}, file
    )


def read_reference(file: Path) -> dict[int, tuple[Tensor, Tensor]]:
    """id -> (tokens [n, TOP], their log-probabilities [n, TOP]) of the 16-bit model."""
    kept = load_file(file)
    parts = zip(
        *(kept[name].split(kept["counts"].tolist()) for name in ("top", "log")), strict=True
    )
    return dict(zip(kept["ids"].tolist(), ((top.long(), log) for top, log in parts), strict=True))


def divergence(top: Tensor, reference: Tensor, logs: Tensor) -> Tensor:
    """KL(16-bit || model) in nats per token [n], over the TOP tokens of the 16-bit model and the rest as one.

    `top` and `reference` are [n, TOP], `logs` [n, vocabulary]. A lower bound of the whole KL, and close to it where the
    rest is unlikely.
    """
    p, q = reference.double(), logs.double().gather(-1, top)
    kl = (p.exp() * (p - q)).sum(-1)
    rest_p, rest_q = ((1 - x.exp().sum(-1)).clamp_min(1e-12) for x in (p, q))
    return (kl + rest_p * (rest_p / rest_q).log()).clamp_min(0)


def measure(
    answers: Iterator[tuple[int, Tensor, Tensor]], reference: dict[int, tuple[Tensor, Tensor]]
) -> list[FidelityRow]:
    """How far the probabilities of each question's reference answer moved, by question id.

    Args:
        answers: id, answer tokens [n], log-probabilities [n, vocabulary] of packed layers.
        reference: id -> what `read_reference` gives of the 16-bit model.
    """
    rows: list[FidelityRow] = []
    for question, tokens, logs in answers:
        top, reference_logs = reference[question]
        same_first_choice = logs.argmax(-1) == top[:, 0]
        row = FidelityRow(
            id=question,
            tokens=len(tokens),
            kl=float(divergence(top, reference_logs, logs).mean()),
            agreement=float(same_first_choice.double().mean()),
            loglik=float(logs.gather(-1, tokens[:, None]).sum()),
        )
        rows.append(row)
    return sorted(rows, key=lambda row: row["id"])
