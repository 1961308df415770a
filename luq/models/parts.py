"""Where the parts beside the decoder's linears stand in a model: what a tier can be given to.

Embeddings are the tables that tokens look up, the head is the linear before the probabilities;
vision tower and projector are all linears that stand there. Convolutions, position embeddings,
norms and biases are in no part: they stay in 16 bit.
"""

from typing import Any

from torch import nn

from luq.config.quantizer import EMBEDDINGS, PARTS
from luq.models.decoder import layers_path
from luq.models.families import part_of

Modules = dict[str, Any]  # a module's path in the model -> the module
OUTSIDE = ""  # stands for the block of what is in none


def parts_of(model: Any) -> dict[str, Modules]:
    """The modules that parts' tiers can pack.

    Args:
        model: of transformers, with its 16-bit modules.

    Returns:
        Part -> path -> module, in the order of the model's modules. A head that is tied to the
        embeddings stands among those.
    """
    parts: dict[str, Modules] = {part: {} for part in PARTS}
    decoder = f"{layers_path(model)}."
    tied = tied_head(model)
    for path, module in model.named_modules():
        part = part_of(f"{path}.weight")
        if module is tied:
            parts[EMBEDDINGS][path] = module
            continue
        if part not in parts or path.startswith(decoder):
            continue
        is_table = part == EMBEDDINGS and isinstance(module, nn.Embedding)
        is_linear = part != EMBEDDINGS and type(module) is nn.Linear
        if is_table or is_linear:
            parts[part][path] = module
    return parts


def tied_head(model: Any) -> Any | None:
    """The head of a model whose embeddings are its weight; None where it has its own."""
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    if type(head) is not nn.Linear:
        return None
    # In a streamed model tied weights are parameters of their own.
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    names = {path for path, module in model.named_modules() if module is head}
    is_named = any(f"{path}.weight" in tied for path in names)
    return head if is_named or head.weight is embeddings.weight else None


def scale_of(embedding: nn.Embedding) -> float | None:
    """The number by which a table's rows are multiplied; None: they are given as they are."""
    scale = getattr(embedding, "scalar_embed_scale", None)
    return None if scale is None else float(scale)


def blocks_of(model: Any, modules: Modules) -> dict[str, list[str]]:
    """The blocks of a part: elements of its lists of blocks, in order.

    Args:
        model: of transformers.
        modules: of the part.

    Returns:
        A block's path -> the paths of its modules. Under `OUTSIDE` those that are in no block, if
        there are any.
    """
    blocks: dict[str, list[str]] = {}
    for path, stack in stacks_of(model, modules).items():
        for index in range(len(stack)):
            prefix = f"{path}.{index}."
            blocks[f"{path}.{index}"] = [name for name in modules if name.startswith(prefix)]
    inside = {name for names in blocks.values() for name in names}
    outside = [name for name in modules if name not in inside]
    blocks = {path: names for path, names in blocks.items() if names}
    return blocks | {OUTSIDE: outside} if outside else blocks


def stacks_of(model: Any, modules: Modules) -> dict[str, nn.ModuleList]:
    """The outermost lists of blocks that hold some of a part's modules, by their paths.

    Args:
        model: of transformers.
        modules: of the part.
    """
    stacks: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        is_within = any(path.startswith(f"{outer}.") for outer in stacks)
        if not isinstance(module, nn.ModuleList) or is_within:
            continue
        if any(inner.startswith(f"{path}.") for inner in modules):
            stacks[path] = module
    return stacks
