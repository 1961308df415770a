"""Packed embeddings, whose rows are decoded as tokens look them up, and a head that shares them."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from luq.formats.base import PackedWeight
from luq.formats.linear import PackedLinear
from luq.formats.stored_module import StoredModule


class PackedEmbedding(StoredModule, nn.Embedding):
    """The rows of the tokens that it is given, as the stored buffers mean them.

    Args:
        packed: The stored table, [tokens of the vocabulary, width].
        tier: Name of the tier that it was packed in.
        scale: By which rows are multiplied in their own type, as Gemma's are; None: they are not.
        cache: Whether the whole table is kept from the first use on. Without it only the rows that
            are looked up are decoded.
        compute_dtype: The type of the rows.
    """

    def __init__(
        self,
        packed: PackedWeight,
        tier: str,
        scale: float | None = None,
        cache: bool = False,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.hold(packed, tier, cache, compute_dtype)
        self.num_embeddings, self.embedding_dim = packed.shape
        self.padding_idx = None
        self.max_norm = None
        self.scale = scale

    def forward(self, input: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        if self.cache:
            rows = F.embedding(input, self.unpacked(self.compute_dtype))
        else:
            # images are many times the same token
            tokens, places = torch.unique(input, return_inverse=True)
            rows = self.packed.rows(tokens.long(), self.compute_dtype)[places]
        if self.scale is None:
            return rows
        return rows * torch.tensor(self.scale).to(rows)

    def dequantized(self, dtype: torch.dtype | None = None) -> nn.Embedding:
        """A plain embedding with the rows that this one gives in a type; without one, its own."""
        weight = self.unpacked(dtype or self.compute_dtype)
        if self.scale is not None:
            return ScaledEmbedding(weight, self.scale).train(self.training)
        embedding = nn.Embedding(self.num_embeddings, self.embedding_dim, device="meta")
        embedding.weight = nn.Parameter(weight, requires_grad=False)
        return embedding.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, tier={self.tier}"


class ScaledEmbedding(nn.Embedding):
    """A plain embedding whose rows are multiplied by a number in their own type."""

    def __init__(self, weight: Float[Tensor, "rows width"], scale: float) -> None:
        super().__init__(weight.shape[0], weight.shape[1], device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = scale

    def forward(self, input: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        rows: Tensor = super().forward(input)
        return rows * torch.tensor(self.scale).to(rows)


class TiedLinear(PackedLinear):
    """The head of a model that has one table for head and embeddings: it is stored once.

    Args:
        embedding: Holds the buffers. It is no submodule of this module.
        bias: Added to the products, [out].
    """

    def __init__(
        self, embedding: PackedEmbedding, bias: Float[Tensor, " out"] | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.__dict__["_embedding"] = embedding  # past nn.Module, which would register it
        self.tier = embedding.tier
        self.cache = embedding.cache
        self.compute_dtype = embedding.compute_dtype
        self.bias: Any = bias
        self.out_features, self.in_features = embedding.packed.shape

    @property
    def packed(self) -> PackedWeight:
        embedding: PackedEmbedding = self.__dict__["_embedding"]
        return embedding.packed

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        embedding: PackedEmbedding = self.__dict__["_embedding"]
        return embedding.unpacked(dtype)
