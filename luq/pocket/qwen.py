"""`pocket_qwen`: Qwen2.5-VL in small.

Window attention, merged patches, M-RoPE; chat template and processor like its own. Its decoder
starts from pocket_llava's, as the real one starts from a language model: on text both compute the
same at first.
"""

import json
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from luq.models.processors import images_only
from luq.pocket import llava
from luq.pocket.conversations import Chat
from luq.pocket.drawing import CELL, GRID, SIZE, Scene
from luq.pocket.shipped import WEIGHTS
from luq.pocket.stream import POCKET_MIXTURE
from luq.pocket.tokenizer import MAX_LENGTH, PHRASES, load_tokenizer, token_id

MERGE = 2  # 2 x 2 patches become one token: a cell
PATCH = CELL // MERGE  # pixels
FRAMES = 2  # an image is a film of two equal frames
WINDOW = SIZE // 2  # pixels: 3 x 3 cells look at each other, except in the blocks of FULL
FULL = (1, 3)  # blocks of the tower in which all cells look at each other
# Of the 16 frequencies of a head, 1 turns with time, 2 with rows, 13 with columns. The original's
# shares (1 : 1.5 : 1.5) would leave columns only frequencies that turn by less than a fiftieth of
# a radian over six cells.
SECTIONS = [1, 2, 13]
IMAGE = "<|image_pad|>"
VIDEO = "<|video_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL = [TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO]
CHAT = Chat(
    ask="<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n",
    reply=" {answer}<|im_end|>",
    image=f"{VISION_START}{IMAGE}{VISION_END}",
    token=IMAGE,
    between="\n",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The tower knows relative places only; where a cell is, the decoder learns from M-RoPE.
PLACES = False
WIDTH = 128  # of the merger's output, which the heads of the vision phase read
LAYERS = 10
IS_TRAINED = False
MIXTURE = POCKET_MIXTURE


def make_tokenizer() -> PreTrainedTokenizerFast:
    """pocket_llava's pieces, with the words and marks of ChatML in place of USER: and so on."""
    description = json.loads(_llava_tokenizer().backend_tokenizer.to_str())
    pieces = description["model"]["vocab"]
    merges = description["model"]["merges"]
    # The names of the roles become single pieces.
    for left, right in (("us", "er"), ("ass", "ist"), ("assist", "ant")):
        if left + right not in pieces:
            pieces[left + right] = len(pieces)
            merges.append([left, right])
    added_tokens = [token for token in description["added_tokens"] if token["content"] in pieces]
    description["added_tokens"] = added_tokens
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_tokens([AddedToken(phrase) for phrase in PHRASES])
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    return with_marks(tokenizer)


def with_marks(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers has it, with what ChatML's marks are for."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types
        tokenizer_object=tokenizer,
        padding_side="left",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token=TURN_END,
        additional_special_tokens=SPECIAL,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


class Sizes(NamedTuple):
    """Of the decoder, and the window of the tower in pixels."""

    hidden: int = WIDTH
    intermediate: int = 384
    heads: int = 4
    window: int = WINDOW


def build(
    tokenizer: PreTrainedTokenizerFast, layers: int, vision_layers: int
) -> Qwen2_5_VLForConditionalGeneration:
    """The model in fp32: a random vision tower before the decoder of pocket_llava."""
    model = random_model(tokenizer, layers, vision_layers, Sizes())
    _graft_decoder(model)
    _graft_embeddings(model, tokenizer)
    return model


def random_model(
    tokenizer: PreTrainedTokenizerFast, layers: int, vision_layers: int, sizes: Sizes
) -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights, in fp32."""
    end_id = token_id(tokenizer, TURN_END)
    language = {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_LENGTH,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": SECTIONS,
            "rope_theta": 1e4,
        },
        "rms_norm_eps": 1e-6,
        "pad_token_id": llava.PAD_ID,
        "bos_token_id": llava.START_ID,
        "eos_token_id": end_id,
    }
    vision = {
        "depth": vision_layers,
        "hidden_size": 96,
        "num_heads": 3,
        "intermediate_size": 256,
        "out_hidden_size": sizes.hidden,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": sizes.window,
        "fullatt_block_indexes": list(FULL),
    }
    config = Qwen2_5_VLConfig(
        text_config=language,
        vision_config=vision,
        image_token_id=token_id(tokenizer, IMAGE),
        video_token_id=token_id(tokenizer, VIDEO),
        vision_start_token_id=token_id(tokenizer, VISION_START),
        vision_end_token_id=token_id(tokenizer, VISION_END),
        tie_word_embeddings=False,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.pad_token_id = llava.PAD_ID
    model.generation_config.bos_token_id = llava.START_ID
    model.generation_config.eos_token_id = end_id
    return model


@torch.no_grad()
def _graft_decoder(model: Any) -> None:
    """Put pocket_llava's decoder layers and last norm in; the biases it does not have are zero."""
    decoder = model.model.language_model
    source = llava.shipped_model().model.language_model
    # The model may be built with fewer layers than pocket_llava has.
    for layer, source_layer in zip(decoder.layers, source.layers, strict=False):
        weights = source_layer.state_dict()
        for name, parameter in layer.named_parameters():
            if name.endswith(".bias"):
                weights[name] = torch.zeros_like(parameter)
        layer.load_state_dict(weights)
    decoder.norm.load_state_dict(source.norm.state_dict())


@torch.no_grad()
def _graft_embeddings(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give every token that pocket_llava knows its rows of the embeddings and of the head."""
    source = llava.shipped_model()
    source_tokenizer = _llava_tokenizer()
    source_ids = source_tokenizer.get_vocab()
    rows = []
    source_rows = []
    for token, row in tokenizer.get_vocab().items():
        if token in source_ids:
            rows.append(row)
            source_rows.append(source_ids[token])
    # The end of a turn takes the place of the end of a sequence.
    rows.append(token_id(tokenizer, TURN_END))
    source_rows.append(source_tokenizer.eos_token_id)
    source_embeddings = source.get_input_embeddings().weight
    model.get_input_embeddings().weight[rows] = source_embeddings[source_rows]
    model.lm_head.weight[rows] = source.lm_head.weight[source_rows]


@lru_cache(maxsize=1)
def _llava_tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(WEIGHTS / "pocket_llava")


def tower(model: Any) -> nn.Module:
    """What the vision phase trains, and the language phase at a lower rate: blocks and merger."""
    module: nn.Module = model.model.visual
    return module


def to_patches(scenes: list[Scene]) -> Tensor:
    """What the processor makes of the scenes: two equal frames, cell by cell, in [-1, 1].

    Returns:
        [n * 144, 3 * 2 * 6 * 6]: patches; colour, frame, row and column of a pixel.
    """
    count = len(scenes)
    pixels = llava.to_pixels(scenes)
    cells = pixels.view(count, 3, GRID, MERGE, PATCH, GRID, MERGE, PATCH)
    # [n, colour, cell row, patch row, y, cell column, patch column, x]
    #   -> [n, cell row, cell column, patch row, patch column, colour, y, x]
    patches = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)
    films = patches.unsqueeze(6).expand(*patches.shape[:6], FRAMES, PATCH, PATCH)
    return films.reshape(count * (GRID * MERGE) ** 2, -1)


def grids(images: int) -> Tensor:
    """Patches in time, height and width of each image, [images, 3]."""
    grid = torch.tensor([[1, GRID * MERGE, GRID * MERGE]])
    return grid.expand(images, -1)


def features(model: Any, scenes: list[Scene]) -> Tensor:
    """What the decoder reads for each cell, [n, 36, hidden]."""
    patches = to_patches(scenes).to(model.device)
    output = model.model.visual(patches, grid_thw=grids(len(scenes)).to(model.device))
    merged: Tensor = output.pooler_output
    return merged.view(len(scenes), GRID * GRID, -1)


def project(model: Any, patches: Tensor) -> Tensor:
    """Features as the decoder reads them: as they are, since the merger has projected them."""
    return patches


def positions(model: Any, ids: Tensor, images: int) -> Tensor | None:
    """The model's own M-RoPE positions, [3, batch, length]."""
    is_image = (ids == model.config.image_token_id).int()
    rope_positions: Tensor = model.model.get_rope_index(
        ids, is_image, grids(images).to(ids.device)
    )[0]
    return rope_positions


@torch.no_grad()
def target(scenes: list[Scene]) -> Tensor | None:
    """What pocket_llava's decoder reads for each cell, [n, 36, hidden].

    Features near to it are understood by the grafted decoder from the start.
    """
    source = llava.shipped_model()
    return llava.project(source, llava.features(source, scenes))


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Any:
    pixels = SIZE * SIZE
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        size={"shortest_edge": pixels, "longest_edge": pixels},  # named edges, meant as pixels
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = images_only(Qwen2_5_VLProcessor)
    return processor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)
