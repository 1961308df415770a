"""Text and multimodal samples mixed at any alpha, counted in tokens. Deterministic from the seed."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luq.calibration.samples import CalibrationSet, Sample
from luq.config import CalibrationConfig
from luq.errors import DataError
from luq.models.vlm import VLM
from luq.questions import text
from luq.questions.prompts import PROMPTS
from luq.questions.sources import Questions, load_calibration
from luq.store import keys

log = logging.getLogger(__name__)


def text_samples(vlm: VLM, config: CalibrationConfig) -> Iterator[Sample]:
    """Samples of `sample_tokens` tokens of plain English, in a seeded order. The pocket's have no end."""
    if config.text == "pocket":
        yield from _pocket_text(vlm, config)
        return
    for start, ids in text.windows(
        vlm.processor.tokenizer, config.text, config.sample_tokens, config.seed
    ):
        cut = torch.tensor(ids)
        yield Sample(
            f"{Path(config.text).name}:{start}", cut, torch.zeros_like(cut, dtype=torch.bool)
        )


def _pocket_text(vlm: VLM, config: CalibrationConfig) -> Iterator[Sample]:
    """Held-out English, joined and cut, from a seeded start."""
    from luq.pocket import text

    tokenizer = vlm.processor.tokenizer
    passages = text.split("calibration")
    order = np.random.default_rng([config.seed, 1]).permutation(len(passages))
    ids: list[int] = []
    first, turn, made = 0, 0, 0
    while True:
        index = int(order[turn % len(order)])
        ids += [*tokenizer(passages[index]).input_ids, tokenizer.eos_token_id]
        turn += 1
        while len(ids) >= config.sample_tokens:
            cut, ids = torch.tensor(ids[: config.sample_tokens]), ids[config.sample_tokens :]
            yield Sample(
                f"stdlib:{made}:{first}-{index}", cut, torch.zeros_like(cut, dtype=torch.bool)
            )
            first, made = index, made + 1


Asked = tuple[str, Any, str]  # a question's name, its image, its prompt


def _pocket_questions(config: CalibrationConfig) -> Iterator[Asked]:
    """Questions about new scenes of the pocket world, over the configured benchmarks in turn, without end."""
    from luq.pocket.benchmarks import ROWS, SEEDS

    rngs = {
        b: np.random.default_rng([SEEDS["calibration"], config.seed, i])
        for i, b in enumerate(config.benchmarks)
    }
    index = 0
    while True:
        for benchmark in config.benchmarks:
            doc = ROWS[benchmark](rngs[benchmark], "train", index)[0]
            scene = doc.get("image") or doc["decoded_image"]
            yield f"{benchmark}:{index}", scene.image(), PROMPTS[benchmark](doc)
        index += 1


def _asked_questions(config: CalibrationConfig, questions: dict[str, Questions]) -> Iterator[Asked]:
    """Training questions in a seeded order, over the configured benchmarks in turn, until one has no more."""
    orders = {
        b: np.random.default_rng([config.seed, 2]).permutation(len(q.docs))
        for b, q in questions.items()
    }
    for turn in range(min(map(len, orders.values()))):
        for benchmark, asked in questions.items():
            row = int(orders[benchmark][turn])
            try:
                image = asked.image(row).convert("RGB")
            except DataError as error:
                log.warning("calibration: %s, left out", error)
                continue
            yield f"{benchmark}:{row}", image, PROMPTS[benchmark](asked.docs[row])


def multimodal_samples(
    vlm: VLM, config: CalibrationConfig, questions: dict[str, Questions] | None
) -> Iterator[Sample]:
    """An image and the question about it in the chat format. `questions` are real ones; None: of the pocket world."""
    for name, image, prompt in (
        _pocket_questions(config) if questions is None else _asked_questions(config, questions)
    ):
        message = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        ]
        if vlm.config.system_prompt:
            message.insert(
                0,
                {"role": "system", "content": [{"type": "text", "text": vlm.config.system_prompt}]},
            )
        chat = vlm.processor.apply_chat_template(message, add_generation_prompt=True)
        inputs = vlm.processor(images=[image], text=[chat], return_tensors="pt")
        ids = inputs.pop("input_ids")[0]
        inputs.pop("attention_mask")
        mask = vlm.image_mask(ids)
        if not mask.any():
            raise DataError(
                f"{name} has no image token after the processor: check its chat template"
            )
        yield Sample(name, ids, mask, dict(inputs))


def read_questions(config: CalibrationConfig, cache: Path) -> dict[str, Questions] | None:
    """The training questions that a config asks for; None for those of the pocket world, which are made as they are needed."""
    if config.source == "pocket" or config.alpha == 0:
        return None
    return {
        benchmark: load_calibration(benchmark, config.source, cache)
        for benchmark in config.benchmarks
    }


def identity(config: CalibrationConfig, questions: dict[str, Questions] | None) -> list[Any]:
    """What beside the config determines a set of real samples: the contents of tables and text files. Empty for the pocket's."""
    file = Path(config.text).expanduser()
    return [
        *((b, q.identity) for b, q in (questions or {}).items()),
        *([keys.file_digest(file)] if file.is_file() else []),
    ]


def build(
    vlm: VLM, config: CalibrationConfig, questions: dict[str, Questions] | None = None
) -> CalibrationSet:
    """`tokens` tokens with a share alpha of multimodal ones, met to within one sample. A DataError if the sources hold fewer."""
    samples: list[Sample] = []
    wanted, used = config.alpha * config.tokens, 0
    for sample in multimodal_samples(vlm, config, questions) if config.alpha > 0 else ():
        if used and used + sample.tokens / 2 > wanted:
            break
        samples.append(sample)
        used += sample.tokens
    else:
        if used < wanted:
            raise DataError(
                f"calibration: {used} tokens of questions, but calibration.alpha={config.alpha} wants {wanted:.0f}"
            )
    rest = round((1 - config.alpha) * config.tokens)
    for sample in text_samples(vlm, config) if rest else ():
        take = min(rest, sample.tokens)
        samples.append(Sample(sample.source, sample.input_ids[:take], sample.image_mask[:take]))
        rest -= take
        if rest <= 0:
            break
    if rest > 0:
        raise DataError(
            f"calibration.text={config.text} is {rest} tokens too short: fewer calibration.tokens, or a longer text"
        )
    return CalibrationSet.of(samples, config.weighting, config.image_factor)
