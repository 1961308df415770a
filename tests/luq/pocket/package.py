"""A tiny random stand-in for SmolLM2's package: the same kind of file, two layers of width 32."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN = 32
HEADS = 4
KEY_HEADS = 2
INTERMEDIATE = 64
LAYERS = 2
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# A token for every byte, and a piece of two.
PIECES = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "th"]
TOKENS = [*CONTROLS, *PIECES]
NORMAL = 1


def weights(seed: int = 0) -> dict[str, Any]:
    """Tensors by llama.cpp's names."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (len(TOKENS), HIDDEN), "output_norm": (HIDDEN,)}
    key_rows = HIDDEN // HEADS * KEY_HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {
            f"{block}attn_norm": (HIDDEN,),
            f"{block}ffn_norm": (HIDDEN,),
            f"{block}attn_q": (HIDDEN, HIDDEN),
            f"{block}attn_k": (key_rows, HIDDEN),
            f"{block}attn_v": (key_rows, HIDDEN),
            f"{block}attn_output": (HIDDEN, HIDDEN),
            f"{block}ffn_gate": (INTERMEDIATE, HIDDEN),
            f"{block}ffn_up": (INTERMEDIATE, HIDDEN),
            f"{block}ffn_down": (HIDDEN, INTERMEDIATE),
        }
    tensors = {}
    for name, shape in shapes.items():
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        tensors[f"{name}.weight"] = 1 + values if len(shape) == 1 else values
    return tensors


def write(file: Path, tensors: dict[str, Any], **changes: Any) -> Path:
    """Write the file, with linears in Q4_1 and embeddings in Q8_0 as the package has them.

    Args:
        file: What is written.
        tensors: As `weights` gives them.
        changes: Other values for what the header says: `heads`, `layers`, `tokens`, `merges`.
    """
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(changes.get("layers", LAYERS))
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(changes.get("heads", HEADS))
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    tokens = changes.get("tokens", TOKENS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    control = gguf.TokenType.CONTROL
    writer.add_token_types([control if token in CONTROLS else NORMAL for token in tokens])
    writer.add_token_merges(changes.get("merges", ["t h"]))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, values in tensors.items():
        kind = gguf.GGMLQuantizationType.Q4_1
        if name.startswith("token_embd"):
            kind = gguf.GGMLQuantizationType.Q8_0
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
