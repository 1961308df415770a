"""Checkpoints with random weights and the tensor shapes of the real models, a few decoder layers
of them, written by shards.
"""

import json
import shutil
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file

from luq.pocket.shipped import WEIGHTS as POCKET
from tests.luq.models import tiny_qwen

# hidden, intermediate, heads, heads of keys and values, vocabulary, whether the head is the
# embeddings
SHAPES = {
    "llava_1_5_7b": (4096, 11008, 32, 32, 32064, False),
    "qwen2_5_vl_3b": (2048, 11008, 16, 2, 151936, True),
    "qwen2_5_vl_7b": (3584, 18944, 28, 4, 152064, False),
}
HUB = (  # how LLaVA's tensors are named on the hub
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


def write(folder: Path, model: str, layers: int, blocks: int | None = None) -> int:
    """Write `layers` decoder layers and `blocks` of the vision tower (None: all); returns the
    bytes of the weights.

    One shard per decoder layer and one for the rest, in the real checkpoint's type and under its
    names. Tokenizer and processor
    are those of small models.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    hidden, wide, heads, narrow, vocabulary, tied = SHAPES[model]
    text = {
        "hidden_size": hidden, "intermediate_size": wide, "num_attention_heads": heads, "num_key_value_heads": narrow,
        "num_hidden_layers": layers, "vocab_size": vocabulary, "head_dim": hidden // heads,
    }  # fmt: skip
    llava = model.startswith("llava")
    (_llava if llava else _qwen)(folder, text, blocks, tied)
    with init_empty_weights():
        skeleton = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    generator, shards, places = (
        torch.Generator().manual_seed(0),
        dict[str, dict[str, tuple[int, ...]]](),
        dict[str, str](),
    )
    for name, tensor in skeleton.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        part = (
            name.split("language_model.layers.")[1].split(".")[0]
            if "language_model.layers." in name
            else "rest"
        )
        named = next(
            (hub + name.removeprefix(ours) for ours, hub in HUB if llava and name.startswith(ours)),
            name,
        )
        shards.setdefault(f"model-{part}.safetensors", {})[named] = tuple(tensor.shape)
    for shard, tensors in shards.items():
        made = {}
        for name, shape in tensors.items():
            plain = "norm" in name or name.endswith("bias")
            fill = torch.ones(shape) if "norm" in name else torch.zeros(shape)
            filled = fill if plain else torch.randn(shape, generator=generator) * 0.02
            made[name] = filled.to(torch.float16 if llava else torch.bfloat16)
        save_file(made, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(made, shard)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def _qwen(folder: Path, text: dict, blocks: int | None, tied: bool) -> None:
    """Config and processor of Qwen2.5-VL, without weights."""
    tiny_qwen.write(folder, tied=tied)
    (folder / "model.safetensors").unlink()
    told = json.loads((folder / "config.json").read_text())
    half, blocks = text["head_dim"] // 2, blocks or 32
    told["text_config"] |= {k: v for k, v in text.items() if k != "head_dim"} | {
        "layer_types": ["full_attention"] * text["num_hidden_layers"],
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [half - 48, 24, 24],
            "rope_theta": 1e6,
        },
    }
    full = [b for b in (7, 15, 23, 31) if b < blocks] or [blocks - 1]
    told["vision_config"] |= {
        "depth": blocks, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "window_size": 112,
        "out_hidden_size": text["hidden_size"], "fullatt_block_indexes": full,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))


def _llava(folder: Path, text: dict, blocks: int | None, tied: bool) -> None:
    """Config and processor of LLaVA-1.5: 576 image tokens of CLIP's large tower at 336 pixels."""
    shutil.copytree(POCKET / "pocket_llava", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    told = json.loads((folder / "config.json").read_text())
    told |= {"image_seq_length": 576, "vision_feature_layer": -2, "tie_word_embeddings": tied}
    told["text_config"] |= text
    told["vision_config"] |= {
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": blocks or 24,
        "image_size": 336, "patch_size": 14, "projection_dim": 768,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    processor = json.loads((folder / "processor_config.json").read_text()) | {"patch_size": 14}
    processor["image_processor"] |= {
        "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336},
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
