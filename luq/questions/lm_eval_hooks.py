"""What the task YAMLs call: prompts, references and images. With them the tasks run in plain lm-eval too:
`lm_eval --include_path luq/evaluation/tasks --tasks luq_chartqa` (but for GQA, whose images are a table of their own).
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image

from luq.questions.prompts import PROMPTS, TARGETS, Doc

COLUMNS = ("image", "decoded_image")


def undecoded(dataset: Any) -> Any:
    """The dataset with its image column as encoded bytes."""
    from datasets import Image as ImageFeature

    column = next(c for c in COLUMNS if c in dataset.column_names)
    return dataset.cast_column(column, ImageFeature(decode=False))


def images(doc: Doc) -> list[Image.Image]:
    """The question's image, opened but not decoded."""
    encoded = doc.get("decoded_image") or doc["image"]
    return [Image.open(BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"])]


def _asker(benchmark: str) -> Callable[[Doc], str]:
    return lambda doc: "<image>" + PROMPTS[benchmark](doc)


mme, mmbench, textvqa, textvqa_ocr, vqav2, gqa, pope, chartqa, docvqa, mathvista = (
    _asker(name) for name in PROMPTS
)
mme_target, mmbench_target, textvqa_target, textvqa_ocr_target, vqav2_target = (
    TARGETS[n] for n in list(PROMPTS)[:5]
)
gqa_target, pope_target, chartqa_target, docvqa_target, mathvista_target = (
    TARGETS[n] for n in list(PROMPTS)[5:]
)
