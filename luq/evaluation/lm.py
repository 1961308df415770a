"""The lm-eval model around a VLM in memory. Imported late: lm-eval takes seconds."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM
from PIL import Image

from luq.errors import DataError
from luq.evaluation.predictions import AnswerRow, Predictions
from luq.models.processors import ChatProcessor
from luq.models.vlm import VLM

# Of models whose configuration names no context length.
DEFAULT_CONTEXT = 2048


class TooLongError(DataError):
    """Prompts that do not fit the context; `images` are the ids of their image objects."""

    def __init__(self, tokens: int, limit: int, images: set[int]):
        super().__init__(f"a prompt of {tokens} tokens is longer than the context allows ({limit})")
        self.images = images


def context_length(model: Any) -> int:
    """Positions that the language model was made for."""
    text = model.config.get_text_config()
    return int(getattr(text, "max_position_embeddings", DEFAULT_CONTEXT))


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


class LoadedVLM(HFMultimodalLM):  # type: ignore[misc]  # lm-eval has no types
    """Answers batch by batch and stores every batch, so that an interrupted evaluation can go on.

    Batches are cut from all questions, longest first, whatever was answered before. So a question
    that is asked after an interruption is in the same batch, and gets the same answer.
    """

    _session: _Session  # set by `begin`

    def __init__(self, vlm: VLM, batch_size: int):
        self.vlm = vlm
        super().__init__(
            pretrained=vlm.model,
            batch_size=batch_size,
            max_length=context_length(vlm.model),
            convert_img_format=True,
        )
        self._device = vlm.device  # of a streamed model transformers says "meta"

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
        lengths = {id(request): len(self.tok_encode(request.args[0])) for request in requests}

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
        """Rows {id, text}, or {id, error} for an image that does not decode and a long prompt."""
        rows: list[AnswerRow] = []
        questions: list[_Question] = []
        for request in batch:
            _, _, visual = request.args
            try:
                questions.append(_Question(request, visual["visual"][0].convert("RGB")))
            except DataError as error:
                rows.append(self._failed(request, error))
        while questions:
            instances = [question.instance() for question in questions]
            try:
                texts = super().generate_until(instances, disable_tqdm=True)
            except TooLongError as error:
                # Ask the others again, without those that are too long.
                fitting: list[_Question] = []
                for question in questions:
                    if id(question.image) in error.images:
                        rows.append(self._failed(question.request, error))
                    else:
                        fitting.append(question)
                questions = fitting
                continue
            for question, text in zip(questions, texts, strict=True):
                rows.append({"id": self._row_id(question.request), "text": text})
            break
        return rows

    def _failed(self, request: Instance, error: DataError) -> AnswerRow:
        row_id = self._row_id(request)
        if self._session.strict:
            raise DataError(f"row {row_id}: {error}") from error
        return {"id": row_id, "error": str(error)}

    def tok_batch_multimodal_encode(
        self,
        strings: list[str],
        images: list[list[Image.Image]],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> Any:
        """As lm-eval's, but nothing is ever cut: that would part image tokens from their image.

        Raises:
            TooLongError: a prompt is longer than `left_truncate_len` tokens.
        """
        encoded = super().tok_batch_multimodal_encode(
            strings, images, padding_side, None, truncation
        )
        lengths = encoded["attention_mask"].sum(1).tolist()
        if left_truncate_len and max(lengths) > left_truncate_len:
            too_long: set[int] = set()
            for images_of_prompt, length in zip(images, lengths, strict=True):
                if length > left_truncate_len:
                    too_long.add(id(images_of_prompt[0]))
            raise TooLongError(max(lengths), left_truncate_len, too_long)
        return encoded
