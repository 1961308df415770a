"""Processors through the Auto class, with what a config says of images; Qwen2.5-VL's for images alone without torchvision."""

from pathlib import Path
from typing import Any

from luq.config import ModelConfig
from luq.errors import ConfigError

LLAVA, QWEN = ("llava",), ("qwen2_5_vl",)
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


def load_processor(folder: Path, family: str, config: ModelConfig) -> Any:
    """The processor of a checkpoint folder, with the config's padding and pixel limits where it has any.

    A ConfigError if the family knows no such setting.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    kind = images_only() if family in QWEN and not is_torchvision_available() else AutoProcessor
    processor = kind.from_pretrained(folder)
    if config.do_pad is not None:
        if family not in LLAVA:
            raise ConfigError(
                f"model.do_pad={config.do_pad}: {family} takes images of any shape, leave it out"
            )
        processor.image_processor = _padding(processor.image_processor, config.do_pad)
    if family not in QWEN and config.image[1:] != (None, None):
        raise ConfigError(
            f"model.min_pixels and max_pixels bound the images of Qwen2.5-VL, and this is {family}: leave them out"
        )
    if family in QWEN:
        size = dict(processor.image_processor.size)
        limits = {
            "shortest_edge": config.min_pixels,
            "longest_edge": config.max_pixels,
        }  # named edges, meant as pixels
        processor.image_processor.size = size | {
            name: value for name, value in limits.items() if value is not None
        }
    return processor


def _padding(image_processor: Any, pad: bool) -> Any:
    """LLaVA's image processor with another one's settings: only it knows how to pad. Checkpoints name CLIP's."""
    from transformers.utils import is_torchvision_available

    kind: Any
    if is_torchvision_available():
        from transformers.models.llava.image_processing_llava import LlavaImageProcessor as kind
    else:
        from transformers.models.llava.image_processing_pil_llava import (
            LlavaImageProcessorPil as kind,
        )
    given = {
        name: value
        for name, value in image_processor.to_dict().items()
        if name != "image_processor_type"
    }
    return kind(**given | {"do_pad": pad})


def images_only() -> Any:
    """Qwen2.5-VL's processor without its video processor, the one part that cannot do without torchvision.

    ProcessorMixin loads what the constructor's signature names. The class keeps the original's name, so that a processor that it
    saves is found again by the Auto class.
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
        ):
            self.image_token, self.video_token = IMAGE, VIDEO
            self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
            self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Qwen2_5_VLProcessor
