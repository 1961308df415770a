"""`smol_llava`: LLaVA-1.5 in small with a real language model, SmolLM2-135M-Instruct.

The decoder comes from SmolLM2's installed package (`smollm2`), the vision tower from pocket_llava.
Between them stands a projector that is fitted, before any training, to say what a cell holds in
the decoder's own words. Nothing of SmolLM2 is part of the project.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from luq.pocket import llava, smollm2
from luq.pocket.conversations import IMAGE_TOKENS, Chat
from luq.pocket.drawing import CHARACTERS, GRID, Scene
from luq.pocket.llava import PLACES, WIDTH, features, positions, project, target, tower
from luq.pocket.palette import COLOUR_NAMES, SHAPES
from luq.pocket.sentences import ORDINALS, description
from luq.pocket.stream import Mixture
from luq.pocket.tokenizer import token_id
from luq.pocket.world import KINDS, make_scene

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

IMAGE = "<image>"
CHAT = Chat(
    ask="<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n",
    reply="{answer}<|im_end|>",
    image=f"{IMAGE}\n",
    token=IMAGE,
    between="\n",
    caption=description,
)
# SmolLM2's own, with images, and without the system message that it puts before a conversation
# that has none: here it would be a tenth of every sequence.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# English is not taught but kept (`graft_phase`), and so are letters, equality and most sums, which
# SmolLM2 can do after some hundred steps; facts have their time. It sees before the mixture begins,
# from captions: here few pictures are described, as an answer can then be read in the description,
# and the two tokens of an answer count beside the forty of a caption. Most questions are open at
# first: an answer among many says more than a yes, a no or a letter.
MIXTURE = Mixture(
    lessons={
        "facts": (0.08, 0.2, 0.2, 0.15),
        "letters": (0.03, 0.02, 0.02, 0.02),
        "equality": (0.02, 0.01, 0.01, 0.01),
        "sums": (0.05, 0.05, 0.04, 0.03),
        "captions": (0.4, 0.12, 0.06, 0.05),
    },
    captions=(0.1, 0.1, 0.05, 0.05),
    dense=(0.15, 0.15, 0.1, 0.1),
    openly=(0.9, 0.5, 0.3, 0.3),
    brief=(0.9, 0.9, 0.5, 0.2),
    evenness=0.5,
)
LAYERS: int | None = None  # as many as the package's file has
IS_TRAINED = True  # the tower, so there is no vision phase
FITTED_SCENES = 40  # of each kind, that the projector is fitted to: 10,080 cells
RIDGE = 1e-3  # of the mean square of a hidden number of the projector
SEED = 0  # of the fit


def make_tokenizer() -> PreTrainedTokenizerFast:
    """SmolLM2's, with a token for images."""
    tokenizer = smollm2.GgufModel(smollm2.packaged_file()).tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    return tokenizer


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    return llava.make_processor(tokenizer, CHAT_TEMPLATE)


def build(
    tokenizer: PreTrainedTokenizerFast, layers: int, vision_layers: int
) -> LlavaForConditionalGeneration:
    """The model in fp32: SmolLM2, pocket_llava's tower, and a fitted projector.

    Args:
        tokenizer: As `make_tokenizer` gives it.
        layers: Not used: the package's file says it.
        vision_layers: Not used: pocket_llava's tower says it.
    """
    source = smollm2.GgufModel(smollm2.packaged_file())
    eyes = llava.shipped_model()
    language = source.config.to_dict() | {"vocab_size": len(tokenizer)}
    config = LlavaConfig(
        vision_config=eyes.config.vision_config.to_dict(),
        text_config=language,
        image_seq_length=IMAGE_TOKENS,
        image_token_index=token_id(tokenizer, IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    _load_decoder(model, dict(source.weights()))
    tower(model).load_state_dict(tower(eyes).state_dict())
    fit_projector(model, tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(source.config, name))
    return model


@torch.no_grad()
def _load_decoder(model: Any, weights: dict[str, Tensor]) -> None:
    """Put SmolLM2's weights in.

    The image's token has the mean of all embeddings. It is never read, since the picture takes its
    place, and as the head's row it is as likely as a token that does not fit.
    """
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([table, table.mean(0, keepdim=True)])
    decoder = {name.removeprefix("model."): weight for name, weight in weights.items()}
    model.model.language_model.load_state_dict(decoder)
    model.tie_weights()


def words_of(scene: Scene, cell: int) -> list[str]:
    """What a cell holds and where it is, each in a word; rows are ordinals, columns numbers."""
    labels = {name: int(classes[cell]) for name, classes in scene.labels.items()}
    words = [ORDINALS[cell // GRID], str(cell % GRID + 1)]
    if labels["colour"]:
        words.append(COLOUR_NAMES[labels["colour"] - 1])
    if labels["shape"]:
        words.append(SHAPES[labels["shape"] - 1])
    if labels["digit"]:
        words.append(str(labels["digit"] - 1))
    if labels["height"]:
        words.append(str(labels["height"]))
    for side in ("left", "right"):
        if labels[side]:
            words.append(CHARACTERS[labels[side] - 1])
    return words


def _word_vectors(model: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """What each word adds to the mean of all embeddings, [hidden]."""
    table = model.get_input_embeddings().weight
    digits = [str(number) for number in range(11)]
    vectors = {}
    for word in (*ORDINALS, *COLOUR_NAMES, *SHAPES, *CHARACTERS, *digits):
        ids = tokenizer(f" {word}").input_ids
        vectors[word] = table[ids].mean(0) - table.mean(0)
    return vectors


@torch.no_grad()
def fit_projector(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Fit the projector to cells' words: features that the decoder understands from the start.

    Its first linear is random, its second the ridge regression of the sums of the embeddings of
    `words_of` on what the first makes of the tower's features.
    """
    rng = np.random.default_rng(SEED)
    scenes = [make_scene(rng, kind) for kind in KINDS for _ in range(FITTED_SCENES)]
    vectors = _word_vectors(model, tokenizer)
    mean = model.get_input_embeddings().weight.mean(0)
    targets = []
    for scene in scenes:
        for cell in range(GRID * GRID):
            words = [vectors[word] for word in words_of(scene, cell)]
            targets.append(mean + torch.stack(words).sum(0))
    patches = features(model, scenes).flatten(0, 1)  # [cells, width]
    projector = model.model.multi_modal_projector
    _randomize(projector.linear_1, patches)
    hidden = projector.act(projector.linear_1(patches))  # [cells, hidden]
    with_ones = torch.cat([hidden, torch.ones(len(hidden), 1)], 1).double()
    gram = with_ones.T @ with_ones
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram + ridge, with_ones.T @ torch.stack(targets).double())
    projector.linear_2.weight.copy_(solution[:-1].T)
    projector.linear_2.bias.copy_(solution[-1])


def _randomize(linear: nn.Linear, inputs: Tensor) -> None:
    """Random directions on which the inputs have the mean 0 and about the variance 1."""
    generator = torch.Generator().manual_seed(SEED)
    shape = linear.weight.shape
    directions = torch.randn(shape, generator=generator) / shape[1] ** 0.5
    weight = directions / inputs.std(0).clamp_min(1e-6)
    linear.weight.copy_(weight)
    linear.bias.copy_(-weight @ inputs.mean(0))
