"""What 24 plans cost when each distinct piece is made once.

    python benchmarks/sweep_cost.py [SWEEP] [OVERRIDE ...]

For the plans of a named sweep (default: pareto), in one run and each with a new store: (a) profile
and quantization of all plans as `luq sweep` does it, (b) every layer once in every tier that occurs,
(c) one profile and the layers of every plan on their own, as without a database. Model loading and
evaluation are not counted. Prints a / b, which should be near 1, and c / a.
"""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from luq.config import PathsConfig, RunConfig
from luq.models.vlm import loaded
from pipelines.allocate import allocate
from pipelines.execute import Workbench, workbench
from pipelines.grid import read
from pipelines.sweep import Sweep

out = Console(highlight=False, width=120)


class Cost(NamedTuple):
    """Seconds without those of loading, and how many layers were made."""

    seconds: float
    layers: int

    def plus(self, bench: Workbench) -> "Cost":
        """With what a run took and made."""
        spent = bench.clock.seconds
        seconds = sum(seconds for stage, seconds in spent.items() if stage != "load")
        layers = sum(label.startswith("layers/") for label in bench.store.made)
        return Cost(self.seconds + seconds, self.layers + layers)


def begun(config: RunConfig, folder: str) -> Workbench:
    """A run whose model is loaded before its clock counts."""
    bench = workbench(replace(config, paths=PathsConfig(folder)))
    loaded(bench.store.tools, bench.graph.checkpoint)
    return bench


def pack_plan(bench: Workbench) -> None:
    """Up to the packed layers of the plan."""
    with bench.clock.stage("allocate"):
        chosen = allocate(bench.graph, bench.store.get)
    bench.quantize(bench.graph.layers(chosen.allocation), "quantize")


def sweep(configs: list[RunConfig]) -> Cost:
    """All plans with one store."""
    cost = Cost(0.0, 0)
    with tempfile.TemporaryDirectory() as folder:
        for config in configs:
            bench = begun(config, folder)
            pack_plan(bench)
            cost = cost.plus(bench)
    return cost


def once(configs: list[RunConfig]) -> Cost:
    """Every layer once per tier."""
    tiers: dict[str, None] = {}
    for config in configs:
        tiers[config.quantizer.high] = None
        if config.allocation.name != "uniform":
            tiers[config.quantizer.low] = None
    with tempfile.TemporaryDirectory() as folder:
        bench = begun(configs[0], folder)
        bench.store.get(bench.graph.calibration)
        for tier in tiers:
            bench.quantize(bench.graph.uniform(tier, "float"), "quantize")
        return Cost(0.0, 0).plus(bench)


def alone(configs: list[RunConfig]) -> Cost:
    """One profile, and every plan with a store of its own."""
    with tempfile.TemporaryDirectory() as base:
        first = begun(configs[0], base)
        with first.clock.stage("profile"):
            first.store.get(first.graph.profile)
        cost = Cost(0.0, 0).plus(first)
        for config in configs:
            with tempfile.TemporaryDirectory() as folder:
                shutil.copytree(Path(base) / "store", Path(folder) / "store")
                bench = begun(config, folder)
                pack_plan(bench)
                cost = cost.plus(bench)
    return cost


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "pareto"
    configs = [job.config for job in Sweep(read(name), sys.argv[2:]).possible]
    a = sweep(configs)
    b = once(configs)
    c = alone(configs)
    out.print(f"{len(configs)} plans of {name}")
    out.print(f"(a) as a sweep {a.seconds:.1f} s, {a.layers} layers made")
    out.print(f"(b) every layer once per tier {b.seconds:.1f} s, {b.layers} layers")
    out.print(f"(c) every plan on its own {c.seconds:.1f} s, {c.layers} layers made")
    out.print(f"a / b = {a.seconds / b.seconds:.2f}, c / a = {c.seconds / a.seconds:.2f}")


if __name__ == "__main__":
    main()
