"""What 24 plans cost when each distinct piece is made once.

`python benchmarks/sweep_cost.py [sweep] [override ...]`

For the plans of a named sweep (default: pareto), in one run and each with a new store:
(a) profile and quantization of all plans as `luq sweep` does it,
(b) every layer once in every tier that occurs,
(c) one profile and the layers of every plan on their own, as without a database.
Model loading and evaluation are not counted. Prints a / b, which should be near 1, and c / a.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from luq.config import RunConfig
from luq.models.vlm import VLM, loaded
from luq.planning import allocate
from luq.quantization.artefacts import PackedLayer, end_walk
from luq.store.artefact import Holdings, Silent
from luq.store.store import Store
from pipelines.graph import Graph
from pipelines.grid import read
from pipelines.sweep import Sweep

out = Console(highlight=False, width=120)
REPEATS = 1


class Cost(NamedTuple):
    """Seconds, and how many layers were made in them."""

    seconds: float
    layers: int


class TimedPlan:
    """One plan with its store; its model is loaded before any clock starts."""

    def __init__(self, config: RunConfig, outputs: Path, holdings: Holdings):
        self.store = Store(outputs / "store", Silent(), holdings)
        self.graph = Graph(config, self.store.root)
        loaded(self.store.tools, self.graph.checkpoint)

    def profile(self) -> float:
        """Seconds to calibrate and to profile."""
        begin = time.perf_counter()
        self.store.get(self.graph.calibration)
        self.store.get(self.graph.profile)
        return time.perf_counter() - begin

    def quantize(self) -> float:
        """Seconds to allocate and to make the plan's layers."""
        begin = time.perf_counter()
        chosen = allocate(self.graph, self.store.get)
        for layer in self.graph.layers(chosen.allocation):
            self.store.get(layer)
        end_walk(self.store.tools)
        return time.perf_counter() - begin

    @property
    def layers_made(self) -> int:
        """How many layers its store made."""
        return sum(label.startswith(f"{PackedLayer.stage}/") for label in self.store.made)


def sweep(configs: list[RunConfig]) -> Cost:
    """All plans with one store."""
    seconds = 0.0
    layers = 0
    holdings = Holdings()
    with tempfile.TemporaryDirectory() as folder:
        for config in configs:
            plan = TimedPlan(config, Path(folder), holdings)
            seconds += plan.profile()
            seconds += plan.quantize()
            layers += plan.layers_made
    return Cost(seconds, layers)


def once(configs: list[RunConfig]) -> Cost:
    """Every layer once per tier; calibration is not counted."""
    tiers: dict[str, None] = {}
    for config in configs:
        tiers |= dict.fromkeys(_tiers(config))
    with tempfile.TemporaryDirectory() as folder:
        plan = TimedPlan(configs[0], Path(folder), Holdings())
        plan.store.get(plan.graph.calibration)
        begin = time.perf_counter()
        for tier in tiers:
            for layer in plan.graph.uniform(tier, "float"):
                plan.store.get(layer)
        return Cost(time.perf_counter() - begin, plan.layers_made)


def _tiers(config: RunConfig) -> list[str]:
    high = config.quantizer.high
    return [high] if config.allocation.name == "uniform" else [config.quantizer.low, high]


def alone(configs: list[RunConfig]) -> Cost:
    """One profile, and every plan quantized with a store of its own."""
    seconds = 0.0
    layers = 0
    with tempfile.TemporaryDirectory() as base:
        first = TimedPlan(configs[0], Path(base), Holdings())
        seconds += first.profile()
        for config in configs:
            with tempfile.TemporaryDirectory() as folder:
                shutil.copytree(Path(base) / "store", Path(folder) / "store")
                plan = TimedPlan(config, Path(folder), _only_model(first))
                seconds += plan.quantize()
                layers += plan.layers_made
    return Cost(seconds, layers)


def _only_model(plan: TimedPlan) -> Holdings:
    """Holdings with a plan's loaded model and nothing that was made with it."""
    holdings = Holdings()
    checkpoint = plan.graph.checkpoint
    vlm = loaded(plan.store.tools, checkpoint)
    holdings.hold(VLM, (checkpoint.digest, checkpoint.config), lambda: vlm)
    return holdings


def main() -> None:
    name = (sys.argv[1:] or ["pareto"])[0]
    configs = [job.config for job in Sweep(read(name), sys.argv[2:]).possible]
    script = str(Path(__file__).name)
    for repeat in range(REPEATS):
        a = sweep(configs)
        b = once(configs)
        out.print(
            f"{script} {repeat + 1}: {len(configs)} plans of {name}: "
            f"(a) sweep {a.seconds:.1f} s, {a.layers} layers made; "
            f"(b) every layer once per tier {b.seconds:.1f} s, {b.layers} layers; "
            f"a / b = {a.seconds / b.seconds:.2f}"
        )
    c = alone(configs)
    out.print(
        f"(c) every plan on its own {c.seconds:.1f} s, {c.layers} layers made; "
        f"c / a = {c.seconds / a.seconds:.2f}"
    )


if __name__ == "__main__":
    main()
