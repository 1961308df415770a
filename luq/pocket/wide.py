"""`pocket_wide`: pocket_qwen with a decoder that is twice as wide.

Its rows have 256 and 768 weights, which llama.cpp's super-blocks of 256 divide, and its tower looks
through the window of 112 pixels that llama.cpp has for every Qwen2.5-VL: through one window for all
of a pocket image. Its texts are cut in a way that llama.cpp knows.

It starts from pocket_qwen and, but for the window, computes the same at first. Every number of the
residual stream, of a head and of an MLP is there twice, so that a weight W becomes

    [W / 2 + N, W / 2 - N]
    [W / 2 + M, W / 2 - M]

for any N and M: on two equal inputs both rows give W x. Random ones make the halves learn different
things (for N = 0 this is Net2Net's widening, Chen et al., arXiv 1511.05641).
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
)

from luq.pocket.drawing import Scene
from luq.pocket.qwen import (
    CHAT,
    MIXTURE,
    PLACES,
    Sizes,
    features,
    make_processor,
    positions,
    project,
    random_model,
    tower,
    with_marks,
)
from luq.pocket.shipped import WEIGHTS
from luq.pocket.tokenizer import load_tokenizer

__all__ = [
    "CHAT",
    "IS_TRAINED",
    "LAYERS",
    "MIXTURE",
    "PLACES",
    "WIDTH",
    "build",
    "features",
    "make_processor",
    "make_tokenizer",
    "positions",
    "project",
    "target",
    "tower",
]

WIDTH = 256
# Of pocket_qwen's ten layers, all but the one that is missed least: ten would be over 20 MB.
SOURCE_LAYERS = (0, 1, 2, 3, 4, 5, 7, 8, 9)
LAYERS = len(SOURCE_LAYERS)
IS_TRAINED = True
SIZES = Sizes(hidden=WIDTH, intermediate=768, heads=8, window=112)
BLANK = "\u0120"  # how byte-level pieces write a blank
SEED = 0  # of N
DECODER = "model.language_model.layers."
NOISE = 0.5  # standard deviation of N over that of W


def make_tokenizer() -> PreTrainedTokenizerFast:
    """pocket_qwen's pieces, from texts that are cut as GPT-2's and llama.cpp's `gpt-2` cut them.

    Words in capitals are then whole words, no longer cut in pairs of letters as pictures print
    them. So that most still become these pairs, a word's first pair is merged before all others.
    """
    pocket_qwen = load_tokenizer(WEIGHTS / "pocket_qwen")
    description = json.loads(pocket_qwen.backend_tokenizer.to_str())
    merges = description["model"]["merges"]
    first_pairs = [[left, right] for left, right in merges if _begins_capitals(left, right)]
    other_pairs = [merge for merge in merges if merge not in first_pairs]
    description["model"]["merges"] = first_pairs + other_pairs
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return with_marks(tokenizer)


def _begins_capitals(left: str, right: str) -> bool:
    """Whether two pieces become the beginning of a word in capitals."""
    letters = left.removeprefix(BLANK) + right
    return left.startswith(BLANK) and re.fullmatch("[A-Z]+", letters) is not None


def build(
    tokenizer: PreTrainedTokenizerFast, layers: int, vision_layers: int
) -> Qwen2_5_VLForConditionalGeneration:
    """The model in fp32, with the widened weights of pocket_qwen."""
    model = random_model(tokenizer, layers, vision_layers, SIZES)
    widen(model, _qwen(), SOURCE_LAYERS)
    return model


@torch.no_grad()
def widen(model: nn.Module, source: nn.Module, source_layers: Sequence[int]) -> None:
    """Give a model the weights of one that is half as wide.

    Args:
        model: whose parameters have the source's shapes, or twice as many rows or columns.
            Parameters that the source does not have, those of further layers, stay as they are.
        source: in the same architecture.
        source_layers: which of the source's layers stand in the model, in their order.
    """
    generator = torch.Generator().manual_seed(SEED)
    sources = dict(source.named_parameters())
    tables = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    for name, parameter in model.named_parameters():
        source_name = _source_name(name, source_layers)
        if source_name not in sources:
            continue
        weight = sources[source_name].float()
        if weight.shape[0] < parameter.shape[0]:
            weight = torch.cat([weight, weight])
        if weight.ndim == 2 and weight.shape[1] < parameter.shape[1]:
            if id(parameter) in tables:
                weight = torch.cat([weight, weight], 1)
            else:
                weight = _halves(weight, generator)
        parameter.copy_(weight)


def _source_name(name: str, source_layers: Sequence[int]) -> str | None:
    """What a parameter is called in the source; None for layers beyond those that are kept."""
    if not name.startswith(DECODER):
        return name
    place, _, inner_name = name.removeprefix(DECODER).partition(".")
    if int(place) >= len(source_layers):
        return None
    return f"{DECODER}{source_layers[int(place)]}.{inner_name}"


def _halves(weight: Tensor, generator: torch.Generator) -> Tensor:
    """[W / 2 + N, W / 2 - N]."""
    noise = torch.randn(weight.shape, generator=generator) * NOISE * weight.std()
    return torch.cat([weight / 2 + noise, weight / 2 - noise], 1)


def target(scenes: list[Scene]) -> Tensor | None:
    """None: the tower knows what pocket_qwen's knows."""
    return None


@lru_cache(maxsize=1)
def _qwen() -> Any:
    """The shipped pocket_qwen, in fp32."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        WEIGHTS / "pocket_qwen", dtype=torch.float32
    )
    return model.requires_grad_(False)
