"""Packed embeddings: the rows of what is stored, and a head that shares them."""

import copy

import pytest
import torch
from torch import nn

from luq.formats.base import PackedWeight
from luq.formats.embedding import PackedEmbedding, TiedLinear
from tests.luq.formats import weights

LOOKED_UP = {
    "float16": weights.floats(11, 12),
    "whole bytes": weights.integers(11, 16, 3, 2, symmetric=False),
    "symmetric": weights.integers(11, 16, 4, 1, symmetric=True),
    "rows share bytes": weights.integers(11, 13, 2, 13, symmetric=False),
    "last group shorter": weights.integers(11, 15, 8, 3, symmetric=False, size=6),
    "ternary": weights.ternaries(11, 12, 3),
    "ternary, last group shorter": weights.ternaries(11, 13, 2, size=7),
    "trellis, decoded whole": weights.coded(32, 16, 2),
}
TOKENS = torch.tensor([[3, 0, 10], [3, 3, 7]])


@pytest.mark.parametrize("packed", LOOKED_UP.values(), ids=LOOKED_UP.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_those_of_the_whole_weight(packed: PackedWeight, dtype: torch.dtype) -> None:
    index = torch.tensor([10, 0, 3, 3])
    assert torch.equal(packed.rows(index, dtype), packed.dequantize(dtype)[index])


@pytest.mark.parametrize("packed", LOOKED_UP.values(), ids=LOOKED_UP.keys())
def test_tokens_get_their_rows_with_and_without_a_cache(packed: PackedWeight) -> None:
    expected = packed.dequantize()[TOKENS]
    for cache in (False, True):
        embedding = PackedEmbedding(packed, "tier", cache=cache)
        assert torch.equal(embedding(TOKENS), expected)
        assert (embedding._weight is not None) == cache
        assert (embedding.num_embeddings, embedding.embedding_dim) == packed.shape
        assert isinstance(embedding, nn.Embedding)
        assert [name for name, _ in embedding.named_parameters()] == []


def test_a_scale_is_rounded_to_the_rows_type_before_it_multiplies() -> None:
    packed = weights.integers(11, 16, 4, 1, symmetric=True)
    scale = 33.3
    embedding = PackedEmbedding(packed, "tier", scale, compute_dtype=torch.bfloat16)
    expected = packed.dequantize(torch.bfloat16)[TOKENS] * torch.tensor(scale).bfloat16()
    assert torch.equal(embedding(TOKENS), expected)
    assert torch.equal(embedding.dequantized()(TOKENS), expected)


def test_a_tied_head_has_the_table_and_holds_none_of_it() -> None:
    packed = weights.integers(11, 16, 4, 2, symmetric=False)
    embedding = PackedEmbedding(packed, "tier")
    model = nn.ModuleDict({"embed": embedding, "head": TiedLinear(embedding)})
    assert all(name.startswith("embed.") for name in model.state_dict())
    inputs = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model["head"](inputs), inputs @ packed.dequantize().T)
    assert torch.equal(model["head"].weight + 0, packed.dequantize())
    assert model["head"].dequantized().weight.shape == (11, 16)


def test_a_copy_of_a_tied_head_goes_with_the_copied_table() -> None:
    embedding = PackedEmbedding(weights.integers(11, 16, 4, 2, symmetric=False), "tier")
    model = nn.ModuleDict({"embed": embedding, "head": TiedLinear(embedding)})
    copied = copy.deepcopy(model)
    copied["embed"].scales.mul_(2)
    inputs = torch.ones(1, 16)
    assert torch.allclose(copied["head"](inputs), 2 * model["head"](inputs))


def test_rows_have_the_type_that_the_module_is_moved_to() -> None:
    embedding = PackedEmbedding(weights.integers(11, 16, 4, 2, symmetric=False), "tier")
    moved = embedding.to(torch.float16)
    assert moved(TOKENS).dtype == moved.weight.dtype == torch.float16
    assert moved.codes.dtype == torch.uint8
