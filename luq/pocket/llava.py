"""`pocket_llava`: LLaVA-1.5 in small.

A CLIP tower, a projector of two linears, a Llama; its chat template and processor.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from luq.pocket.conversations import IMAGE_TOKENS, Chat
from luq.pocket.drawing import CELL, SIZE, Scene
from luq.pocket.shipped import WEIGHTS
from luq.pocket.stream import POCKET_MIXTURE
from luq.pocket.tokenizer import MAX_LENGTH, SPECIAL, token_id, train_tokenizer

CHAT = Chat(
    ask="USER: {image}{question} ASSISTANT:",
    reply=" {answer}</s>",
    image="<image>\n",
    token="<image>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ 'USER: ' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ASSISTANT: ' }}"
    "{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ '</s>' }}"
    "{% elif m['role'] == 'system' %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
# The tower can name the row and the column of a cell: CLIP's patches know where they are.
PLACES = True
WIDTH = 128  # of the tower's features
LAYERS = 10
IS_TRAINED = False
MIXTURE = POCKET_MIXTURE
PAD_ID = SPECIAL.index("<pad>")
START_ID = SPECIAL.index("<s>")
END_ID = SPECIAL.index("</s>")
make_tokenizer = train_tokenizer


def build(
    tokenizer: PreTrainedTokenizerFast, layers: int, vision_layers: int
) -> LlavaForConditionalGeneration:
    """The model with random weights, in fp32."""
    language = LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=PAD_ID,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=tower_config(vision_layers),
        text_config=language,
        image_seq_length=IMAGE_TOKENS,
        image_token_index=token_id(tokenizer, "<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = PAD_ID
    model.generation_config.bos_token_id = START_ID
    model.generation_config.eos_token_id = END_ID
    return model


def tower_config(layers: int) -> CLIPVisionConfig:
    """What the vision tower is."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=CELL,
        projection_dim=128,
    )


@lru_cache(maxsize=1)
def shipped_model() -> Any:
    """The shipped pocket_llava, in fp32."""
    model = LlavaForConditionalGeneration.from_pretrained(
        WEIGHTS / "pocket_llava", dtype=torch.float32
    )
    return model.requires_grad_(False)


def tower(model: Any) -> nn.Module:
    """What the vision phase trains, and the language phase at a lower rate."""
    module: nn.Module = model.model.vision_tower
    return module


def to_pixels(scenes: list[Scene]) -> Tensor:
    """What the processor makes of the scenes, [n, 3, 72, 72] in [-1, 1]."""
    stack = np.stack([scene.pixels for scene in scenes]).transpose(0, 3, 1, 2)
    return torch.from_numpy(stack).float() / 127.5 - 1


def features(model: Any, scenes: list[Scene]) -> Tensor:
    """Patch features [n, 36, width] of the layer that LLaVA reads."""
    pixels = to_pixels(scenes).to(model.device)
    output = model.model.vision_tower(pixels, output_hidden_states=True)
    hidden: Tensor = output.hidden_states[-1]
    return hidden[:, 1:]  # without the class token


def project(model: Any, patches: Tensor) -> Tensor:
    """Features as the decoder reads them, [n, 36, hidden]."""
    projected: Tensor = model.model.multi_modal_projector(patches)
    return projected


def target(scenes: list[Scene]) -> Tensor | None:
    """What the features shall come near to: nothing, as the tower starts from scratch."""
    return None


def positions(model: Any, ids: Tensor, images: int) -> Tensor | None:
    """Rotary positions, where they are not simply 0, 1, 2, ...: nowhere."""
    return None


def make_processor(
    tokenizer: PreTrainedTokenizerFast, chat_template: str = CHAT_TEMPLATE
) -> LlavaProcessor:
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]  # transformers has no types
        image_processor,
        tokenizer,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=chat_template,
    )
