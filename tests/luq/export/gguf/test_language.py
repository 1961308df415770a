"""The language model in llama.cpp's words."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlavaConfig, Qwen2_5_VLConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from luq.errors import ConfigError
from luq.export.gguf.language import Language, language_of

HEADS, KEY_HEADS, SIZE = 4, 2, 8
LLAMA = LlamaConfig(
    hidden_size=32, num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, head_dim=SIZE, num_hidden_layers=2
)  # fmt: skip


def turned(vector: torch.Tensor, pairs: list[tuple[int, int]], position: int) -> torch.Tensor:
    """A head's numbers with each pair rotated, the first ones fastest."""
    rotated = vector.clone()
    for place, (one, other) in enumerate(pairs):
        angle = torch.tensor(position * 10000.0 ** (-2 * place / SIZE))
        rotated[one] = vector[one] * angle.cos() - vector[other] * angle.sin()
        rotated[other] = vector[one] * angle.sin() + vector[other] * angle.cos()
    return rotated


@pytest.mark.parametrize(("linear", "heads"), [("q_proj", HEADS), ("k_proj", KEY_HEADS)])
def test_neighbours_rotate_in_llama_cpp_as_halves_do_in_transformers(
    linear: str, heads: int
) -> None:
    order = Language("LLAMA", LLAMA).row_order(f"model.layers.0.self_attn.{linear}.weight")
    assert order is not None
    rows = torch.randn(heads * SIZE, generator=torch.Generator().manual_seed(0))
    halves = [(place, place + SIZE // 2) for place in range(SIZE // 2)]
    neighbours = [(2 * place, 2 * place + 1) for place in range(SIZE // 2)]
    there = rows[order]
    for head in range(heads):
        part = slice(head * SIZE, (head + 1) * SIZE)
        rotated = turned(rows[part], halves, 5)
        rotated_there = turned(there[part], neighbours, 5)
        assert torch.allclose(rotated_there, rotated[order[:SIZE]])


def test_only_llamas_q_and_k_change_places() -> None:
    llama = Language("LLAMA", LLAMA)
    for tensor in ("self_attn.v_proj.weight", "self_attn.o_proj.weight", "mlp.up_proj.weight"):
        assert llama.row_order(f"model.layers.0.{tensor}") is None
    assert llama.row_order("model.layers.0.self_attn.k_proj.bias") is not None
    qwen = Language("QWEN2VL", LLAMA)
    assert qwen.row_order("model.layers.0.self_attn.q_proj.weight") is None


@pytest.mark.parametrize("prefix", ["", "model.", "language_model.model.", "model.language_model."])
def test_names_do_not_depend_on_the_version_of_transformers(prefix: str) -> None:
    llama = Language("LLAMA", LLAMA)
    named = {
        "layers.1.self_attn.q_proj.weight": "blk.1.attn_q.weight",
        "layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
        "embed_tokens.weight": "token_embd.weight",
        "norm.weight": "output_norm.weight",
        "layers.0.self_attn.o_proj.bias": "blk.0.attn_output.bias",
        "layers.2.mlp.up_proj.weight": None,  # there are two layers
        "layers.0.unknown.weight": None,
    }
    for name, expected in named.items():
        assert llama.name_of(f"{prefix}{name}") == expected
    assert llama.name_of("lm_head.weight") == "output.weight"
    assert llama.name_of("language_model.lm_head.weight") == "output.weight"


def test_long_contexts_slow_rotations_down_as_transformers_does() -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, head_dim=128, rope_parameters=rope)
    factors = Language("LLAMA", config).frequency_factors()
    assert factors is not None
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 500000.0 ** (torch.arange(0, 128, 2).float() / 128)
    assert torch.allclose(plain / factors, expected, rtol=1e-5)
    assert Language("LLAMA", LLAMA).frequency_factors() is None


def changed(config: Any, **settings: Any) -> Any:
    for name, value in settings.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("gemma2", AutoConfig.for_model("gemma2"), "this is gemma2"),
        ("llama", LlamaConfig(hidden_act="gelu"), "hidden_act=gelu"),
        ("llama", LlamaConfig(mlp_bias=True), "mlp_bias"),
        ("llama", LlamaConfig(rope_parameters={
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64,
        }), "rope_type=yarn"),
        ("llava", LlavaConfig(text_config={"model_type": "mistral"}), "this has mistral"),
        ("qwen2_5_vl", Qwen2_5_VLConfig(text_config={"use_sliding_window": True}), "sliding"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, config: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        language_of(family, config)


QWEN_7B = {
    "model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rope_theta": 1e6, "use_sliding_window": False, "vocab_size": 152064,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}  # fmt: skip
LLAVA_7B = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
}


@pytest.mark.parametrize(("content", "sections"), [(QWEN_7B, [16, 24, 24, 0]), (LLAVA_7B, None)])
def test_configs_of_the_papers_models(
    content: dict[str, Any], sections: list[int] | None, tmp_path: Path
) -> None:
    """As they are on the hub: of earlier versions of transformers, with defaults left out."""
    (tmp_path / "config.json").write_text(json.dumps(content))
    told: dict[str, Any] = {}
    config = AutoConfig.from_pretrained(tmp_path)
    language_of(content["model_type"], config).add_keys(writer_of(told))
    assert told["add_key_length"] == 128
    assert told.get("add_rope_dimension_sections") == sections
    assert told["add_embedding_length"] == (4096 if sections is None else 3584)
    assert told["add_rope_freq_base"] == (1e4 if sections is None else 1e6)


def writer_of(told: dict[str, Any]) -> Any:
    """Keeps what it is told."""

    class Writer(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            return lambda value: told.__setitem__(name, value)

    return Writer()


def test_linear_scaling_is_said() -> None:
    config = LlamaConfig(
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        head_dim=None, hidden_size=64, num_attention_heads=4,
    )  # fmt: skip
    told: dict[str, Any] = {}
    language_of("llama", config).add_keys(writer_of(told))
    assert told["add_rope_scaling_factor"] == 4.0
    assert told["add_key_length"] == 16
    assert "add_rope_dimension_sections" not in told
