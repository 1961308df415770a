"""The language model in llama.cpp's words: its architecture, keys, and names of tensors."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from luq.errors import ConfigError, ModelError
from luq.export.gguf.package import gguf_package
from luq.models.families import LLAVA, QWEN2_5_VL
from luq.models.weight_files import plain_name

LLAMA = "llama"
# `model_type` of config.json -> llama.cpp's architecture of the language model.
ARCHITECTURES = {LLAMA: "LLAMA", LLAVA: "LLAMA", QWEN2_5_VL: "QWEN2VL"}
SUFFIXES = (".weight", ".bias")
MROPE_SECTIONS = 4  # llama.cpp has a fourth kind of position beside time, height and width


@dataclass(frozen=True)
class Language:
    """A language model as llama.cpp knows it.

    Args:
        architecture: name in `gguf.MODEL_ARCH`.
        text: the language backbone's config of transformers, with its defaults.
    """

    architecture: str
    text: Any

    @property
    def name(self) -> str:
        """What llama.cpp calls the architecture."""
        gguf = gguf_package()
        name: str = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[self.architecture]]
        return name

    def name_of(self, tensor: str) -> str | None:
        """What llama.cpp calls a tensor of a checkpoint; None if it has no place for it."""
        plain = plain_name(tensor)
        if not plain.startswith("lm_head."):
            plain = f"model.{plain}"
        name: str | None = self._names.get_name(plain, try_suffixes=SUFFIXES)
        return name

    @cached_property
    def _names(self) -> Any:
        gguf = gguf_package()
        architecture = gguf.MODEL_ARCH[self.architecture]
        return gguf.get_tensor_name_map(architecture, self.text.num_hidden_layers)

    def row_order(self, tensor: str) -> Int64[Tensor, " rows"] | None:
        """The rows of a tensor in the order in which llama.cpp wants them; None: as they are.

        Its Llama rotates pairs of neighbours, transformers a number of a head's first half with the
        one at the same place in the second: rows of q and k, and their biases, change places.
        """
        if self.architecture != "LLAMA":
            return None
        module = tensor.rpartition(".")[0].rpartition(".")[2]
        heads = {
            "q_proj": self.text.num_attention_heads,
            "k_proj": self.text.num_key_value_heads,
        }.get(module)
        if heads is None:
            return None
        rows = torch.arange(heads * self.head_size)
        return rows.view(heads, 2, -1).transpose(1, 2).reshape(-1)

    @property
    def head_size(self) -> int:
        """Numbers of an attention head."""
        size: int = getattr(self.text, "head_dim", None) or (
            self.text.hidden_size // self.text.num_attention_heads
        )
        return size

    @property
    def rope(self) -> dict[str, Any]:
        """How positions are rotated."""
        return dict(self.text.rope_parameters)

    def add_keys(self, writer: Any) -> None:
        """Give a `gguf.GGUFWriter` the numbers of the architecture."""
        text = self.text
        writer.add_vocab_size(text.vocab_size)
        writer.add_context_length(text.max_position_embeddings)
        writer.add_embedding_length(text.hidden_size)
        writer.add_block_count(text.num_hidden_layers)
        writer.add_feed_forward_length(text.intermediate_size)
        writer.add_head_count(text.num_attention_heads)
        writer.add_head_count_kv(text.num_key_value_heads)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_layer_norm_rms_eps(text.rms_norm_eps)
        writer.add_rope_dimension_count(self.head_size)
        writer.add_rope_freq_base(self.rope["rope_theta"])
        if self.rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf_package().RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.rope["factor"])
        sections = self.rope.get("mrope_section")
        if sections is not None:
            padding = [0] * (MROPE_SECTIONS - len(sections))
            writer.add_rope_dimension_sections([*sections, *padding])

    def frequency_factors(self) -> Float32[Tensor, " pairs"] | None:
        """By what each rotation's frequency is divided (Llama 3.1's long contexts); None: nothing.

        Wavelengths above `longest` are stretched by the factor, those below `shortest` stay, and
        between the two 1 / factor goes over into 1 linearly in the number of turns.
        """
        rope = self.rope
        if rope["rope_type"] != "llama3":
            return None
        exponents = torch.arange(0, self.head_size, 2, dtype=torch.float32) / self.head_size
        wavelength = 2 * math.pi * rope["rope_theta"] ** exponents
        context = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = (context / wavelength - low) / (high - low)
        blended = (1 - smooth) / rope["factor"] + smooth
        factors = 1 / blended
        factors = torch.where(wavelength > context / low, rope["factor"], factors)
        return torch.where(wavelength < context / high, 1.0, factors)


def language_of(family: str, config: Any) -> Language:
    """The language model of a checkpoint.

    Args:
        family: its `model_type`.
        config: of transformers.

    Raises:
        ConfigError: this version knows no llama.cpp architecture that computes the same.
    """
    text = config.get_text_config()
    if family not in ARCHITECTURES:
        families = ", ".join(ARCHITECTURES)
        raise ConfigError(
            f"--format gguf knows models of the families {families}, and this is {family}: leave "
            "--format out, or take dequantized and convert it with llama.cpp's own program"
        )
    if family == LLAVA and text.model_type != LLAMA:
        raise ConfigError(
            f"--format gguf knows LLaVA with a Llama for its language model, and this has "
            f"{text.model_type}: leave --format out"
        )
    rope = dict(text.rope_parameters)
    differences = {
        f"hidden_act={text.hidden_act}": text.hidden_act != "silu",
        "mlp_bias": getattr(text, "mlp_bias", False),
        "use_sliding_window": getattr(text, "use_sliding_window", False),
        f"rope_type={rope['rope_type']}": rope["rope_type"] not in ("default", "linear", "llama3"),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for setting, differs in differences.items():
        if differs:
            raise ConfigError(
                f"config.json has {setting}, for which --format gguf has no place: leave --format "
                "out"
            )
    return Language(ARCHITECTURES[family], text)


def unplaced(tensor: str, architecture: str) -> ModelError:
    """The error for a tensor that llama.cpp has no name for."""
    return ModelError(
        f"the checkpoint holds {tensor}, for which llama.cpp's {architecture} has no place: leave "
        "--format gguf out"
    )
