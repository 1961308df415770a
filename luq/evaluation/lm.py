"""The lm-eval model around a VLM in memory. Imported late: lm-eval takes seconds."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM

from luq.errors import DataError
from luq.evaluation.predictions import Predictions
from luq.models.vlm import VLM


class TooLongError(DataError):
    """Prompts that do not fit the context; `images` are the ids of their image objects."""

    def __init__(self, tokens: int, limit: int, images: set[int]):
        super().__init__(f"a prompt of {tokens} tokens is longer than the context allows ({limit})")
        self.images = images


def context_length(model: Any) -> int:
    """Positions that the language model was made for."""
    text = model.config.get_text_config()
    return int(getattr(text, "max_position_embeddings", 2048))


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """lm-eval collects garbage after every batch, which costs more than a small model's answers: only what is new counts."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class LoadedVLM(HFMultimodalLM):
    """Answers batch by batch and keeps every batch, so that an interrupted evaluation goes on where it stopped.

    Batches are cut from all questions, longest first, whatever was answered before: what is asked again after an
    interruption is asked in the same company, and gives the same answers.
    """

    def __init__(self, vlm: VLM, batch_size: int):
        self.vlm = vlm
        super().__init__(
            pretrained=vlm.model,
            batch_size=batch_size,
            max_length=context_length(vlm.model),
            convert_img_format=True,
        )
        self._device = vlm.device  # of a streamed model transformers says "meta"
        self._kept: Predictions | None = None
        self._ids: list[int] = []
        self._strict = False
        self._advance: Callable[[int], None] = lambda n: None

    def _create_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        self.processor, self.tokenizer = self.vlm.processor, self.vlm.processor.tokenizer

    def keep(
        self, kept: Predictions, ids: list[int], strict: bool, advance: Callable[[int], None]
    ) -> None:
        """Where answers go; `ids[doc_id]` is a question's row. Strict: the first bad row is an error, and not a count."""
        self._kept, self._ids, self._strict, self._advance = kept, ids, strict, advance

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        kept = self._kept
        assert kept is not None, "call keep first"
        length = {id(r): len(self.tok_encode(r.args[0])) for r in requests}
        order = sorted(requests, key=lambda r: (-length[id(r)], r.args[0], r.doc_id))
        with frozen():
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                missing = [r for r in batch if self._row(r) not in kept.rows]
                if missing:
                    kept.append(self._answer(missing))
                self._advance(len(batch))
        return [kept.rows[self._row(r)].get("text", "") for r in requests]

    def _row(self, request: Instance) -> int:
        assert request.doc_id is not None
        return self._ids[request.doc_id]

    def _answer(self, batch: list[Instance]) -> list[dict[str, Any]]:
        """Rows {id, text}, or {id, error} for a question whose image or length does not do."""
        rows, ready = [], []
        for request in batch:
            context, limits, more = request.args
            try:
                images = [image.convert("RGB") for image in more["visual"]]
            except DataError as error:
                rows.append(self._failed(request, error))
                continue
            ready.append((request, (context, limits, {**more, "visual": images})))
        while ready:
            asked = [
                Instance("generate_until", r.doc, arguments, r.idx, r.metadata)
                for r, arguments in ready
            ]
            try:
                texts = super().generate_until(asked, disable_tqdm=True)
            except TooLongError as error:
                long = [pair for pair in ready if id(pair[1][2]["visual"][0]) in error.images]
                rows += [self._failed(r, error) for r, _ in long]
                ready = [pair for pair in ready if pair not in long]
                continue
            rows += [
                {"id": self._row(r), "text": text}
                for (r, _), text in zip(ready, texts, strict=True)
            ]
            break
        return rows

    def _failed(self, request: Instance, error: DataError) -> dict[str, Any]:
        if self._strict:
            raise DataError(f"row {self._row(request)}: {error}") from error
        return {"id": self._row(request), "error": str(error)}

    def tok_batch_multimodal_encode(
        self,
        strings: list[str],
        images: list[list],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> Any:
        """As lm-eval's, but nothing is ever cut: cutting takes image tokens away from their image."""
        encoded = super().tok_batch_multimodal_encode(
            strings, images, padding_side, None, truncation
        )
        tokens = encoded["attention_mask"].sum(1).tolist()
        if left_truncate_len and max(tokens) > left_truncate_len:
            long = {
                id(shown[0])
                for shown, n in zip(images, tokens, strict=True)
                if n > left_truncate_len
            }
            raise TooLongError(max(tokens), left_truncate_len, long)
        return encoded
