"""Processors through the Auto class, and Qwen2.5-VL's for images alone where torchvision is missing."""

from pathlib import Path
from typing import Any

from luq.config import ModelConfig

QWEN = ("qwen2_5_vl",)
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


def load_processor(folder: Path, family: str, config: ModelConfig) -> Any:
    """The processor of a checkpoint folder, with the config's pixel limits where it has any."""
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    kind = images_only() if family in QWEN and not is_torchvision_available() else AutoProcessor
    processor = kind.from_pretrained(folder)
    if family in QWEN:
        size = dict(processor.image_processor.size)
        limits = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}  # named edges, meant as pixels
        processor.image_processor.size = size | {name: value for name, value in limits.items() if value is not None}
    return processor


def images_only() -> Any:
    """Qwen2.5-VL's processor without its video processor, the one part that cannot do without torchvision.

    ProcessorMixin loads what the constructor's signature names. The class keeps the original's name, so that a processor that it
    saves is found again by the Auto class.
    """
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor as Original
    from transformers.processing_utils import ProcessorMixin

    class Qwen2_5_VLProcessor(Original):
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any):
            self.image_token, self.video_token = IMAGE, VIDEO
            self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
            self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Qwen2_5_VLProcessor
