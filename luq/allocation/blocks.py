"""The blocks of a vision tower: what they take in a tier, and what they cost.

Blocks are the elements of the tower's lists of blocks. Its linears that are in none of them count
as one block more, which has no name.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from luq.allocation.knapsack import Option


class BlockError(NamedTuple):
    """The linears of a block, and the error that it makes when it alone is packed in a tier."""

    block: str  # its path in the model; empty for linears that are in no block
    linears: tuple[str, ...]
    error: float


class TowerFile(NamedTuple):
    """What the file of a tower that is all in one tier says."""

    bytes: int
    linear_bytes: Mapping[str, int]  # without the file's header
    weights: int  # of its linears


def block_options(
    errors: Mapping[str, Sequence[BlockError]], files: Mapping[str, TowerFile]
) -> list[list[Option]]:
    """Bytes and error of each block in each tier.

    The header of a file is shared out among its blocks by their linears, so that the blocks of a
    tower in one tier sum to its file.

    Args:
        errors: By tier, block by block.
        files: By tier.
    """
    options: list[list[Option]] = []
    for tier, of_tier in errors.items():
        for index, size in enumerate(_block_bytes(of_tier, files[tier])):
            if index == len(options):
                options.append([])
            options[index].append(Option(tier, size, of_tier[index].error))
    return options


def _block_bytes(blocks: Sequence[BlockError], file: TowerFile) -> list[int]:
    """Bytes of each block in a file, its share of the header among them."""
    header = file.bytes - sum(file.linear_bytes.values())
    linears = sum(len(block.linears) for block in blocks)
    sizes: list[int] = []
    linears_before = 0
    for block in blocks:
        linears_after = linears_before + len(block.linears)
        share = header * linears_after // linears - header * linears_before // linears
        codes = sum(file.linear_bytes.get(name, 0) for name in block.linears)
        sizes.append(codes + share)
        linears_before = linears_after
    return sizes
