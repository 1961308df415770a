"""What 24 plans cost when each distinct piece is made once: `python benchmarks/sweep_cost.py [sweep] [override ...]`

For the plans of a named sweep (default: pareto), in one run and each with a new store: (a) profile and quantization of all
plans as `luq sweep` does it, (b) every layer once in every tier that occurs, (c) one profile and the layers of every plan on
their own, as without a database. Model loading and evaluation are not counted. Prints a / b, which should be near 1, and c / a.
"""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pipelines.stages import Stages
from rich.console import Console

from luq.allocation.plans import Allocation
from luq.config import AllocationConfig, PathsConfig, RunConfig
from pipelines.console import Silent
from pipelines.grid import read
from pipelines.sweep import Sweep

out = Console(highlight=False, width=120)
REPEATS = 1


def stages_of(config: RunConfig, folder: str) -> Stages:
    stages = Stages(replace(config, paths=PathsConfig(folder)), Silent())
    stages.vlm  # noqa: B018 (loaded before the clock starts)
    return stages


def spent(stages: Stages) -> float:
    return sum(seconds for name, seconds in stages.seconds.items() if name != "load")


def sweep(configs: list[RunConfig]) -> tuple[float, int]:
    """Seconds of all plans with one store, and how many layers were made."""
    seconds, made = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for config in configs:
            stages = stages_of(config, folder)
            stages.layers  # noqa: B018
            seconds += spent(stages)
            made += sum(label.startswith("layers/") for label in stages.store.made)
    return seconds, made


def once(configs: list[RunConfig]) -> tuple[float, int]:
    """Seconds of quantizing every layer once per tier, and how many layers that are."""
    tiers = list(dict.fromkeys(t for c in configs for t in _tiers(c)))
    with tempfile.TemporaryDirectory() as folder:
        stages = stages_of(replace(configs[0], allocation=AllocationConfig("uniform")), folder)
        stages.calibration_info  # noqa: B018
        before = spent(stages)
        for tier in tiers:
            stages.packed(Allocation((tier,) * stages.outline.layers), "float")
        return spent(stages) - before, sum(
            label.startswith("layers/") for label in stages.store.made
        )


def _tiers(config: RunConfig) -> list[str]:
    high = config.quantizer.high
    return [high] if config.allocation.name == "uniform" else [config.quantizer.low, high]


def alone(configs: list[RunConfig]) -> tuple[float, int]:
    """Seconds of one profile and of quantizing every plan with a store of its own, and how many layers were made."""
    seconds, made = 0.0, 0
    with tempfile.TemporaryDirectory() as base:
        first = stages_of(configs[0], base)
        first.profile  # noqa: B018
        seconds += spent(first)
        for config in configs:
            with tempfile.TemporaryDirectory() as folder:
                shutil.copytree(Path(base) / "store", Path(folder) / "store")
                stages = stages_of(config, folder)
                stages.layers  # noqa: B018
                seconds += spent(stages)
                made += sum(label.startswith("layers/") for label in stages.store.made)
    return seconds, made


def main() -> None:
    name, overrides = (sys.argv[1:] or ["pareto"])[0], sys.argv[2:]
    configs = [job.config for job in Sweep(read(name), overrides).jobs if job.config]
    where = str(Path(__file__).name)
    for repeat in range(REPEATS):
        (a, made_a), (b, made_b) = sweep(configs), once(configs)
        out.print(
            f"{where} {repeat + 1}: {len(configs)} plans of {name}: (a) sweep {a:.1f} s, {made_a} layers made; "
            f"(b) every layer once per tier {b:.1f} s, {made_b} layers; a / b = {a / b:.2f}"
        )
    c, made_c = alone(configs)
    out.print(f"(c) every plan on its own {c:.1f} s, {made_c} layers made; c / a = {c / a:.2f}")


if __name__ == "__main__":
    main()
