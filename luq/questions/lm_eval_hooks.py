"""What the task YAMLs call beside the functions of `prompts`: images, and prompts with an image.

With them the tasks also run in plain lm-eval (but for GQA, whose images are a table of their own):

    lm_eval --include_path luq/questions/tasks --tasks luq_chartqa ...

A function is named after the one of `prompts` that it adds the image to.
"""

from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from luq.questions import prompts
from luq.questions.prompts import Doc
from luq.questions.sources import IMAGE_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE = "<image>"  # lm-eval's place for an image in a prompt


def undecoded(dataset: "Dataset") -> "Dataset":
    """The dataset with its image column as encoded bytes."""
    from datasets import Image as ImageFeature

    column = next(name for name in IMAGE_COLUMNS if name in dataset.column_names)
    return dataset.cast_column(column, ImageFeature(decode=False))


def images(doc: Doc) -> list[Image.Image]:
    """The question's image, opened but not decoded."""
    encoded = doc.get("decoded_image") or doc["image"]
    return [Image.open(BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"])]


def mme(doc: Doc) -> str:
    return IMAGE + prompts.mme(doc)


def short(doc: Doc) -> str:
    return IMAGE + prompts.short(doc)


def textvqa(doc: Doc) -> str:
    return IMAGE + prompts.textvqa(doc)


def textvqa_ocr(doc: Doc) -> str:
    return IMAGE + prompts.textvqa_ocr(doc)


def chartqa(doc: Doc) -> str:
    return IMAGE + prompts.chartqa(doc)


def mmbench(doc: Doc) -> str:
    return IMAGE + prompts.mmbench(doc)


def mathvista(doc: Doc) -> str:
    return IMAGE + prompts.mathvista(doc)
