"""A Qwen2.5-VL of a few layers with random weights: M-RoPE, merged patches, window attention, the
hub's file layout.
"""

from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from luq.pocket.shipped import WEIGHTS as POCKET

SPECIAL = [
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|im_start|>",
    "<|im_end|>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(
    folder: Path,
    layers: int = 3,
    hidden: int = 128,
    wide: int = 256,
    heads: int = 4,
    narrow: int = 2,
    tied: bool = False,
) -> Path:
    """Write the checkpoint: `hidden`, `wide` and the heads are those of the decoder; `narrow`
    heads for keys and values.

    `tied`: the head is the embeddings, as in the 3B model.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        POCKET / "pocket_llava", extra_special_tokens={"image_token": "<|image_pad|>"}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = TEMPLATE
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    half = hidden // heads // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": narrow, "vocab_size": len(tokenizer), "max_position_embeddings": 2048,
            "tie_word_embeddings": tied,
            "rope_parameters": {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6},
        },
        vision_config={
            "depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, "out_hidden_size": hidden, "patch_size": 14,
            "spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=tied,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = (
        0,
        ids["<|im_end|>"],
    )
    model.save_pretrained(folder)
    tokenizer._set_processor_class("Qwen2_5_VLProcessor")
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=14, merge_size=2).save_pretrained(folder)
    return folder
