"""Text and multimodal samples mixed at any alpha, counted in tokens. Deterministic from the seed."""

from collections.abc import Iterator

import numpy as np
import torch

from luq.calibration.samples import CalibrationSet, Sample
from luq.config import CalibrationConfig
from luq.errors import DataError
from luq.evaluation.prompts import PROMPTS
from luq.models.vlm import VLM


def text_samples(vlm: VLM, config: CalibrationConfig) -> Iterator[Sample]:
    """Held-out English, joined and cut into samples of `sample_tokens` tokens, from a seeded start, without end."""
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
            yield Sample(f"stdlib:{made}:{first}-{index}", cut, torch.zeros_like(cut, dtype=torch.bool))
            first, made = index, made + 1


def multimodal_samples(vlm: VLM, config: CalibrationConfig) -> Iterator[Sample]:
    """An image and the question about it in the chat format, over the configured benchmarks in turn, without end."""
    from luq.pocket.benchmarks import ROWS, SEEDS

    rngs = {b: np.random.default_rng([SEEDS["calibration"], config.seed, i]) for i, b in enumerate(config.benchmarks)}
    index = 0
    while True:
        for benchmark in config.benchmarks:
            doc = ROWS[benchmark](rngs[benchmark], "train", index)[0]
            scene = doc.get("image") or doc["decoded_image"]
            content = [{"type": "image"}, {"type": "text", "text": PROMPTS[benchmark](doc)}]
            message = [{"role": "user", "content": content}]
            chat = vlm.processor.apply_chat_template(message, add_generation_prompt=True)
            inputs = vlm.processor(images=[scene.image()], text=[chat], return_tensors="pt")
            ids = inputs.pop("input_ids")[0]
            inputs.pop("attention_mask")
            mask = vlm.image_mask(ids)
            if not mask.any():
                raise DataError(f"{benchmark} sample {index} has no image token after the processor: check its chat template")
            yield Sample(f"{benchmark}:{index}", ids, mask, dict(inputs))
        index += 1


def build(vlm: VLM, config: CalibrationConfig) -> CalibrationSet:
    """`tokens` tokens with a share alpha of multimodal ones, met to within one sample."""
    samples: list[Sample] = []
    wanted, used = config.alpha * config.tokens, 0
    for sample in multimodal_samples(vlm, config) if config.alpha > 0 else ():
        if used and used + sample.tokens / 2 > wanted:
            break
        samples.append(sample)
        used += sample.tokens
    rest = round((1 - config.alpha) * config.tokens)
    for sample in text_samples(vlm, config) if rest else ():
        take = min(rest, sample.tokens)
        samples.append(Sample(sample.source, sample.input_ids[:take], sample.image_mask[:take]))
        rest -= take
        if rest <= 0:
            break
    return CalibrationSet.of(samples)
