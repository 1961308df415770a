"""What a checkpoint folder says beside its weights: config, tokenizer, processor, chat template.

All of it is read as plain JSON, without torch and transformers, so that a folder that cannot work
is refused before anything is loaded.
"""

import json
import logging
from pathlib import Path
from typing import Any

from luq.errors import ModelError, unknown
from luq.models.families import FAMILIES, LLAVA, VISION_FAMILIES

log = logging.getLogger(__name__)

Settings = dict[str, Any]  # the content of a JSON file

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_CONFIG = "processor_config.json"
IMAGE_CONFIG = "preprocessor_config.json"
# Files that transformers reads beside the weights, where they are there.
READ = (
    CONFIG,
    TOKENIZER_CONFIG,
    PROCESSOR_CONFIG,
    IMAGE_CONFIG,
    "video_preprocessor_config.json",
    "generation_config.json",
    "chat_template.json",
)
# One of these sets holds a tokenizer's vocabulary.
VOCABULARIES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
# The repository of the original LLaVA names its models so; transformers' have another layout.
ORIGINAL_LLAVA = "LlavaLlamaForCausalLM"
FEATURES = ("default", "full")  # what LLaVA takes of the tower's outputs: all but the class, or all
CLIP = "clip_vision_model"
# How configs call the experts of a layer, of which a token uses a few.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def read_settings(file: Path) -> Settings:
    """The content of a JSON file; a ModelError if it holds no JSON object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no JSON object: copy it again")
    return content


def read_config(folder: Path) -> Settings:
    """A checkpoint's config.json; a ModelError if it is no JSON object."""
    return read_settings(folder / CONFIG)


def section(content: Settings, name: str) -> Settings:
    """A part of a config; empty where it is left out, or is none."""
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def text_settings(config: Settings) -> Settings:
    """What a config says of the language backbone: in a part of its own, or (older) beside all."""
    return section(config, "text_config") or config


def sees_images(config: Settings) -> bool:
    """Whether a config is of a model with a vision tower."""
    family = config.get("model_type")
    if family in FAMILIES:
        return family in VISION_FAMILIES
    return "vision_config" in config


def check_settings(folder: Path) -> None:
    """A ModelError that says which of a folder's settings keep it from being loaded.

    Raises:
        ModelError: a file is missing or damaged, the model is none that LUQ knows, or it needs
            code of its own.
    """
    for name in (CONFIG, TOKENIZER_CONFIG):
        if not (folder / name).exists():
            raise ModelError(f"{folder / name} is missing: the folder is not a complete checkpoint")
    contents: dict[str, Settings] = {}
    for name in READ:
        if (folder / name).exists():
            contents[name] = read_settings(folder / name)
            _check_code(folder / name, contents[name])
    config = contents[CONFIG]
    _check_quantized(folder, config)
    _check_family(folder, config)
    _check_numbers(folder, config)
    _check_experts(folder, config)
    _check_tokenizer(folder)
    if sees_images(config):
        _check_processor(folder, contents)


def check_asking(folder: Path) -> None:
    """A ModelError that says why a model could not be asked about an image.

    A model without a vision tower is asked about none.

    Args:
        folder: a checkpoint that `check_settings` lets pass.
    """
    contents = {name: read_settings(folder / name) for name in READ if (folder / name).exists()}
    config = contents[CONFIG]
    if not sees_images(config):
        return
    processor = contents.get(PROCESSOR_CONFIG, {})
    kind = str(processor.get("processor_class", "LlavaProcessor"))
    if config["model_type"] == LLAVA and kind == "LlavaProcessor":
        _check_llava_processor(folder, config, processor)
        images = processor.get("image_processor") or contents.get(IMAGE_CONFIG, {})
        _check_image_size(folder, config, images)
    _check_template(folder, contents)


def _check_code(file: Path, content: Settings) -> None:
    """Checkpoints may name Python code that they bring along: it is never run."""
    parts = [content, *(part for part in content.values() if isinstance(part, dict))]
    for part in parts:
        if "auto_map" in part:
            raise ModelError(
                f"{file} asks for code of the checkpoint's own (auto_map), which LUQ never runs: "
                "use a checkpoint of transformers' own classes, or delete auto_map if this is one"
            )
        attention = part.get("attn_implementation", part.get("_attn_implementation"))
        if attention not in ATTENTION:
            raise ModelError(
                f"{file}: attn_implementation={attention!r} may be code from elsewhere, which LUQ "
                "never runs: delete it"
            )


def _check_quantized(folder: Path, config: Settings) -> None:
    parts = (config, section(config, "text_config"), section(config, "vision_config"))
    for part in parts:
        quantized = part.get("quantization_config")
        if quantized:
            method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
            raise ModelError(
                f"{folder} is already quantized ({method}): LUQ starts from 16-bit weights"
            )
    if config.get("transformers_weights") is not None:
        raise ModelError(
            f"{folder / CONFIG} names a weight file of its own (transformers_weights): call that "
            "file model.safetensors and delete the setting"
        )


def _check_family(folder: Path, config: Settings) -> None:
    file = folder / CONFIG
    family = config.get("model_type")
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    is_original = ORIGINAL_LLAVA in names or "mm_vision_tower" in config
    if is_original or family in ("llava_llama", "llava_mistral"):
        raise ModelError(
            f"{folder} has the layout of the original LLaVA repository: take the converted "
            "checkpoint of the organization llava-hf on the hub (llava-hf/llava-1.5-7b-hf for "
            "liuhaotian/llava-v1.5-7b)"
        )
    if family is None:
        raise ModelError(f"{file} has no model_type, which names the model's family: copy it again")
    if not isinstance(family, str):
        raise ModelError(f"{file}: model_type={family!r} is no name of a family: copy it again")
    if family not in FAMILIES:
        _check_other_family(file, family)


def _check_other_family(file: Path, family: str) -> None:
    """A ModelError unless transformers has such models; that they can be quantized shows later."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    model_types = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    if family not in model_types:
        reason = unknown("model_type", family, sorted(FAMILIES))
        raise ModelError(
            f"{file}: {reason}. Other families work if transformers has them as models that write "
            "text"
        )
    log.warning(
        "%s: model_type=%s is none of the families that LUQ is tested with. Its layers are "
        "compared with the model as a whole before they are used",
        file,
        family,
    )


def _check_numbers(folder: Path, config: Settings) -> None:
    file = folder / CONFIG
    for name in ("text_config", "vision_config"):
        if not isinstance(config.get(name, {}), dict):
            raise ModelError(f"{file}: {name} is no JSON object: copy the file again")
    text = text_settings(config)
    layers = text.get("num_hidden_layers")
    if layers is not None and (type(layers) is not int or layers < 1):
        raise ModelError(
            f"{file}: num_hidden_layers={layers!r} is no number of layers: copy the file again"
        )


def _check_experts(folder: Path, config: Settings) -> None:
    """A ModelError for a mixture of experts: most tokens never reach most of its linears."""
    for part in (config, section(config, "text_config")):
        for name in EXPERTS:
            count = part.get(name)
            if type(count) is int and count > 1:
                raise ModelError(
                    f"{folder / CONFIG}: {name}={count}: its layers are mixtures of experts, which "
                    "LUQ does not quantize: take a model whose layers are dense"
                )


def _check_tokenizer(folder: Path) -> None:
    for names in VOCABULARIES:
        if all((folder / name).exists() for name in names):
            return
    raise ModelError(
        f"{folder / 'tokenizer.json'} is missing, and so are tokenizer.model and vocab.json with "
        "merges.txt: without a vocabulary text cannot be read; copy the tokenizer's files"
    )


def _check_processor(folder: Path, contents: dict[str, Settings]) -> None:
    if PROCESSOR_CONFIG not in contents and IMAGE_CONFIG not in contents:
        missing = folder / IMAGE_CONFIG
        raise ModelError(f"{missing} is missing: without it images cannot be prepared")
    processor = contents.get(PROCESSOR_CONFIG, {})
    if IMAGE_CONFIG not in contents and "image_processor" not in processor:
        raise ModelError(
            f"{folder / PROCESSOR_CONFIG} has no image_processor, and {IMAGE_CONFIG} is missing: "
            "without one of them images cannot be prepared"
        )


def _check_llava_processor(folder: Path, config: Settings, processor: Settings) -> None:
    """LLaVA's processor writes as many image tokens as the tower gives features: it must know
    patches and which features are taken, and as the model does.
    """
    file = folder / PROCESSOR_CONFIG
    patch = processor.get("patch_size")
    tower_patch = section(config, "vision_config").get("patch_size")
    if type(patch) is not int or patch < 1:
        hint = f" (the vision tower's is {tower_patch})" if tower_patch else ""
        raise ModelError(
            f"{file}: patch_size={patch!r}; a LLaVA processor needs it to count an image's "
            f"tokens{hint}: add it"
        )
    if tower_patch is not None and patch != tower_patch:
        raise ModelError(
            f"{file}: patch_size={patch}, but {CONFIG} has patch_size={tower_patch} for the "
            "vision tower: they must be the same"
        )
    features = processor.get("vision_feature_select_strategy")
    if features not in FEATURES:
        raise ModelError(
            f"{file}: vision_feature_select_strategy={features!r}; a LLaVA processor needs "
            f"{' or '.join(FEATURES)}, as {CONFIG} has it: add it"
        )
    vision = section(config, "vision_config")
    extra = processor.get("num_additional_image_tokens", 0)
    if vision.get("model_type", CLIP) == CLIP and extra != 1:
        raise ModelError(
            f"{file}: num_additional_image_tokens={extra!r}; a LLaVA processor needs 1 beside a "
            "CLIP tower, which has a feature for the whole image: add it"
        )
    model_features = config.get("vision_feature_select_strategy", FEATURES[0])
    if features != model_features:
        raise ModelError(
            f"{file}: vision_feature_select_strategy={features!r}, but {CONFIG} has "
            f"{model_features!r}: they must be the same"
        )


def _check_image_size(folder: Path, config: Settings, images: Any) -> None:
    """LLaVA's tower takes images of one size: a ModelError if they are prepared in another one."""
    size = section(config, "vision_config").get("image_size")
    crop = images.get("crop_size") if isinstance(images, dict) else None
    if size is None or crop is None:
        return
    sides = set(crop.values()) if isinstance(crop, dict) else {crop}
    if sides != {size}:
        raise ModelError(
            f"{folder}: images are prepared with crop_size={crop}, but {CONFIG} has "
            f"image_size={size} for the vision tower: they must be the same"
        )


def _check_template(folder: Path, contents: dict[str, Settings]) -> None:
    """Questions are asked as chats: a ModelError if no file says how one is written."""
    family = VISION_FAMILIES.get(contents[CONFIG]["model_type"])
    if family is not None and family.template is not None:
        return
    if (folder / "chat_template.jinja").exists():
        return
    if any((folder / "additional_chat_templates").glob("default.jinja")):
        return
    for name in ("chat_template.json", PROCESSOR_CONFIG, TOKENIZER_CONFIG):
        if contents.get(name, {}).get("chat_template"):
            return
    raise ModelError(
        f"{folder / 'chat_template.jinja'} is missing, and no other file has a chat_template: "
        "without one questions cannot be asked; copy it from the model's repository"
    )
