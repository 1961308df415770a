"""The model families: what LUQ must know of a model before transformers has built it.

Names only, so that importing it costs nothing. Where decoder layers and their linears stand is
found in the model itself (`luq.models.decoder`), so that a family needs an entry here only for what
differs, and for being one that the tests run through every stage.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Family(NamedTuple):
    """What differs between families.

    title: Of the models, as people call them.
    bounds_pixels: Whether its processor bounds an image's pixels (`model.min_pixels`).
    pads: Whether its processor can pad an image to a square (`model.do_pad`).
    joins_images: Whether images of several samples can be put one behind another in a batch.
    template: A chat template for checkpoints that have none, since they were made for no chats.
    """

    title: str
    bounds_pixels: bool = False
    pads: bool = False
    joins_images: bool = True
    template: str | None = None


LLAVA = "llava"
QWEN2_5_VL = "qwen2_5_vl"
# PaliGemma answers a prompt after its image: its processor adds what begins and ends the prompt.
_PROMPT_ALONE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)
# Families that see images, by `model_type` in config.json.
VISION_FAMILIES = {
    LLAVA: Family("LLaVA-1.5", pads=True),
    "llava_next": Family("LLaVA-NeXT"),
    "llava_onevision": Family("LLaVA-OneVision"),
    "vipllava": Family("VipLLaVA", pads=True),
    "qwen2_vl": Family("Qwen2-VL", bounds_pixels=True),
    QWEN2_5_VL: Family("Qwen2.5-VL", bounds_pixels=True),
    "qwen3_vl": Family("Qwen3-VL", bounds_pixels=True),
    "idefics3": Family("Idefics3"),
    "smolvlm": Family("SmolVLM2"),
    "internvl": Family("InternVL 3 and 3.5"),
    "gemma3": Family("Gemma 3"),
    "paligemma": Family("PaliGemma", template=_PROMPT_ALONE),
    "mistral3": Family("Pixtral and Mistral 3"),
    "gemma4": Family("Gemma 4"),
    "glm4v": Family("GLM-4V", bounds_pixels=True),
    "lfm2_vl": Family("LFM2-VL"),
    "ovis2": Family("Ovis 2"),
    "minicpmv4_6": Family("MiniCPM-V 4.6", joins_images=False),
    "mllama": Family("Llama 3.2 Vision"),
}
# Families of language models without a vision tower.
TEXT_FAMILIES = {
    "llama": Family("Llama, SmolLM"),
    "mistral": Family("Mistral"),
    "qwen2": Family("Qwen2"),
    "qwen3": Family("Qwen3"),
    "smollm3": Family("SmolLM3"),
    "gemma": Family("Gemma"),
    "gemma2": Family("Gemma 2"),
    "gemma3_text": Family("Gemma 3, text only"),
    "phi3": Family("Phi-3"),
}
FAMILIES = VISION_FAMILIES | TEXT_FAMILIES

# The linears of most families' decoder layers. Files call these by their last names alone.
LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_SHORT_NAMES = {name: name.rpartition(".")[2] for name in LINEARS}
_FULL_NAMES = {short: name for name, short in _SHORT_NAMES.items()}

# Linears that share an input and that vLLM and others compute with as one.
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

# Parts of a model beside its decoder linears, by names of tensors. The first that matches counts.
PARTS = {
    "projector": re.compile(r"projector|connector|merger|resampler|image_newline|embed_vision"),
    "vision": re.compile(r"vision|visual|image_vit|vit_merger"),
    "audio": re.compile(r"audio"),
    "embeddings": re.compile(r"embed_tokens"),
    "head": re.compile(r"lm_head"),
}
# Parts that have layers, attention and an MLP of their own.
NO_DECODER = ("projector", "vision", "audio")
_DECODER_WEIGHT = re.compile(r"^(?:.*\.)?layers\.(\d+)\.(.+)\.weight$")


def short_name(linear: str) -> str:
    """What files call a linear of a decoder layer: `q_proj` for `self_attn.q_proj`.

    One that is not among `LINEARS` is called as in the model.
    """
    return _SHORT_NAMES.get(linear, linear)


def full_name(short: str) -> str:
    """The linear of a decoder layer that files call so."""
    return _FULL_NAMES.get(short, short)


def fused_groups(linears: Sequence[str]) -> list[tuple[str, ...]]:
    """Linears by what servers put into one matrix, in order; the others stand alone.

    Args:
        linears: names within one decoder layer.
    """
    groups: dict[tuple[str, int], list[str]] = {}
    for index, name in enumerate(linears):
        parent, _, last = name.rpartition(".")
        kinds = [kind for kind, names in enumerate(FUSED) if last in names]
        # one group for each matrix in a parent; a linear that goes into none is a group of its own
        group = (parent, kinds[0]) if kinds else (name, -1 - index)
        groups.setdefault(group, []).append(name)
    return [tuple(names) for names in groups.values()]


def part_of(name: str) -> str:
    """The ledger class of a tensor that is not a decoder linear's weight."""
    for part, pattern in PARTS.items():
        if pattern.search(name):
            return part
    return "norms"


def decoder_weight(name: str) -> tuple[int, str] | None:
    """Layer and name within it of a weight in a decoder layer; None for other tensors.

    Args:
        name: of a tensor in a checkpoint's files. Which of the weights are linears' is told by
            their rank: a linear's has two dimensions, a norm's has one.
    """
    match = _DECODER_WEIGHT.match(name)
    if match is None or part_of(name) in NO_DECODER:
        return None
    return int(match[1]), match[2]
