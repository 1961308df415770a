"""`pocket_qwen`: Qwen2.5-VL in small. Window attention, merged patches, M-RoPE; chat template and processor like its own.

Its decoder starts from pocket_llava's, as the real one starts from a language model: on text both compute the same at first.
"""

import json
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from luq.models.checkpoint import POCKET
from luq.models.processors import IMAGE, VIDEO, images_only
from luq.pocket import llava
from luq.pocket.stream import Chat
from luq.pocket.tokenizer import PHRASES
from luq.pocket.world import CELL, GRID, SIZE, Scene

PATCH, MERGE = CELL // 2, 2  # four patches of 6 x 6 pixels become one token: a cell
WINDOW = SIZE // 2  # pixels: 3 x 3 cells look at each other, except in the blocks of FULL
FULL = (1, 3)
# Of the 16 frequencies of a head, 1 turns with time, 2 with rows, 13 with columns. The original's shares (1 : 1.5 : 1.5) would
# leave columns only frequencies that turn by less than a fiftieth of a radian over six cells.
SECTIONS = [1, 2, 13]
START, END = "<|vision_start|>", "<|vision_end|>"
SPECIAL = ["<|im_start|>", "<|im_end|>", START, END, IMAGE, VIDEO]
CHAT = Chat(
    ask="<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n", reply=" {answer}<|im_end|>",
    image=f"{START}{IMAGE}{END}", token=IMAGE, between="\n",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLACES = (
    False  # its tower knows relative places only; where a cell is, the decoder learns from M-RoPE
)
WIDTH = 128  # of the merger's output, which the heads of the vision phase read


def make_tokenizer() -> PreTrainedTokenizerFast:
    """pocket_llava's pieces, with the words and marks of ChatML in place of USER: and ASSISTANT:."""
    told = json.loads(_llava()[1].backend_tokenizer.to_str())
    pieces, merges = told["model"]["vocab"], told["model"]["merges"]
    for left, right in (("us", "er"), ("ass", "ist"), ("assist", "ant")):
        if left + right not in pieces:
            pieces[left + right] = len(pieces)
            merges.append([left, right])
    told["added_tokens"] = [t for t in told["added_tokens"] if t["content"] in pieces]
    tokenizer = Tokenizer.from_str(json.dumps(told))
    tokenizer.add_tokens([AddedToken(phrase) for phrase in PHRASES])
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL, model_max_length=2048, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build(tokenizer: Any, layers: int, vision_layers: int) -> Qwen2_5_VLForConditionalGeneration:
    """The model in fp32: a random vision tower before the decoder of pocket_llava, whose tokens keep their embeddings."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 4, "vocab_size": len(tokenizer), "max_position_embeddings": 2048, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "mrope_section": SECTIONS, "rope_theta": 1e4},
            "rms_norm_eps": 1e-6, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": vision_layers, "hidden_size": 96, "num_heads": 3, "intermediate_size": 256, "out_hidden_size": 128,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "window_size": WINDOW, "fullatt_block_indexes": list(FULL),
        },
        image_token_id=ids[IMAGE], video_token_id=ids[VIDEO], vision_start_token_id=ids[START], vision_end_token_id=ids[END],
        tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = (
        0,
        ids["<|im_end|>"],
    )
    model.generation_config.bos_token_id = 1
    _graft(model, tokenizer)
    return model


@torch.no_grad()
def _graft(model: Any, tokenizer: Any) -> None:
    """Put pocket_llava's decoder in, with biases of zero; a token's rows go with its text, and the new end is the old end."""
    source, old = _llava()
    for layer, theirs in zip(
        model.model.language_model.layers, source.model.language_model.layers, strict=False
    ):
        missing, unexpected = layer.load_state_dict(theirs.state_dict(), strict=False)
        assert not unexpected, unexpected
        assert all(name.endswith(".bias") for name in missing), missing
        for name in missing:
            layer.get_parameter(name).zero_()
    model.model.language_model.norm.load_state_dict(source.model.language_model.norm.state_dict())
    known = old.get_vocab()
    pairs = [(new, known[text]) for text, new in tokenizer.get_vocab().items() if text in known]
    pairs.append((tokenizer.convert_tokens_to_ids("<|im_end|>"), old.eos_token_id))
    mine, theirs = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
    model.get_input_embeddings().weight[mine] = source.get_input_embeddings().weight[theirs]
    model.lm_head.weight[mine] = source.lm_head.weight[theirs]


@lru_cache(maxsize=1)
def _llava() -> tuple[Any, Any]:
    folder = POCKET / "pocket_llava"
    source = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    ).requires_grad_(False)
    return source, AutoTokenizer.from_pretrained(folder)


def tower(model: Any) -> nn.Module:
    """What the vision phase trains, and the language phase at a lower rate: blocks and merger."""
    module: nn.Module = model.model.visual
    return module


def to_patches(scenes: list[Scene]) -> Tensor:
    """Scenes -> [n * 144, 3 * 2 * 6 * 6] in [-1, 1], exactly as the processor makes them: two equal frames, cell by cell."""
    stack = np.stack([s.pixels for s in scenes]).transpose(0, 3, 1, 2)
    pixels = torch.from_numpy(stack).float() / 127.5 - 1
    cells = pixels.view(len(scenes), 3, GRID, MERGE, PATCH, GRID, MERGE, PATCH).permute(
        0, 2, 5, 3, 6, 1, 4, 7
    )
    return (
        cells.unsqueeze(6)
        .expand(*cells.shape[:6], 2, PATCH, PATCH)
        .reshape(len(scenes) * (GRID * MERGE) ** 2, -1)
    )


def grids(n: int) -> Tensor:
    """Patches in time, height and width of `n` pictures, [n, 3]."""
    return torch.tensor([[1, GRID * MERGE, GRID * MERGE]]).expand(n, -1)


def features(model: Any, scenes: list[Scene]) -> Tensor:
    """What the decoder is given for each cell, [n, 36, hidden]."""
    merged: Tensor = model.model.visual(
        to_patches(scenes), grid_thw=grids(len(scenes))
    ).pooler_output
    return merged.view(len(scenes), GRID * GRID, -1)


def project(model: Any, seen: Tensor) -> Tensor:
    """The merger has done it."""
    return seen


def positions(model: Any, ids: Tensor, images: int) -> Tensor:
    """The model's own M-RoPE positions, [3, batch, length]."""
    found: Tensor = model.model.get_rope_index(
        ids, (ids == model.config.image_token_id).int(), grids(images)
    )[0]
    return found


@torch.no_grad()
def target(scenes: list[Scene]) -> Tensor:
    """What pocket_llava's decoder is given for each cell, [n, 36, hidden]: the grafted decoder understands it from the start."""
    source = _llava()[0]
    return llava.project(source, llava.features(source, scenes))


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Any:
    pixels = {
        "shortest_edge": SIZE * SIZE,
        "longest_edge": SIZE * SIZE,
    }  # named edges, meant as pixels
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, size=pixels, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    return images_only()(images, tokenizer, chat_template=CHAT_TEMPLATE)
