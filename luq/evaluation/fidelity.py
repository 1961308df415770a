"""Fidelity: what the answers' probabilities say where the answers themselves are too coarse.

Teacher-forced on the reference answers, one forward pass per batch: KL divergence to the 16-bit
model's distribution, agreement of the most likely token, and the log-likelihood of the reference
answer.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from luq.errors import DataError
from luq.evaluation.ask import check
from luq.evaluation.lm import UnaskableError
from luq.evaluation.predictions import (
    IMAGE,
    TOP_FIRST,
    AnswerRow,
    FidelityRow,
    FidelityRows,
    PromptRow,
)
from luq.formats import tensor_files
from luq.models.asking import PLACEHOLDER, plain_text
from luq.models.processors import image_token_id
from luq.models.quiet import quiet
from luq.questions.prompts import TARGETS, Doc, prompt_of
from luq.questions.specs import task_config
from luq.questions.tables import Questions

if TYPE_CHECKING:
    from PIL.Image import Image

    from luq.evaluation.lm import LoadedVLM

TOP = 256  # tokens of the 16-bit distribution that are stored; KL counts the others as one
LEAST_PROBABILITY = 1e-12  # of the tokens that are not stored, so that its logarithm is finite


class Forced(NamedTuple):
    """One question with its reference answer."""

    id: int
    text: str  # the whole chat
    image: "Image"
    answer: list[int]  # the last tokens of `text`


class AnswerLogs(NamedTuple):
    """Log-probabilities of every token at the n places of one question's reference answer."""

    id: int
    tokens: Tensor  # of the answer [n]
    logs: Tensor  # [n, vocabulary]


class LeftOut(NamedTuple):
    """A question that cannot be asked, and why."""

    id: int
    reason: str


class TopLogs(NamedTuple):
    """The 16-bit model's most likely tokens at the n places of a reference answer."""

    tokens: Tensor  # [n, TOP]
    logs: Tensor  # their log-probabilities [n, TOP]


class Message(NamedTuple):
    """One message of a chat."""

    role: str
    content: str


def _chat(lm: "LoadedVLM", messages: list[Message], is_answered: bool) -> str:
    """A chat as the model's template writes it.

    Unless it is answered, it ends where the model's answer begins.
    """
    # lm-eval changes the dictionaries that it gets, so they are made for each call.
    dictionaries = [message._asdict() for message in messages]
    chat: str = lm.apply_chat_template(dictionaries, add_generation_prompt=not is_answered)
    return chat


def question_chat(lm: "LoadedVLM", questions: Questions, doc: Doc) -> str:
    """A question as the model's own template writes it, up to where the answer begins."""
    return _chat(lm, _messages(questions, doc, lm.system_prompt), is_answered=False)


def _messages(questions: Questions, doc: Doc, system: str) -> list[Message]:
    """The chat before the answer; `system` is empty for no system prompt."""
    messages: list[Message] = []
    if system:
        messages.append(Message("system", system))
    prompt_text = prompt_of(questions.benchmark, questions.protocol)(doc)
    messages.append(Message("user", PLACEHOLDER + prompt_text))
    return messages


def forced(lm: "LoadedVLM", questions: Questions, id_: int, doc: Doc, system: str) -> Forced:
    """The chat with the reference answer as the model's own template writes it.

    Args:
        lm: from `ask.make_lm`.
        questions: of one benchmark.
        id_: the question's row.
        doc: the row.
        system: the system prompt; empty for none.

    Returns:
        The chat with its end of turn.

    Raises:
        DataError: the image does not decode.
    """
    messages = _messages(questions, doc, system)
    answer = plain_text(lm.processor, TARGETS[questions.benchmark](doc))
    end = lm.tokenizer.eos_token
    prompt = _chat(lm, messages, is_answered=False)
    answered = [*messages, Message("assistant", answer)]
    chat = _chat(lm, answered, is_answered=True).rstrip() + end
    if not chat.startswith(prompt):
        # Some templates write past messages otherwise than the one that is being written.
        chat = f"{prompt} {answer}{end}"
    # The answer's tokens are those that the chat has beyond the prompt.
    prompt_tokens: list[int] = lm.tokenizer(prompt, add_special_tokens=False).input_ids
    chat_tokens: list[int] = lm.tokenizer(chat, add_special_tokens=False).input_ids
    image = questions.image(id_).convert("RGB")
    return Forced(id_, chat, image, chat_tokens[len(prompt_tokens) :])


def _by_length(lm: "LoadedVLM", questions: Questions, ids: list[int]) -> Iterator[list[int]]:
    """Rows of questions of similar length together, the longest first."""
    lengths: dict[int, int] = {}
    for id_, doc in zip(ids, questions.docs.select(ids), strict=True):
        answer = lm.tok_encode(TARGETS[questions.benchmark](doc))
        chat = question_chat(lm, questions, doc)
        lengths[id_] = lm.chat_length(chat, questions.image(id_)) + len(answer)
    ordered = sorted(ids, key=lambda id_: (-lengths[id_], id_))
    for start in range(0, len(ordered), lm.batch_size):
        yield ordered[start : start + lm.batch_size]


def log_probabilities(
    lm: "LoadedVLM",
    questions: Questions,
    ids: list[int],
    strict: bool,
    advance: Callable[[int], None],
) -> Iterator[AnswerLogs | LeftOut]:
    """Log-probabilities of the questions' reference answers.

    What is wrong in the scores because it cannot be asked is left out, by the same rules.

    Args:
        lm: from `ask.make_lm`.
        questions: of one benchmark.
        ids: their rows.
        strict: the first question that cannot be asked is a DataError, instead of left out.
        advance: is told how many more questions are done.
    """
    good, bad = check(questions, ids, strict)
    for row in bad:
        yield LeftOut(row["id"], row["error"])
    if bad:
        advance(len(bad))
    with quiet(), torch.no_grad():
        for batch in _by_length(lm, questions, good):
            for answer in _answer_logs(lm, questions, batch):
                if strict and isinstance(answer, LeftOut):
                    raise DataError(f"{questions.benchmark} row {answer.id}: {answer.reason}")
                yield answer
            advance(len(batch))


def _answer_logs(
    lm: "LoadedVLM", questions: Questions, ids: list[int]
) -> Iterator[AnswerLogs | LeftOut]:
    """Log-probabilities of one batch of questions."""
    system = lm.system_prompt
    batch: list[Forced] = []
    for id_, doc in zip(ids, questions.docs.select(ids), strict=True):
        try:
            batch.append(forced(lm, questions, id_, doc, system))
        except DataError as error:
            yield LeftOut(id_, str(error))
    while batch:
        try:
            encoded = _encoded(lm, questions, batch)
        except UnaskableError as error:
            fitting: list[Forced] = []
            for position, question in enumerate(batch):
                if position in error.reasons:
                    yield LeftOut(question.id, error.reasons[position])
                else:
                    fitting.append(question)
            batch = fitting
            continue
        longest = max(len(question.answer) for question in batch)
        # A token's probabilities stand one place before it. Batches are padded on the left, so
        # answers stand at the end of all sequences.
        logits = lm.logits(encoded, longest + 1)
        for logits_of_question, question in zip(logits, batch, strict=True):
            n = len(question.answer)
            logs = logits_of_question[-n - 1 : -1].float().log_softmax(-1).cpu()
            yield AnswerLogs(question.id, torch.tensor(question.answer), logs)
        return


def first_tokens(lm: "LoadedVLM", questions: Questions, ids: list[int]) -> Iterator[PromptRow]:
    """Prompts of one batch as the processor writes them, and the model's first tokens.

    Questions that cannot be asked are left out.

    Args:
        lm: from `ask.make_lm`.
        questions: of one benchmark.
        ids: their rows.
    """
    good = check(questions, ids, strict=False).good
    asked_ids: list[int] = []
    chats: list[str] = []
    images: list[list[Any]] = []
    for id_, doc in zip(good, questions.docs.select(good), strict=True):
        try:
            image = questions.image(id_).convert("RGB")
        except DataError:
            continue
        asked_ids.append(id_)
        chats.append(question_chat(lm, questions, doc))
        images.append([image])
    if not asked_ids:
        return
    with quiet(), torch.no_grad():
        try:
            encoded = lm.tok_batch_multimodal_encode(chats, images)
        except UnaskableError as error:
            remaining_ids = [
                id_ for place, id_ in enumerate(asked_ids) if place not in error.reasons
            ]
            yield from first_tokens(lm, questions, remaining_ids)
            return
        logits = lm.logits(encoded, 1)[:, -1]
    logs = logits.float().log_softmax(-1).cpu()
    image_token = image_token_id(lm.vlm.model.config, lm.vlm.processor)
    for id_, tokens, mask, row in zip(
        asked_ids, encoded["input_ids"], encoded["attention_mask"], logs, strict=True
    ):
        top = row.topk(min(TOP_FIRST, len(row)))
        prompt = [IMAGE if token == image_token else token for token in tokens[mask > 0].tolist()]
        yield {
            "id": id_,
            "tokens": prompt,
            "top": top.indices.tolist(),
            "logs": top.values.tolist(),
        }


def _encoded(lm: "LoadedVLM", questions: Questions, batch: list[Forced]) -> Any:
    """Tokens and pixels of a batch.

    Raises:
        UnaskableError: the processor refuses a question, or the scores leave it out because its
            prompt and the longest answer that is generated do not fit the context.
    """
    texts = [question.text for question in batch]
    images = [[question.image] for question in batch]
    encoded = lm.tok_batch_multimodal_encode(texts, images)
    prompt_lengths: list[int] = []
    for length, question in zip(encoded["attention_mask"].sum(1).tolist(), batch, strict=True):
        prompt_lengths.append(length - len(question.answer))
    task = task_config(questions.benchmark, questions.protocol)
    longest_answer: int = task["generation_kwargs"]["max_gen_toks"]
    lm.require_room(prompt_lengths, lm.max_length - longest_answer)
    return encoded


def write_reference(file: Path, answers: Iterable[AnswerLogs | LeftOut]) -> None:
    """Store the 16-bit model's TOP most likely tokens at every answer token.

    Args:
        file: is written: `ids` [questions], `counts` of answer tokens [questions], and for all
            answer tokens in turn `top` and `log` [tokens, TOP].
        answers: of the 16-bit model; what is left out is not written.
    """
    ids: list[int] = []
    counts: list[int] = []
    # Empty tensors first, so that there is something to join if there is no answer.
    tops = [torch.zeros(0, TOP, dtype=torch.int32)]
    logs = [torch.zeros(0, TOP)]
    for answer in answers:
        if isinstance(answer, LeftOut):
            continue
        top = answer.logs.topk(min(TOP, answer.logs.shape[-1]), dim=-1)
        ids.append(answer.id)
        counts.append(len(answer.tokens))
        tops.append(top.indices.int())
        logs.append(top.values)
    tensors = {
        "ids": torch.tensor(ids, dtype=torch.int64),
        "counts": torch.tensor(counts, dtype=torch.int64),
        "top": torch.cat(tops),
        "log": torch.cat(logs),
    }
    tensor_files.save(tensors, file)


def read_reference(file: Path) -> dict[int, TopLogs]:
    """Question id -> the 16-bit model's most likely tokens."""
    tensors = load_file(file)
    reference: dict[int, TopLogs] = {}
    start = 0
    for id_, count in zip(tensors["ids"].tolist(), tensors["counts"].tolist(), strict=True):
        tokens = tensors["top"][start : start + count].long()
        reference[id_] = TopLogs(tokens, tensors["log"][start : start + count])
        start += count
    return reference


def divergence(reference: TopLogs, logs: Tensor) -> Tensor:
    """KL(16-bit || model), over the TOP tokens of the 16-bit model and the others as one.

    A lower bound of the KL over all tokens, and close to it where the others are unlikely.

    Args:
        reference: of the 16-bit model.
        logs: log-probabilities of the model [n, vocabulary].

    Returns:
        Nats per token [n].
    """
    # KL = sum_i p_i (log p_i - log q_i) + p_others log(p_others / q_others), i over the TOP tokens
    p = reference.logs.double()  # log p_i
    q = logs.gather(-1, reference.tokens).double()
    kl = (p.exp() * (p - q)).sum(-1)
    others_p = (1 - p.exp().sum(-1)).clamp_min(LEAST_PROBABILITY)
    others_q = (1 - q.exp().sum(-1)).clamp_min(LEAST_PROBABILITY)
    # Rounding can leave a little less than 0.
    return (kl + others_p * (others_p / others_q).log()).clamp_min(0)


def measure(answers: Iterable[AnswerLogs | LeftOut], reference: dict[int, TopLogs]) -> FidelityRows:
    """How far the probabilities of each question's reference answer moved, by question id.

    Args:
        answers: of packed layers.
        reference: question id -> what `read_reference` gives of the 16-bit model.
    """
    rows = FidelityRows([], [])
    for answer in answers:
        if isinstance(answer, LeftOut):
            rows.left_out.append(AnswerRow(id=answer.id, error=answer.reason))
            continue
        question, tokens, logs = answer
        top = reference[question]
        same_first_choice = logs.argmax(-1) == top.tokens[:, 0]
        row = FidelityRow(
            id=question,
            tokens=len(tokens),
            kl=float(divergence(top, logs).mean()),
            agreement=float(same_first_choice.double().mean()),
            loglik=float(logs.gather(-1, tokens[:, None]).sum()),
        )
        rows.measured.append(row)
    rows.measured.sort(key=lambda row: row["id"])
    rows.left_out.sort(key=lambda row: row["id"])
    return rows
