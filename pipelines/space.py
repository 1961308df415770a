"""Whether the disk has room for what a run will surely write, asked before any work."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from luq.errors import StoreError
from luq.models.checkpoint import half_linears, least_rest_bytes, linear_shapes
from luq.planning import allocate
from luq.store.store import NotMade, Store
from pipelines.graph import BYTES_16_BIT, Graph, part_bits
from pipelines.units import human


class Needed(NamedTuple):
    """Bytes that a run writes at least: what the store has is not counted."""

    float_layers: int  # what they do not hold by reference
    packed_layers: int
    checkpoint: int  # of an exported folder

    @property
    def total(self) -> int:
        return sum(self)


def needed(graph: Graph, store: Store) -> Needed:
    """What a run writes at least, from the shapes of the linears and the tiers' bits."""
    folder = graph.checkpoint.folder
    weights = _weights(graph)
    copied = _weights(graph, half_linears(graph.checkpoint))
    missing = sum(copied[layer.index] for layer in graph.float_layers if not store.has(layer))
    packed_bytes = _packed_bits(graph, store, weights) / 8
    checkpoint_bytes = 0
    if graph.config.checkpoint and not _is_exported(graph):
        least_bits = min(tier.least_bits for tier in graph.tiers.values())
        linears = sum(weights) * least_bits / 8
        checkpoint_bytes = int(linears + least_rest_bytes(folder, part_bits(graph.config)))
    return Needed(BYTES_16_BIT * missing, int(packed_bytes), checkpoint_bytes)


def _weights(graph: Graph, left_out: Collection[tuple[int, str]] = ()) -> list[int]:
    """Weights of the linears of every decoder layer.

    Args:
        graph: of the run.
        left_out: layer and name of linears that do not count.
    """
    weights = [0] * graph.checkpoint.layers
    for place, (rows, columns) in linear_shapes(graph.checkpoint.folder).items():
        if place not in left_out:
            weights[place[0]] += rows * columns
    return weights


def check_space(graph: Graph, store: Store) -> None:
    """A StoreError if the disk of the outputs has less room than the run surely needs."""
    amounts = needed(graph, store)
    place = store.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if amounts.total > free:
        raise StoreError(
            f"{place} has {human(free)} left, and this run writes {human(amounts.total)} or more: "
            f"{human(amounts.float_layers)} of 16-bit layers, {human(amounts.packed_layers)} of "
            f"packed ones, {human(amounts.checkpoint)} of an exported folder. Free some space "
            "(luq store du), or give another disk: paths.outputs=DIR"
        )


def _packed_bits(graph: Graph, store: Store, weights: list[int]) -> float:
    """Bits of the packed layers that the store lacks.

    Args:
        graph: of the run.
        store: what is there.
        weights: of the linears of every layer.
    """
    try:
        allocation = allocate(graph, store.peek).allocation
    except NotMade:
        # Which layers are packed how is not known: all of them, in the smallest of the tiers.
        least_bits = min(tier.least_bits for tier in graph.tiers.values())
        return sum(weights) * least_bits
    bits = 0.0
    missing = {layer.index for layer in graph.layers(allocation) if not store.has(layer)}
    for (layer, linear), (rows, columns) in linear_shapes(graph.checkpoint.folder).items():
        tier = graph.tiers[allocation.tier_of(layer, linear)]
        if layer in missing and tier.method != "float16":  # counted as such
            bits += tier.least_bits * rows * columns
    return bits


def _is_exported(graph: Graph) -> bool:
    return (Path(graph.config.paths.outputs) / "checkpoints" / graph.key).exists()
