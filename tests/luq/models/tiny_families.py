"""A checkpoint of a few layers with random weights for every family that LUQ knows.

Each is made of its family's own config, processor and tokenizer tokens, and written as transformers
writes it. Where a family mixes kinds of layers (sliding and full attention, cross-attention,
convolutions), the few layers have all kinds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Gemma4AudioFeatureExtractor,
)

from luq.models.processors import images_only, processor_class
from luq.pocket.shipped import WEIGHTS as POCKET

# Of most decoders; heads are 16 wide.
DECODER: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SIDE = 56  # pixels of an image as towers of one size take it
TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14,
}  # fmt: skip
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
EXTRA_TOKENS = 1200  # that a processor may add to the vocabulary, as PaliGemma's does
WINDOW = 16  # tokens that a sliding layer sees
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
SQUARE = {"height": SIDE, "width": SIDE}
TEMPLATE = (
    "{%% for m in messages %%}<turn>{{ m['role'] }}\n"
    "{%% if m['content'] is string %%}{{ m['content'] }}{%% else %%}{%% for c in m['content'] %%}"
    "{%% if c['type'] == 'image' %%}%s{%% else %%}{{ c['text'] }}{%% endif %%}"
    "{%% endfor %%}{%% endif %%}<end>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<turn>assistant\n{%% endif %%}"
)


class Tiny(NamedTuple):
    """What a family's checkpoint is made of.

    config: Its config, from the ids of its tokens and the size of the vocabulary.
    image: What its chat template writes for an image.
    tokens: Names that its processor looks for in the tokenizer -> token.
    images: Its image processor: module below transformers.models, class, settings.
    processor: Further settings of its processor.
    """

    config: Callable[[dict[str, int], int], Any]
    image: str = ""
    tokens: dict[str, str] = {}  # noqa: RUF012  # never changed
    images: tuple[str, str, dict[str, Any]] | None = None
    processor: dict[str, Any] = {}  # noqa: RUF012  # never changed


def text_model(family: str, **settings: Any) -> Tiny:
    """A language model without a vision tower."""

    def config(ids: dict[str, int], vocabulary: int) -> Any:
        return AutoConfig.for_model(family, **DECODER | {"vocab_size": vocabulary} | settings)

    return Tiny(config)


def _vision(
    family: str,
    text: dict[str, Any],
    vision: dict[str, Any],
    top: Callable[[dict[str, int]], dict[str, Any]],
    **parts: Any,
) -> Tiny:
    def config(ids: dict[str, int], vocabulary: int) -> Any:
        decoder = DECODER | {"vocab_size": vocabulary} | text
        return AutoConfig.for_model(family, text_config=decoder, vision_config=vision, **top(ids))

    return Tiny(config, **parts)


def _llava(family: str, tower: str, text: str, settings: dict[str, Any], **parts: Any) -> Tiny:
    """A family whose only token is `<image>`."""
    return _vision(
        family,
        {"model_type": text},
        {"model_type": tower, **TOWER},
        lambda ids: {"image_token_index": ids["image_token"], **settings},
        image="<image>",
        tokens={"image_token": "<image>"},
        **parts,
    )


def _qwen(family: str, vision: dict[str, Any]) -> Tiny:
    """A family with Qwen's image tokens and M-RoPE."""
    tokens = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }

    def top(ids: dict[str, int]) -> dict[str, Any]:
        return {f"{name}_id": token for name, token in ids.items()}

    return _vision(
        family, {"rope_parameters": MROPE}, vision, top,
        image="<|vision_start|><|image_pad|><|vision_end|>", tokens=tokens,
        images=("qwen2_vl.image_processing_pil_qwen2_vl", "Qwen2VLImageProcessorPil", {
            "patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 3136, "longest_edge": 12544},
        }),
    )  # fmt: skip


_CLIP = (
    "clip.image_processing_pil_clip",
    "CLIPImageProcessorPil",
    {"size": SQUARE, "crop_size": SQUARE},
)
_IDEFICS_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}  # fmt: skip
_IDEFICS_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    "video_token": "<video>",
}
_IDEFICS_SIZES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
_GEMMA_TOKENS = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}

TEXT = {
    "llama": text_model("llama"),
    "mistral": text_model("mistral", sliding_window=WINDOW),
    "qwen2": text_model(
        "qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "qwen3": text_model("qwen3"),
    "smollm3": text_model("smollm3", no_rope_layers=[1, 1, 0, 1]),
    "gemma": text_model("gemma"),
    "gemma2": text_model("gemma2", sliding_window=WINDOW, layer_types=MIXED),
    "gemma3_text": text_model("gemma3_text", sliding_window=WINDOW, layer_types=MIXED),
    "phi3": text_model("phi3"),
}
VISION = {
    "llava": _llava(
        "llava", "clip_vision_model", "llama", {},
        images=_CLIP,
        processor={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_next": _llava(
        "llava_next", "clip_vision_model", "llama",
        {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]], "image_seq_length": 16},
        images=("llava_next.image_processing_pil_llava_next", "LlavaNextImageProcessorPil", {
            "size": {"shortest_edge": SIDE}, "crop_size": SQUARE, "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
        }),
        processor={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_onevision": _llava(
        "llava_onevision", "siglip_vision_model", "qwen2",
        {"image_grid_pinpoints": [[56, 56], [56, 112], [112, 56]], "vision_aspect_ratio": "anyres_max_9"},
        images=("llava_onevision.image_processing_pil_llava_onevision", "LlavaOnevisionImageProcessorPil", {
            "size": SQUARE, "image_grid_pinpoints": [[56, 56], [56, 112], [112, 56]],
        }),
        processor={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "vipllava": _llava(
        "vipllava", "clip_vision_model", "llama", {"vision_feature_layers": [-2, -3]},
        images=_CLIP,
        processor={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "qwen2_vl": _qwen("qwen2_vl", {
        "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14, "spatial_merge_size": 2,
    }),
    "qwen2_5_vl": _qwen("qwen2_5_vl", {
        "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64, "patch_size": 14,
        "spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": [1],
    }),
    "qwen3_vl": _qwen("qwen3_vl", {
        "depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64, "patch_size": 14,
        "spatial_merge_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }),
    "idefics3": _vision(
        "idefics3", {"model_type": "llama"}, _IDEFICS_TOWER,
        lambda ids: {"image_token_id": ids["image_token"], "scale_factor": 2},
        image="<image>", tokens=_IDEFICS_TOKENS, processor={"image_seq_len": 4},
        images=("idefics3.image_processing_pil_idefics3", "Idefics3ImageProcessorPil", _IDEFICS_SIZES),
    ),
    "smolvlm": _vision(
        "smolvlm", {"model_type": "llama"}, _IDEFICS_TOWER,
        lambda ids: {"image_token_id": ids["image_token"], "scale_factor": 2},
        image="<image>", tokens=_IDEFICS_TOKENS, processor={"image_seq_len": 4},
        images=("smolvlm.image_processing_pil_smolvlm", "SmolVLMImageProcessorPil", _IDEFICS_SIZES),
    ),
    "internvl": _vision(
        "internvl", {"model_type": "qwen3"},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": [56, 56], "patch_size": [14, 14]},
        lambda ids: {"image_token_id": ids["context_image_token"], "image_seq_length": 4},
        image="<IMG_CONTEXT>",
        tokens={"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
        images=("got_ocr2.image_processing_pil_got_ocr2", "GotOcr2ImageProcessorPil", {
            "size": SQUARE, "crop_to_patches": True, "max_patches": 3,
        }),
        processor={"image_seq_length": 4},
    ),
    "gemma3": _vision(
        "gemma3", {"sliding_window": WINDOW, "layer_types": MIXED}, TOWER,
        lambda ids: {
            "image_token_index": ids["image_token"], "boi_token_index": ids["boi_token"], "eoi_token_index": ids["eoi_token"],
            "mm_tokens_per_image": 4,
        },
        image="<start_of_image>", tokens=_GEMMA_TOKENS, processor={"image_seq_length": 4},
        images=("gemma3.image_processing_pil_gemma3", "Gemma3ImageProcessorPil", {"size": SQUARE}),
    ),
    "paligemma": _vision(
        "paligemma", {"model_type": "gemma"}, {"model_type": "siglip_vision_model", **TOWER, "projection_dim": 64},
        lambda ids: {"image_token_index": ids["image_token"], "projection_dim": 64},
        tokens={"image_token": "<image>"},
        images=("siglip.image_processing_pil_siglip", "SiglipImageProcessorPil", {"size": SQUARE, "image_seq_length": 16}),
    ),
    "mistral3": _vision(
        "mistral3", {"model_type": "mistral"},
        {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "image_size": 112, "patch_size": 14, "head_dim": 16},
        lambda ids: {"image_token_index": ids["image_token"], "spatial_merge_size": 2},
        image="[IMG]",
        tokens={"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
        images=("pixtral.image_processing_pil_pixtral", "PixtralImageProcessorPil", {"size": {"longest_edge": 112}, "patch_size": 28}),
        processor={"patch_size": 14, "spatial_merge_size": 2},
    ),
    "glm4v": _vision(
        "glm4v", {"rope_parameters": MROPE | {"partial_rotary_factor": 1.0}},
        {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "image_size": 112, "spatial_merge_size": 2,
         "intermediate_size": 64, "out_hidden_size": 64},
        lambda ids: {
            "image_token_id": ids["image_token"], "video_token_id": ids["video_token"], "image_start_token_id": ids["start"],
            "image_end_token_id": ids["end"], "video_start_token_id": ids["video_start"], "video_end_token_id": ids["video_end"],
        },
        image="<|begin_of_image|><|image|><|end_of_image|>",
        tokens={"image_token": "<|image|>", "video_token": "<|video|>", "start": "<|begin_of_image|>", "end": "<|end_of_image|>",
                "video_start": "<|begin_of_video|>", "video_end": "<|end_of_video|>"},
        images=("glm4v.image_processing_pil_glm4v", "Glm4vImageProcessorPil", {"size": {"shortest_edge": 3136, "longest_edge": 12544 * 2}}),
    ),
    "gemma4": _vision(
        "gemma4",
        {"sliding_window": WINDOW, "layer_types": MIXED, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 32,
         "vocab_size_per_layer_input": 4000, "num_global_key_value_heads": None, "global_head_dim": 32},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
         "head_dim": 16, "patch_size": 8, "pooling_kernel_size": 3, "position_embedding_size": 256, "max_position_embeddings": 1024},
        lambda ids: {"image_token_id": ids["image_token"], "boi_token_id": ids["boi_token"], "eoi_token_id": ids["eoi_token"],
                     "audio_token_id": ids["audio_token"], "video_token_id": ids["video_token"], "audio_config": None},
        image="<|image|>",
        tokens={"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
                "boa_token": "<|audio>", "eoa_token": "<audio|>", "video_token": "<|video|>"},
        images=("gemma4.image_processing_pil_gemma4", "Gemma4ImageProcessorPil", {"patch_size": 8, "max_soft_tokens": 70}),
    ),
    "minicpmv4_6": _vision(
        "minicpmv4_6",
        {"model_type": "qwen3_5_text", "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
         "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
         "rope_parameters": {**MROPE, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        lambda ids: {"image_token_id": ids["image_token"], "video_token_id": ids["video_token"], "insert_layer_id": 1},
        image="<|image_pad|>",
        tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>", "image_end_token": "</image>",
                "slice_start_token": "<slice>", "slice_end_token": "</slice>", "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"},
        images=("minicpmv4_6.image_processing_pil_minicpmv4_6", "MiniCPMV4_6ImageProcessorPil", {"scale_resolution": 56, "max_slice_nums": 2, "patch_size": 14}),
    ),
    "ovis2": _vision(
        "ovis2", {"model_type": "qwen2"},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14,
         "vocab_size": 40, "hidden_stride": 2, "num_visual_indicator_tokens": 5},
        lambda ids: {"image_token_id": ids["image_token"], "hidden_size": 64,
                     "visual_indicator_token_ids": [ids[f"indicator{i}"] for i in range(5)]},
        image="<image>",
        tokens={"image_token": "<IMG_ATOM>", **{f"indicator{i}": f"<IMG_{part}>" for i, part in enumerate(("START", "GRID", "COL", "ROW", "END"))}},
        images=("ovis2.image_processing_pil_ovis2", "Ovis2ImageProcessorPil", {"size": SQUARE}),
        processor={"image_seq_length": 4},
    ),
    "lfm2_vl": _vision(
        "lfm2_vl",
        {"model_type": "lfm2", "layer_types": ["conv", "full_attention", "conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        {**TOWER, "num_hidden_layers": 2, "num_patches": 16, "patch_size": 14, "vision_use_head": False},
        lambda ids: {"image_token_id": ids["image_token"], "projector_hidden_size": 32, "downsample_factor": 2},
        image="<image>",
        tokens={"image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>", "image_thumbnail": "<|img_thumbnail|>"},
        images=("lfm2_vl.image_processing_lfm2_vl", "Lfm2VlImageProcessor", {
            "tile_size": 56, "min_image_tokens": 4, "max_image_tokens": 16, "encoder_patch_size": 14, "downsample_factor": 2, "max_num_patches": 64,
        }),
    ),
    "mllama": _vision(
        "mllama", {"num_hidden_layers": 4, "cross_attention_layers": [1]},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2, "image_size": SIDE,
         "patch_size": 14, "max_num_tiles": 2, "vision_output_dim": 64, "intermediate_layers_indices": [0],
         "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]},
        lambda ids: {"image_token_index": ids["image_token"]},
        image="<|image|>", tokens={"image_token": "<|image|>"},
        images=("mllama.image_processing_pil_mllama", "MllamaImageProcessorPil", {"size": SQUARE, "max_image_tiles": 2}),
    ),
}  # fmt: skip
FAMILIES = TEXT | VISION


def write(folder: Path, family: str) -> Path:
    """Write the checkpoint of a family into a folder."""
    tiny = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(
        POCKET / "pocket_llava", extra_special_tokens=dict(tiny.tokens)
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end>"]})
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in tiny.tokens.items()}
    config = tiny.config(ids, len(tokenizer) + EXTRA_TOKENS)
    torch.manual_seed(0)
    kind = AutoModelForImageTextToText if family in VISION else AutoModelForCausalLM
    model = kind.from_config(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 and "norm" not in name:
                parameter.normal_(std=0.1)  # biases, and gates that would shut a layer
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<end>")
    model.save_pretrained(folder)
    template = TEMPLATE % tiny.image
    if family not in VISION:
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
    else:
        _save_processor(folder, family, tiny, tokenizer, template)
    return folder


def _save_processor(folder: Path, family: str, tiny: Tiny, tokenizer: Any, template: str) -> None:
    from importlib import import_module

    assert tiny.images is not None
    module, name, settings = tiny.images
    images = getattr(import_module(f"transformers.models.{module}"), name)(**settings)
    kind = images_only(processor_class(family))
    has_template = bool(tiny.image)
    parts: dict[str, Any] = {"image_processor": images, "tokenizer": tokenizer}
    if "feature_extractor" in kind.get_attributes():  # of sounds
        parts["feature_extractor"] = Gemma4AudioFeatureExtractor()
    processor = kind(**parts, chat_template=template if has_template else None, **tiny.processor)
    processor.save_pretrained(folder)
