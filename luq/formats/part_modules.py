"""The runtime modules of a packed part: embeddings with the head that they share, and linears."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from luq.errors import ModelError
from luq.formats.embedding import PackedEmbedding, TiedLinear
from luq.formats.layer_file import PackedLayer
from luq.formats.linear import PackedLinear
from luq.formats.stored_module import StoredModule
from luq.models.parts import Modules, scale_of
from luq.models.weight_files import plain_name

BiasOf = Callable[[Any], Tensor | None]


def own_bias(linear: Any) -> Tensor | None:
    """A linear's bias itself, which whoever loads the model fills."""
    bias: Tensor | None = linear.bias
    return bias


def part_modules(
    originals: Modules,
    packed: PackedLayer,
    tier: str,
    bias_of: BiasOf = own_bias,
    cache: bool = False,
) -> dict[str, StoredModule]:
    """The modules that compute with a part's packed weights, by path.

    Args:
        originals: the part's 16-bit modules, by path (`luq.models.parts`).
        packed: its packed weights, by plain name; those of some modules may be missing.
        tier: a label that the modules carry.
        bias_of: the bias of a linear.
        cache: keep unpacked weights.

    Raises:
        ModelError: they are not those of the part's modules.
    """
    unknown = set(packed) - {plain_name(path) for path in originals}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ModelError(f"the model has no {names}, which are packed: pack it again")
    modules: dict[str, StoredModule] = {}
    tables: list[PackedEmbedding] = []
    has_tables = any(isinstance(module, nn.Embedding) for module in originals.values())
    for path, original in originals.items():
        weight = packed.get(plain_name(path))
        if isinstance(original, nn.Linear) and has_tables:
            # a head that is tied to the first table, and stored with it
            if tables:
                modules[path] = TiedLinear(tables[0], bias_of(original))
        elif weight is None:
            continue
        elif weight.shape != tuple(original.weight.shape):
            raise ModelError(
                f"{path} is packed with the shape {list(weight.shape)}, but the model's is "
                f"{list(original.weight.shape)}: pack it again"
            )
        elif isinstance(original, nn.Embedding):
            dtype = original.weight.dtype
            tables.append(PackedEmbedding(weight, tier, scale_of(original), cache, dtype))
            modules[path] = tables[-1]
        else:
            dtype = original.weight.dtype
            modules[path] = PackedLinear(weight, tier, bias_of(original), cache, dtype)
    return modules
