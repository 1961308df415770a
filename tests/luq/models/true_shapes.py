"""Checkpoints with random weights and the tensor shapes of the real models, a few decoder layers of them, written by shards."""

import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file

from tests.luq.models import tiny_qwen

SHAPES = {  # hidden, intermediate, heads, heads of keys and values, vocabulary, whether the head is the embeddings
    "qwen2_5_vl_3b": (2048, 11008, 16, 2, 151936, True),
    "qwen2_5_vl_7b": (3584, 18944, 28, 4, 152064, False),
}
VISION = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "window_size": 112}


def write(folder: Path, model: str, layers: int, blocks: int = 32) -> int:
    """Write `layers` decoder layers and `blocks` of the vision tower; returns the bytes of the weights.

    One shard per decoder layer and one for the rest, in bfloat16. Tokenizer and processor are those of the tests' small model.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    hidden, wide, heads, narrow, vocabulary, tied = SHAPES[model]
    tiny_qwen.write(folder, tied=tied)
    (folder / "model.safetensors").unlink()
    told = json.loads((folder / "config.json").read_text())
    half = hidden // heads // 2
    told["text_config"] |= {
        "hidden_size": hidden, "intermediate_size": wide, "num_attention_heads": heads, "num_key_value_heads": narrow,
        "num_hidden_layers": layers, "vocab_size": vocabulary, "layer_types": ["full_attention"] * layers,
        "rope_parameters": {"rope_type": "default", "mrope_section": [half - 48, 24, 24], "rope_theta": 1e6},
    }  # fmt: skip
    full = [b for b in (7, 15, 23, 31) if b < blocks] or [blocks - 1]
    told["vision_config"] |= VISION | {"depth": blocks, "out_hidden_size": hidden, "fullatt_block_indexes": full}
    (folder / "config.json").write_text(json.dumps(told))
    with init_empty_weights():
        skeleton = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    generator, shards, places = torch.Generator().manual_seed(0), dict[str, dict[str, tuple[int, ...]]](), dict[str, str]()
    for name, tensor in skeleton.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        part = name.split("language_model.layers.")[1].split(".")[0] if "language_model.layers." in name else "rest"
        shards.setdefault(f"model-{part}.safetensors", {})[name] = tuple(tensor.shape)
    for shard, tensors in shards.items():
        made = {}
        for name, shape in tensors.items():
            plain = "norm" in name or name.endswith("bias")
            fill = torch.ones(shape) if "norm" in name else torch.zeros(shape)
            made[name] = (fill if plain else torch.randn(shape, generator=generator) * 0.02).bfloat16()
        save_file(made, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(made, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))
