"""The lm-eval model around a VLM in memory. Imported late: lm-eval takes seconds."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM
from PIL import Image
from torch import Tensor

from luq.errors import DataError
from luq.evaluation.predictions import AnswerRow, Predictions
from luq.models.asking import PLACEHOLDER, context_length, greedy, plain_text
from luq.models.computing import answered_in
from luq.models.image_tokens import ImageTokens
from luq.models.processors import ChatProcessor
from luq.models.vlm import VLM
from luq.questions.pictures import reason
from luq.questions.tables import LazyImage


class UnaskableError(DataError):
    """Questions of a batch that a model cannot be asked: position in the batch -> why."""

    def __init__(self, reasons: dict[int, str]):
        super().__init__("; ".join(dict.fromkeys(reasons.values())))
        self.reasons = reasons


@contextlib.contextmanager
def _frozen_garbage() -> Iterator[None]:
    """What is in memory now is not searched for garbage.

    lm-eval collects garbage after every batch, which costs more than a small model's answers.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Session(NamedTuple):
    """One evaluation: where its answers go, and what they belong to."""

    predictions: Predictions
    ids: list[int]  # the row of lm-eval's question `doc_id` is ids[doc_id]
    strict: bool
    advance: Callable[[int], None]


class _Question(NamedTuple):
    """A request whose image is decoded."""

    request: Instance
    image: Image.Image

    def instance(self) -> Instance:
        """The request as lm-eval answers it."""
        request = self.request
        context, limits, visual = request.args
        arguments = (context, limits, {**visual, "visual": [self.image]})
        return Instance("generate_until", request.doc, arguments, request.idx, request.metadata)


class StoredAnswers:
    """The part of an lm-eval model that stores every batch of answers, so that an interrupted
    evaluation can go on.

    Batches are cut from all questions, longest first, whatever was answered before. So a question
    that is asked after an interruption is in the same batch, and gets the same answer.
    """

    batch_size: int
    _session: _Session  # set by `begin`

    @property
    def system_prompt(self) -> str:
        """Before each question; empty for none."""
        raise NotImplementedError

    def answers_to(self, requests: list[Instance]) -> list[AnswerRow]:
        """Rows with a text for each request, all of whose images decode.

        Raises:
            UnaskableError: some cannot be asked; the others are asked again without them.
        """
        raise NotImplementedError

    def prompt_length(self, request: Instance) -> int:
        """By which requests are ordered."""
        raise NotImplementedError

    def begin(
        self,
        predictions: Predictions,
        ids: list[int],
        strict: bool,
        advance: Callable[[int], None],
    ) -> None:
        """Begin an evaluation, before lm-eval is asked to evaluate.

        Args:
            predictions: where answers are added.
            ids: the row of each of lm-eval's questions.
            strict: the first bad row is an error, instead of a row {id, error}.
            advance: is told how many more questions are done.
        """
        self._session = _Session(predictions, ids, strict, advance)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The answers to all requests; lm-eval calls this."""
        predictions = self._session.predictions
        lengths = {id(request): self.prompt_length(request) for request in requests}

        def longest_first(request: Instance) -> tuple[int, str, int | None]:
            return -lengths[id(request)], request.args[0], request.doc_id

        ordered = sorted(requests, key=longest_first)
        with _frozen_garbage():
            for start in range(0, len(ordered), self.batch_size):
                batch = ordered[start : start + self.batch_size]
                missing = [r for r in batch if self._row_id(r) not in predictions.rows]
                if missing:
                    predictions.append(self._answer(missing))
                self._session.advance(len(batch))
        return [predictions.rows[self._row_id(r)].get("text", "") for r in requests]

    def _row_id(self, request: Instance) -> int:
        doc_id: int = request.doc_id
        return self._session.ids[doc_id]

    def _answer(self, batch: list[Instance]) -> list[AnswerRow]:
        """Rows {id, text}, or {id, error} for what cannot be asked: an image that does not decode
        or that the processor refuses, a prompt that is too long.
        """
        rows: list[AnswerRow] = []
        questions: list[_Question] = []
        for request in batch:
            _, _, visual = request.args
            try:
                questions.append(_Question(request, visual["visual"][0].convert("RGB")))
            except DataError as error:
                rows.append(self._failed(request, str(error)))
        while questions:
            instances = [question.instance() for question in questions]
            try:
                answered = self.answers_to(instances)
            except UnaskableError as error:
                # Ask the others again, without those.
                for position, why in error.reasons.items():
                    rows.append(self._failed(questions[position].request, why))
                questions = _without(questions, error.reasons)
                continue
            for question, row in zip(questions, answered, strict=True):
                row["id"] = self._row_id(question.request)
                rows.append(row)
            break
        return rows

    def _failed(self, request: Instance, cause: str) -> AnswerRow:
        row_id = self._row_id(request)
        if self._session.strict:
            raise DataError(f"row {row_id}: {cause}")
        return {"id": row_id, "error": cause}


class LoadedVLM(StoredAnswers, HFMultimodalLM):  # type: ignore[misc]  # lm-eval has no types
    """Answers of a model in memory."""

    def __init__(self, vlm: VLM, batch_size: int, compute: str = "model"):
        self.vlm = vlm
        self._compute = compute  # as `EvaluationConfig.compute`
        super().__init__(
            pretrained=vlm.model,
            batch_size=batch_size,
            max_length=context_length(vlm.model),
            convert_img_format=True,
            # what a prompt without a chat template says for an image
            image_string=str(vlm.processor.image_token or PLACEHOLDER),
        )
        self._device = vlm.device  # of a streamed model transformers says "meta"
        self._image_tokens = ImageTokens(vlm.processor)

    @property
    def system_prompt(self) -> str:
        """Before each question; empty for none."""
        return self.vlm.config.system_prompt

    def _create_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        self.processor = ChatProcessor(self.vlm.processor)
        self.tokenizer = self.vlm.processor.tokenizer

    def begin(
        self,
        predictions: Predictions,
        ids: list[int],
        strict: bool,
        advance: Callable[[int], None],
    ) -> None:
        """As `StoredAnswers.begin`; answers are greedy."""
        self.vlm.model.generation_config = greedy(self.vlm.model)
        super().begin(predictions, ids, strict, advance)

    def prompt_length(self, request: Instance) -> int:
        """Tokens of the chat and of its image, as the processor expands it."""
        chat, _, visual = request.args
        return self.chat_length(chat, visual["visual"][0])

    def chat_length(self, chat: str, image: LazyImage) -> int:
        """Tokens of a chat and of its image, which is not decoded for that."""
        text_length = len(self.tok_encode(chat))
        try:
            width, height = image.size
        except DataError:  # said when the question is asked
            return text_length
        return text_length + self._image_tokens.count(width, height)

    def answers_to(self, requests: list[Instance]) -> list[AnswerRow]:
        """Texts of one batch."""
        return [{"id": 0, "text": text} for text in self.texts_of(requests)]

    def texts_of(self, requests: list[Instance]) -> list[str]:
        """What the model says to one batch."""
        with answered_in(self._compute, self.vlm):
            texts: list[str] = HFMultimodalLM.generate_until(self, requests, disable_tqdm=True)
        return texts

    def logits(self, encoded: Any, last: int) -> Tensor:
        """Logits at the last places of a batch of prompts [batch, last, vocabulary].

        Args:
            encoded: as `tok_batch_multimodal_encode` gives it.
            last: how many places.
        """
        with answered_in(self._compute, self.vlm):
            logits: Tensor = self.vlm.model(**encoded, logits_to_keep=last).logits
        return logits

    def apply_chat_template(
        self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """As lm-eval's, but only the place at the beginning of a message is an image's: what a
        question says is text, also where it says `<image>`.
        """
        messages: list[dict[str, Any]] = []
        for message in chat_history:
            content: str = message["content"]
            image = PLACEHOLDER if content.startswith(PLACEHOLDER) else ""
            text = plain_text(self.processor, content.removeprefix(image))
            messages.append({**message, "content": image + text})
        chat: str = super().apply_chat_template(messages, add_generation_prompt)
        return chat

    def tok_batch_multimodal_encode(
        self,
        strings: list[str],
        images: list[list[Image.Image]],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> Any:
        """As lm-eval's, but nothing is ever cut: that would part image tokens from their image.

        Args:
            strings: chats.
            images: of each chat.
            padding_side: of shorter chats.
            left_truncate_len: tokens that a chat may have; None for no limit.
            truncation: as lm-eval's.

        Raises:
            UnaskableError: the processor refuses some chats, or they are longer than the limit.
        """
        own_padding_side = self.tokenizer.padding_side
        encode = super().tok_batch_multimodal_encode
        try:
            encoded = encode(strings, images, padding_side, None, truncation)
        except Exception as error:
            refused: dict[int, str] = {}
            for position, (string, images_of_string) in enumerate(
                zip(strings, images, strict=True)
            ):
                try:
                    encode([string], [images_of_string], padding_side, None, truncation)
                except (MemoryError, torch.OutOfMemoryError):
                    raise  # no fault of the question
                except Exception as refusal:  # noqa: BLE001 (processors raise many kinds)
                    refused[position] = f"the processor refuses it ({reason(refusal)})"
            if not refused:
                raise
            raise UnaskableError(refused) from error
        finally:
            # lm-eval leaves the side as it set it if the processor refuses.
            self.tokenizer.padding_side = own_padding_side
        if left_truncate_len:
            lengths = encoded["attention_mask"].sum(1).tolist()
            self.require_room(lengths, left_truncate_len)
        return encoded

    @staticmethod
    def require_room(lengths: list[int], limit: int) -> None:
        """An UnaskableError if some of a batch's prompts have more tokens than the limit."""
        too_long: dict[int, str] = {}
        for position, length in enumerate(lengths):
            if length > limit:
                too_long[position] = (
                    f"a prompt of {length} tokens is longer than the context allows ({limit})"
                )
        if too_long:
            raise UnaskableError(too_long)


def _without(questions: list[_Question], positions: dict[int, str]) -> list[_Question]:
    """The questions of a batch but those at some positions."""
    return [question for i, question in enumerate(questions) if i not in positions]
