"""Allocations at equal bytes on a real language model: by linear, by layer, and along orders.

`python benchmarks/allocation.py --calibration valid.txt --text test.txt [--model FOLDER]
[--tiers trellis2 trellis3] [--bits 2.5 3.0] [--plans linear layer tied entropy depth_reverse
random] [--error fisher] [--propagation exact]`.

The plans `linear`, `layer` and `tied` choose among all the tiers so that the sum of measured errors
is the least; an order puts as few layers as fit into the first tier, all others into the last.
Settings of the quantizer after the first tier, as in `trellis2+refine.fit=true`, are those of all
plans. Text and measures are those of `language_model.py`; CPU seconds are of all that a plan had to
make, which those after it find in the store.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from language_model import (
    Bench,
    Contestant,
    Result,
    bench_of,
    keep,
    parser_of_command,
    sixteen_bit,
    table_of,
)
from rich.console import Console
from rich.progress import Progress

from luq.api.graph import GraphSettings, LoadedGraph, calibration_of
from luq.config import AllocationConfig, OrderConfig, QuantizerConfig
from luq.config.allocation import ERRORS
from luq.evaluation.artefacts import Packed
from luq.planning import allocate
from luq.quantization.artefacts import end_walk

TIERS = ("trellis2", "trellis3")
PLANS = ("linear", "layer", "entropy", "depth_reverse", "random")
UNITS = {"linear": "linear", "tied": "linear", "layer": "layer"}


def quantizer_of(contestants: list[Contestant]) -> QuantizerConfig:
    """Their tiers in one table, and the other settings of the first of them."""
    tiers = {each.quantizer.high: each.quantizer.tiers[each.quantizer.high] for each in contestants}
    first = contestants[0].quantizer
    return replace(first, tiers=first.tiers | tiers)


def settings_of(
    plan: str, bits: float, error: str, tiers: list[str], quantizer: QuantizerConfig
) -> GraphSettings:
    """The settings of a plan by its name: a unit or an order."""
    low_and_high = replace(quantizer, low=tiers[0], high=tiers[-1])
    if plan not in UNITS:
        return GraphSettings(low_and_high, AllocationConfig("budget", bits=bits), OrderConfig(plan))
    allocation = AllocationConfig(
        "budget", bits=bits, tiers=tiers, unit=UNITS[plan], tie=plan == "tied", error=error
    )
    return GraphSettings(low_and_high, allocation)


def run(bench: Bench, label: str, settings: GraphSettings, bars: Progress) -> Result:
    """Plan, quantize and measure."""
    samples = calibration_of(bench.model, bench.calibration)
    graph = LoadedGraph(bench.model, settings, samples)
    begun = time.process_time()
    chosen = allocate(graph, bench.model.store.get)
    end_walk(bench.model.store.tools)
    seconds = time.process_time() - begun
    bars.console.print(f"{label}: {chosen.allocation}")
    packed = Packed(graph.layers(chosen.allocation), graph.parts(None))
    result = bench.measure(label, packed, graph.rest, bars)
    return replace(result, cpu_seconds=result.cpu_seconds + seconds)


def main() -> None:
    parser = parser_of_command(__doc__.split("\n")[0])
    parser.set_defaults(tiers=list(TIERS))
    parser.add_argument("--bits", nargs="+", type=float, default=[2.5], help="stored, per weight")
    parser.add_argument("--plans", nargs="+", default=PLANS)
    parser.add_argument("--error", default="fisher", choices=ERRORS)
    arguments = parser.parse_args()
    console = Console(width=100)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name, Progress(console=console, transient=True) as bars:
        bench = bench_of(arguments, Path(name))
        contestants = [Contestant.of(label, arguments.propagation) for label in arguments.tiers]
        quantizer = quantizer_of(contestants)
        tiers = [contestant.quantizer.high for contestant in contestants]
        reference = bench.run(sixteen_bit(quantizer), bars)
        for bits in arguments.bits:
            for plan in arguments.plans:
                settings = settings_of(plan, bits, arguments.error, tiers, quantizer)
                results.append(run(bench, f"{plan}, {bits:g} bits", settings, bars))
                keep(results[-1], arguments.json)
    console.print(table_of(results, reference, arguments.length))


if __name__ == "__main__":
    main()
