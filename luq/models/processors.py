"""Processors through the Auto class, with what a config says of images.

Without torchvision Qwen2.5-VL gets a processor for images alone.
"""

from pathlib import Path
from typing import Any

from luq.config import ModelConfig
from luq.errors import ConfigError
from luq.models.families import LLAVA, QWEN2_5_VL

IMAGE = "<|image_pad|>"
VIDEO = "<|video_pad|>"


def load_processor(folder: Path, family: str, config: ModelConfig) -> Any:
    """The processor of a checkpoint folder, with the config's padding and pixel limits, if any.

    Args:
        folder: The checkpoint.
        family: Its `model_type`.
        config: `do_pad`, `min_pixels` and `max_pixels` are None where the checkpoint's own apply.

    Raises:
        ConfigError: The family knows no such setting.
    """
    from transformers import AutoProcessor
    from transformers.utils.import_utils import is_torchvision_available

    kind: Any = AutoProcessor
    if family == QWEN2_5_VL and not is_torchvision_available():
        kind = images_only()
    processor = kind.from_pretrained(folder)
    if config.do_pad is not None:
        if family != LLAVA:
            raise ConfigError(
                f"model.do_pad={config.do_pad}: {family} takes images of any shape, leave it out"
            )
        processor.image_processor = _padding(processor.image_processor, config.do_pad)
    has_limits = config.min_pixels is not None or config.max_pixels is not None
    if has_limits and family != QWEN2_5_VL:
        raise ConfigError(
            "model.min_pixels and max_pixels bound the images of Qwen2.5-VL, and this is "
            f"{family}: leave them out"
        )
    if family == QWEN2_5_VL:
        # The size's names speak of edges, but what it bounds are pixels.
        size = dict(processor.image_processor.size)
        if config.min_pixels is not None:
            size["shortest_edge"] = config.min_pixels
        if config.max_pixels is not None:
            size["longest_edge"] = config.max_pixels
        processor.image_processor.size = size
    return processor


def _padding(image_processor: Any, pad: bool) -> Any:
    """LLaVA's image processor with the settings of another one.

    Checkpoints name CLIP's, but only LLaVA's knows how to pad.
    """
    from transformers.utils.import_utils import is_torchvision_available

    kind: Any
    if is_torchvision_available():
        from transformers.models.llava.image_processing_llava import LlavaImageProcessor as kind
    else:
        from transformers.models.llava.image_processing_pil_llava import (
            LlavaImageProcessorPil as kind,
        )
    settings = image_processor.to_dict()
    settings.pop("image_processor_type", None)
    settings["do_pad"] = pad
    return kind(**settings)


def images_only() -> Any:
    """Qwen2.5-VL's processor without the one part that needs torchvision, its video processor.

    ProcessorMixin loads what the constructor's signature names. The class keeps the original's
    name, so that a processor that it saves is found again by the Auto class.
    """
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor as Original
    from transformers.processing_utils import ProcessorMixin

    class Qwen2_5_VLProcessor(Original):
        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            chat_template: Any = None,
            **_: Any,
        ) -> None:
            self.image_token = IMAGE
            self.video_token = VIDEO
            self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
            self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)
            # Not the original's constructor: it asks for the video processor.
            mixin: Any = ProcessorMixin
            mixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Qwen2_5_VLProcessor
