"""Integer tiers in the `pack-quantized` layout of compressed-tensors, which transformers and vLLM
read without LUQ.

A linear becomes weight_packed (int32, codes in a row one after the other, lowest bit first),
weight_scale [out, groups], weight_zero_point (packed down the columns) and weight_shape. The
numbers are those of the packed weight; the bytes are not quite, so the folder has a ledger of its
own. Tiers of other formats have no such layout, and neither have groups of which the last one is
shorter.
"""

import math
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luq.allocation.allocations import Allocation
from luq.errors import ModelError
from luq.export.folder import Layout, PackedModel, Tensors
from luq.formats.base import IntegerGrid, PackedWeight
from luq.formats.layer_file import PackedLayer, read_layer
from luq.models.families import NO_DECODER, PARTS, fused_groups

# Of a model's modules: never packed.
OTHERS = "|".join(PARTS[part].pattern for part in NO_DECODER)
SMALLEST_GROUP = 32  # columns; vLLM's kernels have no smaller groups


def _pack(codes: Tensor, bits: int, dimension: int) -> Tensor:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    signed = (codes.short() - 2 ** (bits - 1)).to(torch.int8)
    packed: Tensor = pack_to_int32(signed, bits, packed_dim=dimension)
    return packed


def tensors(weight: PackedWeight) -> Tensors:
    """What stands in the file in place of `weight`: suffix -> tensor and ledger class."""
    floats = weight.stored_floats()
    if floats is not None:
        return {"weight": (floats, "weights")}
    grid = weight.integer_grid()
    if grid is None:
        raise ModelError(f"compressed-tensors has no layout for the format {weight.format}")
    stored: Tensors = {
        "weight_packed": (_pack(grid.codes(), grid.bits, 1), "codes"),
        "weight_scale": (grid.scales, "scales"),
        "weight_shape": (torch.tensor(weight.shape), "shapes"),
    }
    zeros = grid.zeros()
    if zeros is not None:
        stored["weight_zero_point"] = (_pack(zeros, grid.bits, 0), "zeros")
    return stored


class Grid(NamedTuple):
    """What compressed-tensors must be told of a linear; `size` is columns per group, 0 for a whole
    row whatever its length.
    """

    bits: int
    size: int
    symmetric: bool

    def arguments(self) -> dict[str, Any]:
        strategy = (
            {"strategy": "group", "group_size": self.size} if self.size else {"strategy": "channel"}
        )
        return {"num_bits": self.bits, "type": "int", "symmetric": self.symmetric, **strategy}

    def __str__(self) -> str:
        groups = f"in groups of {self.size}" if self.size else "by row"
        return f"{self.bits} bit {groups}" + ("" if self.symmetric else " with zero points")


def _grids(packed: PackedLayer, index: int, allocation: Allocation) -> dict[str, Grid | None]:
    """The grid of each linear of a layer; None: it stays in 16 bit.

    Args:
        packed: The layer's linears.
        index: Of the layer.
        allocation: Has the tiers' names.

    Raises:
        ModelError: A linear has no grid, or one that compressed-tensors does not know.
    """
    integers: dict[str, IntegerGrid] = {}
    for name, weight in packed.items():
        grid = weight.integer_grid()
        if grid is not None:
            integers[name] = grid
        elif weight.stored_floats() is None:
            tier = allocation.tier_of(index, name)
            raise ModelError(
                f"layer {index} is stored in {tier}, a {weight.format} format, for which "
                "compressed-tensors has none: only integer tiers can be exported so, leave --format"
                " out"
            )
    _check_groups(integers, index, allocation)
    sizes = {grid.group_size for grid in integers.values()}
    sizes_of_many = {grid.group_size for grid in integers.values() if grid.groups > 1}
    grids: dict[str, Grid | None] = {}
    for name in packed:
        if name not in integers:
            grids[name] = None
            continue
        grid = integers[name]
        # One group per row is as wide as its row. Where rows differ, no one size names them all.
        is_whole_row = grid.groups == 1 and len(sizes) > 1 and grid.group_size not in sizes_of_many
        size = 0 if is_whole_row else grid.group_size
        grids[name] = Grid(grid.bits, size, grid.symmetric)
    _check_fused(grids, index, allocation)
    return grids


def _check_fused(grids: dict[str, Grid | None], index: int, allocation: Allocation) -> None:
    """A ModelError where linears differ that servers compute with as one."""
    for group in fused_groups(list(grids)):
        first = group[0]
        for name in group:
            if grids[name] != grids[first]:
                raise ModelError(
                    f"layer {index} has {first} in {allocation.tier_of(index, first)} and {name} "
                    f"in {allocation.tier_of(index, name)}: vLLM and others make one matrix of "
                    "both, which has one tier. Run with allocation.tie=true, or leave --format out"
                )


def _check_groups(integers: dict[str, IntegerGrid], index: int, allocation: Allocation) -> None:
    """A ModelError, with a group size that works, where a last group is shorter."""
    common_divisor = math.gcd(*(grid.shape[1] for grid in integers.values()))
    for name, grid in integers.items():
        if grid.shape[1] % grid.group_size == 0:
            continue
        size = common_divisor & -common_divisor  # the largest power of two that divides all
        while size > grid.group_size:
            size //= 2
        if size < SMALLEST_GROUP:
            size = 0  # one group per row
        tier = allocation.tier_of(index, name)
        raise ModelError(
            f"layer {index} is stored in {tier}, whose groups of {grid.group_size} do not divide "
            f"the {grid.shape[1]} columns of {name}: compressed-tensors has no shorter last group. "
            f"Run with quantizer.tiers.{tier}.group_size={size}, or leave --format out"
        )


def config(model: PackedModel) -> dict[str, Any]:
    """The `quantization_config`: one group of linears per grid; a ModelError for what transformers
    could not load.

    Zero points are loaded only by way of `dequantize`, which knows one grid and multiplies in the
    scales' fp16 (transformers 5.23, compressed-tensors 0.20).
    """
    if model.parts:
        raise ModelError(
            f"the run packs {', '.join(model.parts)}, for which --format compressed-tensors has no "
            "place: leave --format out, or run without quantizer."
            f"{', quantizer.'.join(model.parts)}"
        )
    linears_by_grid: dict[Grid | None, dict[str, list[int]]] = {}  # linear -> its layers
    for index, folder in enumerate(model.folders):
        packed = read_layer(folder, model.source)
        for name, grid in _grids(packed, index, model.allocation).items():
            linears_by_grid.setdefault(grid, {}).setdefault(name, []).append(index)
    unpacked = _patterns(linears_by_grid.pop(None, {}))
    grids = {grid: linears for grid, linears in linears_by_grid.items() if grid}
    zeros = any(not grid.symmetric for grid in grids)
    if zeros and len(grids) > 1:
        widths = ", ".join(map(str, grids))
        raise ModelError(
            f"the run mixes {widths}: transformers loads mixed widths of this format only without "
            "zero points. Run with quantizer.tiers.<tier>.symmetric=true, or leave --format out"
        )
    groups = {
        f"group_{n}": {"targets": _patterns(linears), "weights": grid.arguments()}
        for n, (grid, linears) in enumerate(grids.items())
    }
    head = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
    }
    ignored = ["lm_head", f"re:.*({OTHERS}).*", *unpacked]
    return (
        head
        | {"config_groups": groups, "ignore": ignored}
        | ({"dequantize": True} if zeros else {})
    )


def _patterns(linears: dict[str, list[int]]) -> list[str]:
    """Patterns for linears of some decoder layers, whatever the prefix; those of a vision tower's
    layers do not match.
    """
    by_layers: dict[str, list[str]] = {}
    for name, indices in linears.items():
        by_layers.setdefault("|".join(map(str, indices)), []).append(re.escape(name))
    return [
        rf"re:^(?!.*({OTHERS})).*layers\.({layers})\.({'|'.join(names)})$"
        for layers, names in by_layers.items()
    ]


COMPRESSED_TENSORS = Layout("compressed-tensors", config, tensors)
