"""Text and multimodal samples mixed at any alpha, counted in tokens.

Deterministic from the seed.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from luq.calibration.own import OwnSample, OwnSamples
from luq.calibration.samples import CalibrationSet, Sample
from luq.config import CalibrationConfig
from luq.config.calibration import FEWEST_TOKENS
from luq.errors import DataError
from luq.models.asking import context_length, plain_text
from luq.models.families import FAMILIES
from luq.models.processors import encode_chats
from luq.models.vlm import VLM
from luq.plugins import CalibrationQuestion
from luq.questions.pictures import reason
from luq.questions.prompts import PROMPTS, Doc
from luq.questions.tables import Questions
from luq.questions.text import TextSource, Windows, windows

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)
MOST_LEFT_OUT = 200  # questions one after another, before it is the model and not the questions


class AskedQuestion(NamedTuple):
    """A question's name, its image and its prompt."""

    name: str
    image: "Image"
    prompt: str


def text_samples(vlm: VLM, config: CalibrationConfig, source: TextSource) -> Iterator[Sample]:
    """Samples of `sample_tokens` tokens of plain English, in a seeded order.

    A plug-in's have no end.
    """
    passages = source.passages()
    if passages is not None:
        yield from _joined_passages(vlm, config, source, passages)
        return
    tokenizer = vlm.processor.tokenizer
    for number, ids in windows(tokenizer, source, config.sample_tokens, config.seed):
        yield _text_sample(f"{Path(source.name).name}:{number}", ids)


def _joined_passages(
    vlm: VLM, config: CalibrationConfig, source: TextSource, passages: list[str]
) -> Iterator[Sample]:
    """Passages in a seeded order, joined and cut, over and over."""
    order = np.random.default_rng([config.seed, 1]).permutation(len(passages))
    cutter = Windows(vlm.processor.tokenizer, source.name, config.sample_tokens)
    first = 0  # the passage in which the sample begins
    count = 0
    for position in itertools.count():
        index = int(order[position % len(order)])
        for ids in cutter.add_passage(passages[index]):
            yield _text_sample(f"stdlib:{count}:{first}-{index}", ids)
            first = index
            count += 1


def _text_sample(name: str, ids: list[int]) -> Sample:
    """Tokens of a text without images."""
    tokens = torch.tensor(ids)
    return Sample(name, tokens, torch.zeros_like(tokens, dtype=torch.bool))


def generated_questions(questions: Iterator[CalibrationQuestion]) -> Iterator[AskedQuestion]:
    """A plug-in's questions as they are asked."""
    for name, benchmark, image, doc in questions:
        yield AskedQuestion(name, image, PROMPTS[benchmark](doc))


def training_questions(seed: int, tables: dict[str, Questions]) -> Iterator[AskedQuestion]:
    """Training questions in a seeded order, over the benchmarks in turn, until one has no more."""
    orders: dict[str, Any] = {}
    for benchmark, questions in tables.items():
        orders[benchmark] = np.random.default_rng([seed, 2]).permutation(len(questions.docs))
    for position in range(min(len(order) for order in orders.values())):
        for benchmark, questions in tables.items():
            row = int(orders[benchmark][position])
            name = f"{benchmark}:{row}"
            try:
                prompt = _prompt(benchmark, questions.docs[row])
                image = questions.image(row).convert("RGB")
            except DataError as error:
                _leave_out(name, str(error))
                continue
            yield AskedQuestion(name, image, prompt)


def _prompt(benchmark: str, doc: Doc) -> str:
    """A question as it is asked; a DataError if the row lacks what it is made of."""
    try:
        return PROMPTS[benchmark](doc)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"no question can be read ({reason(error)})") from error


def _leave_out(name: str, cause: str) -> None:
    log.warning("calibration: %s is left out: %s", name, cause)


def multimodal_samples(vlm: VLM, questions: Iterator[AskedQuestion]) -> Iterator[Sample]:
    """Each question with its image in the model's chat format.

    One that the processor refuses, or that is longer than the model's context, is left out.

    Raises:
        DataError: so many were left out, and none was not: a source may have no end.
    """
    left_out = 0
    for question in questions:
        try:
            yield question_sample(vlm, question.name, question.prompt, [question.image])
            left_out = 0
        except UnusableError as error:
            _leave_out(question.name, str(error))
            left_out += 1
            if left_out == MOST_LEFT_OUT:
                raise DataError(
                    f"calibration: {left_out} questions one after another cannot be asked; the "
                    f"last, {question.name}: {error}"
                ) from error


class UnusableError(DataError):
    """A question that a model cannot be asked."""


def question_sample(vlm: VLM, name: str, prompt: str, images: Sequence["Image"]) -> Sample:
    """A question with its images in the model's chat format.

    Args:
        vlm: the model.
        name: of the question, for the record.
        prompt: what is asked.
        images: at least one; they stand before the prompt.

    Raises:
        UnusableError: the processor refuses it, or it is longer than the model's context.
        DataError: the processor writes no token for an image.
    """
    chat = _chat(vlm, prompt, len(images))
    try:
        # Of several images processors must be told that they are one sample's.
        images_of_samples = list(images) if len(images) == 1 else [list(images)]
        inputs = encode_chats(vlm.processor, [chat], images_of_samples)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # no fault of the question
    except Exception as error:  # processors raise many kinds
        raise UnusableError(f"the processor refuses it ({reason(error)})") from error
    ids = inputs.pop("input_ids")[0]
    inputs.pop("attention_mask")
    limit = context_length(vlm.model)
    if len(ids) > limit:
        raise UnusableError(f"its {len(ids)} tokens are more than the context ({limit})")
    mask = vlm.image_mask(ids)
    if not mask.any():
        raise DataError(f"{name} has no image token after the processor: check its chat template")
    family = FAMILIES.get(vlm.model.config.model_type)
    is_alone = family is not None and not family.joins_images
    return Sample(name, ids, mask, dict(inputs), is_alone)


def _chat(vlm: VLM, prompt: str, images: int) -> str:
    """A question about images, up to where the model's answer begins."""
    text = plain_text(vlm.processor, prompt)
    content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    system = vlm.config.system_prompt
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    chat: str = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    return chat


def whole(vlm: VLM, config: CalibrationConfig, own_samples: OwnSamples) -> CalibrationSet:
    """A user's own samples, all of them in their order.

    One with images is asked as a question is; one without is plain text, cut at the context.

    Raises:
        DataError: a sample cannot be used, which the message names, or all are too short.
    """
    samples: list[Sample] = []
    for sample in own_samples.samples:
        try:
            if sample.images and not vlm.sees_images:
                raise DataError("it has an image, and the model sees none: give its text alone")
            if sample.images:
                images = [image.picture() for image in sample.images]
                samples.append(question_sample(vlm, sample.name, sample.text, images))
            else:
                samples.append(_plain_sample(vlm, sample))
        except UnusableError as error:
            raise DataError(f"{sample.name}: {error}. Shorten it, or leave it out") from error
        except DataError as error:
            raise DataError(f"{sample.name}: {error}") from error
    tokens = sum(sample.tokens for sample in samples)
    if tokens < FEWEST_TOKENS:
        raise DataError(
            f"the calibration samples of {own_samples.name} have {tokens} tokens, and at least "
            f"{FEWEST_TOKENS} are needed: give more or longer ones"
        )
    return CalibrationSet.of(samples, config.weighting, config.image_factor)


def _plain_sample(vlm: VLM, sample: OwnSample) -> Sample:
    """A text without images as tokens."""
    text = plain_text(vlm.processor, sample.text)
    ids = vlm.processor.tokenizer(text).input_ids[: context_length(vlm.model)]
    if not ids:
        raise DataError("its text has no token")
    return _text_sample(sample.name, ids)


def build(
    vlm: VLM,
    config: CalibrationConfig,
    questions: Iterator[AskedQuestion],
    text: TextSource | None,
) -> CalibrationSet:
    """`tokens` tokens with a share alpha of multimodal ones, met to within one sample.

    Args:
        vlm: the model whose processor makes tokens and pixels.
        config: how many tokens, which share, how image tokens weigh.
        questions: what is asked, as long as tokens are wanted; not touched if alpha is 0.
        text: plain English; not read if alpha is 1.

    Raises:
        DataError: the sources hold fewer tokens.
    """
    samples = _multimodal_share(vlm, config, questions) if config.alpha > 0 else []
    text_tokens = round((1 - config.alpha) * config.tokens)
    if text_tokens and text is not None:
        samples += _text_share(vlm, config, text, text_tokens)
    return CalibrationSet.of(samples, config.weighting, config.image_factor)


def _multimodal_share(
    vlm: VLM, config: CalibrationConfig, questions: Iterator[AskedQuestion]
) -> list[Sample]:
    """Samples up to alpha * tokens: the last one is taken if that comes nearer."""
    budget = config.alpha * config.tokens
    samples: list[Sample] = []
    used_tokens = 0
    for sample in multimodal_samples(vlm, questions):
        if used_tokens and used_tokens + sample.tokens / 2 > budget:
            return samples
        samples.append(sample)
        used_tokens += sample.tokens
    if used_tokens < budget:
        raise DataError(
            f"calibration: {used_tokens} tokens of questions, but calibration.alpha={config.alpha} "
            f"wants {budget:.0f}"
        )
    return samples


def _text_share(vlm: VLM, config: CalibrationConfig, text: TextSource, tokens: int) -> list[Sample]:
    """Samples of exactly so many tokens; the last one is cut."""
    samples: list[Sample] = []
    missing_tokens = tokens
    for sample in text_samples(vlm, config, text):
        take = min(missing_tokens, sample.tokens)
        samples.append(Sample(sample.source, sample.input_ids[:take], sample.image_mask[:take]))
        missing_tokens -= take
        if missing_tokens <= 0:
            return samples
    raise DataError(
        f"calibration.text={text.name} is {missing_tokens} tokens too short: fewer "
        "calibration.tokens, or a longer text"
    )
