"""Layers of a streamed model, read from the disk with and without reading ahead.

`python benchmarks/cold_layers.py [--tiers float16 rtn4] [--rounds 5] [--folder DIR]`

A checkpoint of LLaVA-1.5-7B's shapes with random fp16 weights is written (four decoder layers, 2.2
GB). All of it is packed layer by layer, in turn: with its files in the system's page cache; after
they were dropped from it; and so with the advice of `luq.models.read_ahead`. The first layer, which
nothing reads ahead, is left out. Linux only.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rich.console import Console
from rich.table import Table

from luq.config import LayerTiers, ModelConfig, TierConfig
from luq.config.named_tiers import named_tiers
from luq.models.checkpoint import checkpoint
from luq.models.read_ahead import ReadAhead
from luq.models.vlm import VLM, load
from luq.quantization.layer import quantize_layer
from tests.luq.models.true_shapes import write

LAYERS = 4
BLOCKS = 2  # of the vision tower
BYTES = 1 << 24  # that are read at once
WAYS = ("cached", "cold", "cold, read ahead")


def drop(folder: Path) -> None:
    """Have the system forget the weight files' content."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def keep(folder: Path) -> None:
    """Have the system know the weight files' content."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as handle:
            while handle.read(BYTES):
                pass


def pack(vlm: VLM, folder: Path, tier: TierConfig, way: str) -> tuple[float, float]:
    """Pack all layers; seconds and CPU seconds of all but the first."""
    keep(folder) if way == WAYS[0] else drop(folder)
    vlm.ahead = ReadAhead(folder, LAYERS) if way == WAYS[2] else None
    begin = begin_cpu = 0.0
    for index in range(LAYERS):
        if index == 1:
            begin, begin_cpu = time.perf_counter(), time.process_time()
        quantize_layer(vlm, index, LayerTiers(tier), None)
    return time.perf_counter() - begin, time.process_time() - begin_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiers", nargs="+", default=["float16", "rtn4"], help="that need no data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be written")
    arguments = parser.parse_args()
    out = Console(highlight=False, width=110)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "model"
        if not folder.exists():
            write(folder, "llava_1_5_7b", LAYERS, BLOCKS)
        vlm = load(checkpoint(ModelConfig("shapes", str(folder), device="cpu", stream=True)))
        table = Table(title=f"{LAYERS - 1} layers of LLaVA-1.5-7B, streamed", title_justify="left")
        table.add_column("tier")
        table.add_column("weight files")
        for name in ("seconds", "CPU seconds", "range"):
            table.add_column(name, justify="right")
        for name, tier in named_tiers(arguments.tiers).items():
            times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    times[way].append(pack(vlm, folder, tier, way))
            for way, pairs in times.items():
                seconds = statistics.median(pair[0] for pair in pairs)
                cpu = [pair[1] for pair in pairs]
                spread = f"{min(cpu):.2f} to {max(cpu):.2f}"
                table.add_row(name, way, f"{seconds:.2f}", f"{statistics.median(cpu):.2f}", spread)
    out.print(table)


if __name__ == "__main__":
    main()
