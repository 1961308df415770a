"""What the task YAMLs call beside the functions of `prompts`: images, and prompts with an image.

With them the tasks also run in plain lm-eval (but for GQA, whose images are a table of their own):

    lm_eval --include_path luq/questions/tasks --tasks luq_chartqa ...

A function is named after the one of `prompts` that it adds the image to.
"""

from typing import TYPE_CHECKING

from luq.errors import DataError
from luq.questions import pictures, prompts
from luq.questions.prompts import Doc
from luq.questions.tables import IMAGE_COLUMNS, image_columns

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

IMAGE = "<image>"  # lm-eval's place for an image in a prompt


def undecoded(dataset: "Dataset") -> "Dataset":
    """The dataset with its columns of images as encoded bytes."""
    from datasets import Image as ImageFeature

    for column in image_columns(dataset.features):
        dataset = dataset.cast_column(column, ImageFeature(decode=False))
    return dataset


def images(doc: Doc) -> list["Image"]:
    """The question's image, opened and upright; decoded only if it had to be turned.

    Raises:
        DataError: the row holds no image, or it cannot be opened.
    """
    for column in IMAGE_COLUMNS:
        encoded = doc.get(column)
        if isinstance(encoded, dict):
            return [pictures.opened(encoded["bytes"])]
    raise DataError(f"a row holds no image in {' or '.join(IMAGE_COLUMNS)}")


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


def qwen_mme(doc: Doc) -> str:
    return IMAGE + prompts.qwen_mme(doc)


def qwen_pope(doc: Doc) -> str:
    return IMAGE + prompts.qwen_pope(doc)


def qwen_mmbench(doc: Doc) -> str:
    return IMAGE + prompts.qwen_mmbench(doc)


def qwen_mathvista(doc: Doc) -> str:
    return IMAGE + prompts.qwen_mathvista(doc)
