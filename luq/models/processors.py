"""Processors through the Auto class, with what a config says of images, and chats as tokens.

Families that also take videos get a processor for images alone: nothing here asks about videos,
and what prepares them needs torchvision. A language model without a vision tower has a tokenizer
for a processor.
"""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from luq.config import ModelConfig
from luq.errors import ConfigError, LuqError, ModelError, brief
from luq.models.families import FAMILIES, Family
from luq.models.settings_files import (
    IMAGE_CONFIG,
    PROCESSOR_CONFIG,
    TOKENIZER_CONFIG,
    read_config,
    read_settings,
    sees_images,
)

VIDEO_PART = "video_processor"
PIECE = "<IMG_ATOM>"  # of an image, where the processor's `image_token` stands for a whole one


class TextProcessor:
    """What stands for the processor of a language model without a vision tower."""

    image_processor = None
    image_token = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: Any, images: Any = None, **options: Any) -> Any:
        from transformers import BatchFeature

        return BatchFeature(dict(self.tokenizer(text, **options)))

    def apply_chat_template(self, *arguments: Any, tokenize: bool = False, **options: Any) -> Any:
        """A chat as text, as processors write it; a tokenizer would give tokens."""
        return self.tokenizer.apply_chat_template(*arguments, tokenize=tokenize, **options)


def image_token_id(config: Any, processor: Any) -> int:
    """The token that stands for a piece of an image, as the model's config has it.

    Args:
        config: The model's.
        processor: Asked where the config does not say it.
    """
    for name in ("image_token_id", "image_token_index"):
        token = getattr(config, name, None)
        if token is not None:
            return int(token)
    return written_image_token(processor)


def written_image_token(processor: Any) -> int:
    """The token that a processor writes for a piece of an image."""
    if PIECE in processor.tokenizer.get_vocab():
        return int(processor.tokenizer.convert_tokens_to_ids(PIECE))
    token_ids = getattr(processor, "image_token_ids", None) or [None]
    if token_ids[0] is not None:
        return int(token_ids[0])
    return int(processor.tokenizer.convert_tokens_to_ids(processor.image_token))


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
    traits = FAMILIES.get(family, Family(family))
    if not sees_images(read_config(folder)):
        _check_no_image_settings(family, config)
        return TextProcessor(_tokenizer(folder))
    processor = _from_folder(folder, family)
    if processor.chat_template is None:
        processor.chat_template = traits.template
    _check_chat(folder, processor, config.system_prompt)
    if config.do_pad is not None:
        if not traits.pads:
            raise ConfigError(
                f"model.do_pad={config.do_pad}: {family} takes images of any shape, leave it out"
            )
        processor.image_processor = _padding(processor.image_processor, config.do_pad)
    has_limits = config.min_pixels is not None or config.max_pixels is not None
    if has_limits and not traits.bounds_pixels:
        bounding = [entry.title for entry in FAMILIES.values() if entry.bounds_pixels]
        raise ConfigError(
            f"model.min_pixels and max_pixels bound the images of {', '.join(bounding)}, and this "
            f"is {family}: leave them out"
        )
    if has_limits:
        # The size's names speak of edges, but what it bounds are pixels.
        size = dict(processor.image_processor.size)
        if config.min_pixels is not None:
            size["shortest_edge"] = config.min_pixels
        if config.max_pixels is not None:
            size["longest_edge"] = config.max_pixels
        processor.image_processor.size = size
    return processor


def _check_no_image_settings(family: str, config: ModelConfig) -> None:
    for name in ("do_pad", "min_pixels", "max_pixels"):
        value = getattr(config, name)
        if value is not None:
            raise ConfigError(
                f"model.{name}={value}: {family} is a language model that sees no images, leave it "
                "out"
            )


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"{folder}: its tokenizer cannot be loaded ({brief(error)}): copy the files tokenizer* "
            "again"
        ) from error


def _from_folder(folder: Path, family: str) -> Any:
    """A folder's processor as it stands."""
    try:
        processor = _processor_class(folder, family).from_pretrained(
            folder, trust_remote_code=False
        )
    except LuqError:
        raise
    except ImportError as error:
        raise ModelError(
            f"{folder}: its processor needs a package that is not installed ({brief(error)})"
        ) from error
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


def _processor_class(folder: Path, family: str) -> Any:
    """The folder's own class without its video processor; the Auto class if it is not known."""
    from transformers import AutoProcessor

    name = None
    for file in (TOKENIZER_CONFIG, IMAGE_CONFIG, PROCESSOR_CONFIG):
        if (folder / file).exists():
            name = read_settings(folder / file).get("processor_class") or name
    named = processor_class(family, name)
    return AutoProcessor if named is None else images_only(named)


def processor_class(family: str, name: str | None = None) -> Any:
    """A class of processors, also where transformers hides it since torchvision is missing.

    Args:
        family: whose it is.
        name: of the class; None: the family's.

    Returns:
        None if transformers knows no such class.
    """
    from transformers.models.auto import processing_auto

    names: dict[str, str] = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    name = name or names.get(family)
    if name is None:
        return None
    # Families share classes: it is in the module of one of them, or in one that it is named after.
    modules = [
        model_type.replace("-", "_")
        for model_type, class_name in names.items()
        if class_name == name
    ]
    modules.append(name.removesuffix("Processor").lower())
    for module_name in modules:
        try:
            module = import_module(f"transformers.models.{module_name}.processing_{module_name}")
        except ImportError:
            continue
        if hasattr(module, name):
            return getattr(module, name)
    return None


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
        "image": str(processor.image_token),
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
    return processor(images=images or None, text=chats, return_tensors="pt", **options)


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


class _NoVideos:
    """Stands for a video processor while a processor is made; each of its settings is None."""

    def __getattr__(self, name: str) -> None:
        return None


def images_only(original: Any) -> Any:
    """A processor's class without its video processor, the one part that needs torchvision.

    A class that has none is the same otherwise.

    What a processor is made of, ProcessorMixin reads from the constructor's signature. The class
    keeps the original's name, so that a processor that it saves is found again by the Auto class.
    """
    all_parts: list[str] = original.get_attributes()
    parts = [part for part in all_parts if part != VIDEO_PART]
    signature = inspect.signature(original.__init__)
    parameters = [entry for name, entry in signature.parameters.items() if name != VIDEO_PART]
    settings_taken = [entry.name for entry in parameters if entry.name not in (*parts, "self")]

    class ImageProcessor(original):  # type: ignore[misc]  # a class that is found at run time
        _parts = parts

        @classmethod
        def get_attributes(cls) -> list[str]:
            return cls._parts

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, _NoVideos):
                return _NoVideos
            return super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def validate_init_kwargs(cls, processor_config: Any, valid_kwargs: Any) -> Any:
            # What is asked for is read from this class's constructor, which takes anything.
            return super().validate_init_kwargs(processor_config, settings_taken)

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            named_arguments = dict(zip(parts, arguments, strict=False)) | settings
            if VIDEO_PART in all_parts:
                named_arguments[VIDEO_PART] = _NoVideos()
            kind = cast("Any", type(self))
            # The original's constructor hands all parts on, in their order.
            kind._parts = all_parts
            try:
                super().__init__(**named_arguments)
            finally:
                kind._parts = parts

    # What saves a processor asks the constructor which settings it has.
    cast("Any", ImageProcessor.__init__).__signature__ = signature.replace(parameters=parameters)
    ImageProcessor.__name__ = original.__name__
    ImageProcessor.__qualname__ = original.__qualname__
    return ImageProcessor
