"""Tiers for the blocks of a vision tower within a budget of stored bits (`allocation.vision`).

The tower is packed once all in each tier. That gives each block's bytes, and its error with it
alone packed: all budgets share both. The knapsack takes the least sum of errors, and the tower is
packed anew with the tiers that were chosen. `get` is as in `luq.planning`.
"""

from dataclasses import dataclass
from typing import NamedTuple

from luq.allocation import knapsack
from luq.allocation.blocks import BlockError, TowerFile, block_options
from luq.allocation.knapsack import Option, Solution
from luq.allocation.reports import VisionPlan
from luq.config.quantizer import VISION
from luq.errors import ConfigError
from luq.graph import ModelGraph
from luq.quantization.artefacts import BlockErrors, PackedPart, Parts
from luq.store.artefact import Get


@dataclass(frozen=True)
class PlannedParts:
    """What is packed beside the decoder's linears, and the plan of the tower if there is one."""

    parts: Parts
    vision: VisionPlan | None = None

    @property
    def tiers(self) -> dict[str, str]:
        """The tiers of each part, in words."""
        tiers = {part.part: part.name for part in self.parts}
        return tiers if self.vision is None else tiers | {VISION: str(self.vision)}


def planned_parts(graph: ModelGraph, get: Get) -> PlannedParts:
    """What a graph's settings pack beside the decoder's linears.

    Raises:
        NotMade: with the store's `peek`, something has to be made before it can be known.
        ConfigError: no plan of the tower keeps the budget.
    """
    if not graph.config.allocation.vision.is_given:
        return PlannedParts(graph.parts(None))
    tower, plan = _planned_tower(graph, get)
    return PlannedParts(graph.parts(tower), plan)


class _Measured(NamedTuple):
    """What is known of a tower's blocks before any plan."""

    blocks: list[BlockError]  # errors of one of the tiers
    options: list[list[Option]]  # of each block, by tier
    weights: int  # of the tower's linears

    @property
    def least_bytes(self) -> int:
        """Of the file with each block in its smallest tier."""
        return sum(min(option.bytes for option in of_block) for of_block in self.options)


def _measured(graph: ModelGraph, get: Get) -> _Measured:
    """The tower all in each of the tiers: what its blocks take there, and what they cost."""
    calibration = graph.calibration
    errors: dict[str, list[BlockError]] = {}
    files: dict[str, TowerFile] = {}
    for tower in graph.uniform_towers:
        files[tower.name] = _file(tower, get)
        errors[tower.name] = get(BlockErrors(calibration, tower))
    blocks, *_ = errors.values()
    # A tier that needs no data also packs linears that no image reaches.
    weights = min(file.weights for file in files.values())
    return _Measured(blocks, block_options(errors, files), weights)


def _planned_tower(graph: ModelGraph, get: Get) -> tuple[PackedPart, VisionPlan]:
    """The tower of the least sum of errors whose file keeps the budget."""
    measured = _measured(graph, get)
    bits = graph.config.allocation.vision.bits or 0.0
    budget_bytes = int(bits * measured.weights / 8)
    least_bytes = measured.least_bytes
    if least_bytes > budget_bytes:
        raise _too_small(bits, 8 * least_bytes / measured.weights)
    room = budget_bytes
    while True:
        solution = knapsack.solve(measured.options, room)
        tiers = [option.tier for option in solution.options]
        tower = graph.tower(_by_linear(measured.blocks, tiers))
        file = _file(tower, get)
        if file.bytes <= budget_bytes:
            return tower, _plan(measured.blocks, solution, file, budget_bytes)
        if room == least_bytes:
            raise _too_small(bits, 8 * file.bytes / measured.weights)
        # A file with several tiers can be a few bytes longer than its blocks in others.
        room = max(least_bytes, room - (file.bytes - budget_bytes))


def _plan(
    blocks: list[BlockError], solution: Solution, file: TowerFile, budget_bytes: int
) -> VisionPlan:
    """What is said of a solution, and of the file that was made of it."""
    tiers: list[str] = []
    other_tier: str | None = None
    for block, option in zip(blocks, solution.options, strict=True):
        if block.block:
            tiers.append(option.tier)
        else:
            other_tier = option.tier
    gap = solution.gap or None
    return VisionPlan(
        tiers, other_tier, budget_bytes, file.bytes, file.weights, solution.error, gap
    )


def _file(tower: PackedPart, get: Get) -> TowerFile:
    folder = get(tower)
    return TowerFile(folder.bytes, folder.linear_bytes(), folder.size().weights)


def _by_linear(blocks: list[BlockError], tiers: list[str]) -> dict[str, str]:
    """The tier of each linear, of a tier for each block."""
    by_linear: dict[str, str] = {}
    for block, tier in zip(blocks, tiers, strict=True):
        by_linear |= dict.fromkeys(block.linears, tier)
    return by_linear


def _too_small(bits: float, least_bits: float) -> ConfigError:
    return ConfigError(
        f"allocation.vision.bits={bits} is not possible: with the smallest tiers the tower's "
        f"linears take {least_bits:.3f} stored bits per weight"
    )
