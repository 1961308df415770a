"""Processors through the Auto class, with what a config says of images, and chats as tokens.

Without torchvision Qwen2.5-VL gets a processor for images alone.
"""

from pathlib import Path
from typing import Any

from luq.config import ModelConfig
from luq.errors import ConfigError, LuqError, ModelError, brief
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
        ModelError: A file of the processor is missing or damaged, or its template writes no chat.
    """
    processor = _from_folder(folder, family)
    _check_chat(folder, processor, config.system_prompt)
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


def _from_folder(folder: Path, family: str) -> Any:
    """A folder's processor as it stands."""
    from transformers import AutoProcessor
    from transformers.utils.import_utils import is_torchvision_available

    kind: Any = AutoProcessor
    if family == QWEN2_5_VL and not is_torchvision_available():
        kind = images_only()
    try:
        processor = kind.from_pretrained(folder, trust_remote_code=False)
    except LuqError:
        raise
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"{folder}: its tokenizer or processor cannot be loaded ({brief(error)}): copy the "
            "files tokenizer*, *processor_config.json and chat_template* again"
        ) from error
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise ModelError(
                f"{folder}: its processor has no {part}: check processor_class in "
                "processor_config.json and tokenizer_config.json"
            )
    return processor


def _check_chat(folder: Path, processor: Any, system_prompt: str) -> None:
    """A ModelError unless the chat template writes a question with its image and system prompt."""
    remedy = "take the chat template of the model's repository"
    question = "luq"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system_prompt:
        system_content = [{"type": "text", "text": system_prompt}]
        messages.insert(0, {"role": "system", "content": system_content})
        remedy += ", or leave model.system_prompt out"
    try:
        chat = processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception as error:  # whatever a template does
        raise ModelError(
            f"{folder}: its chat template writes no question with an image ({brief(error)}): "
            f"{remedy}"
        ) from error
    parts = {
        "image": processor.image_token,
        "question": question,
        "system prompt": system_prompt.strip(),
    }
    for name, text in parts.items():
        if text not in chat:
            raise ModelError(
                f"{folder}: its chat template leaves out the {name} ({text!r}): {remedy}"
            )


def encode_chats(processor: Any, chats: list[str], images: list[Any], **options: Any) -> Any:
    """Chats that the processor's template wrote, and their images, as the model's inputs.

    A template may write the token that begins a sequence, and a tokenizer may add it: where the
    chat has it, none is added. That is what transformers does where it writes and tokenizes at
    once (`apply_chat_template(..., tokenize=True)`).

    Args:
        processor: As `load_processor` gives it.
        chats: All written by one template.
        images: As the processor takes them.
        options: Of the processor, such as `padding`.
    """
    begin = processor.tokenizer.bos_token
    if begin and chats[0].startswith(begin):
        options["add_special_tokens"] = False
    return processor(images=images, text=chats, return_tensors="pt", **options)


class ChatProcessor:
    """A processor for code that hands it chats as text: no token begins a chat twice."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, text: list[str], return_tensors: str, **options: Any) -> Any:
        return encode_chats(self._processor, text, images, **options)


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
