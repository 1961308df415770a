"""Tower and projector in llama.cpp's words."""

from typing import Any

import pytest
from transformers import LlavaConfig, Qwen2_5_VLConfig

from luq.errors import ConfigError
from luq.export.gguf.vision import Place, vision_of

IMAGES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def llava(**settings: Any) -> LlavaConfig:
    return LlavaConfig(**settings)


def qwen(**settings: Any) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(vision_config=settings)


@pytest.mark.parametrize("prefix", ["vision_tower.", "vision_tower.vision_model.", "model.vision_tower."])  # fmt: skip
def test_llavas_names(prefix: str) -> None:
    vision = vision_of("llava", llava(), IMAGES)
    names = {
        f"{prefix}embeddings.class_embedding": "v.class_embd",
        f"{prefix}pre_layrnorm.weight": "v.pre_ln.weight",
        f"{prefix}encoder.layers.3.mlp.fc1.bias": "v.blk.3.ffn_up.bias",
        f"{prefix}encoder.layers.0.self_attn.out_proj.weight": "v.blk.0.attn_out.weight",
        "multi_modal_projector.linear_1.weight": "mm.0.weight",
        "model.multi_modal_projector.linear_2.bias": "mm.2.bias",
    }
    for tensor, name in names.items():
        assert vision.places(tensor, 8) == [Place(name)]
    assert vision.places(f"{prefix}encoder.layers.0.other.weight", 8) == []
    assert vision.places("multi_modal_projector.norm.weight", 8) == []
    assert vision.is_unread(f"{prefix}post_layernorm.weight")
    assert not vision.is_unread(f"{prefix}pre_layrnorm.weight")


def test_qwens_tensors_are_taken_apart() -> None:
    vision = vision_of("qwen2_5_vl", qwen(), IMAGES)
    assert vision.places("model.visual.blocks.2.attn.qkv.bias", 48) == [
        Place("v.blk.2.attn_q.bias", (0, 16)),
        Place("v.blk.2.attn_k.bias", (16, 32)),
        Place("v.blk.2.attn_v.bias", (32, 48)),
    ]
    assert vision.places("visual.patch_embed.proj.weight", 16) == [
        Place("v.patch_embd.weight", frame=0),
        Place("v.patch_embd.weight.1", frame=1),
    ]
    assert vision.places("visual.merger.ln_q.weight", 16) == [Place("v.post_ln.weight")]
    assert vision.places("visual.merger.mlp.2.weight", 16) == [Place("mm.2.weight")]


@pytest.mark.parametrize(("layer", "count"), [(-2, 23), (-1, 24), (20, 20)])
def test_a_feature_layer_is_counted_from_the_first(layer: int, count: int) -> None:
    assert vision_of("llava", llava(vision_feature_layer=layer), IMAGES).feature_layer == count


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("llava", llava(vision_config={"model_type": "siglip_vision_model"}), "siglip"),
        ("llava", llava(projector_hidden_act="relu"), "projector_hidden_act=relu"),
        ("llava", llava(vision_feature_layer=[-2, -5]), "several"),
        ("llava", llava(vision_feature_select_strategy="full"), "strategy=full"),
        ("llava", llava(multimodal_projector_bias=False), "without biases"),
        ("qwen2_5_vl", qwen(fullatt_block_indexes=[7, 15, 20, 31]), "fullatt_block_indexes"),
        ("qwen2_5_vl", qwen(temporal_patch_size=1), "temporal_patch_size=1"),
        ("qwen2_5_vl", qwen(spatial_merge_size=4), "spatial_merge_size=4"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, config: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        vision_of(family, config, IMAGES)


def test_images_without_a_mean_are_refused() -> None:
    with pytest.raises(ConfigError, match="no image_mean"):
        vision_of("llava", llava(), {})


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("llava", llava(), "issue 25814"),
        ("qwen2_5_vl", qwen(window_size=36), "windows have 36 pixels, and llama.cpp's have 112"),
        ("qwen2_5_vl", qwen(), ""),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_said(family: str, config: Any, words: str) -> None:
    differences = " ".join(vision_of(family, config, IMAGES).differences)
    assert words in differences
    assert bool(words) == bool(differences)
