"""The model families: where a model's decoder layers stand, its linears, and its other parts.

Names only, so that importing it costs nothing. A new family is one line in `LAYERS`, and a name in
`PARTS` if its tower or projector has another one.
"""

import re

LLAVA = "llava"
QWEN2_5_VL = "qwen2_5_vl"

# Family, as `model_type` in config.json -> the module that holds the decoder layers.
LAYERS = {
    LLAVA: "model.language_model.layers",
    QWEN2_5_VL: "model.language_model.layers",
}
# Linears of a decoder layer that share an input, in the order of the forward pass.
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
LINEARS = tuple(name for group in GROUPS for name in group)
# Parts of a model beside its decoder linears, by names of tensors. The first that matches counts.
PARTS = {
    "projector": re.compile(r"multi_modal_projector|merger"),
    "vision": re.compile(r"vision_tower|visual"),
    "embeddings": re.compile(r"embed_tokens"),
    "head": re.compile(r"lm_head"),
}


def part_of(name: str) -> str:
    """The ledger class of a tensor that is not a decoder linear's weight."""
    for part, pattern in PARTS.items():
        if pattern.search(name):
            return part
    return "norms"
