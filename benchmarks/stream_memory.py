"""Peak memory of profiling and quantizing a checkpoint whose layers stay on disk.

`python benchmarks/stream_memory.py [--layers 2 4 8] [--tier rtn4]`

For each number of decoder layers a checkpoint of Qwen2.5-VL-7B's shapes with random bfloat16
weights is written shard by shard (0.47 GB a layer and 3.5 GB beside them), then a process of its
own runs `luq quantize` on it with model.stream=true and 16 x 512 calibration tokens: entropies of
all layers, and all layers packed. The peak is that process's largest resident memory. It must not
grow with the number of layers.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rich.console import Console
from rich.table import Table

from tests.luq.models.true_shapes import write


def quantize(folder: Path, outputs: Path, tier: str) -> tuple[int, int, float]:
    """`luq quantize` in a process of its own.

    Returns:
        Peak resident bytes, the most that is not a mapped file, seconds.
    """
    overrides = [
        f"model.path={folder}",
        "model.name=qwen_shapes",
        "model.stream=true",
        "model.max_pixels=12544",
        "tracking=none",
        "calibration.tokens=8192",
        "calibration.sample_tokens=512",
        "profile.tokens=2048",
        "profile.clusters=50",
        "profile.seeds=1",
        "allocation.k=1",
        f"quantizer.low={tier}",
        "quantizer.high=rtn4",
        "quantizer.propagation=float",
        f"paths.outputs={outputs}",
    ]
    begin = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.cli", "quantize", *overrides]
    peak = 0
    anonymous = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        # What wait4 reports would be this process's own peak, which a fork starts with.
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            kilobytes = dict(re.findall(r"(VmHWM|RssAnon):\s+(\d+)", status))
            peak = max(peak, 1024 * int(kilobytes.get("VmHWM", 0)))
            anonymous = max(anonymous, 1024 * int(kilobytes.get("RssAnon", 0)))
            time.sleep(0.2)
        if process.returncode:
            errors.seek(0)
            sys.exit(errors.read())
    return peak, anonymous, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument(
        "--tier",
        default="rtn4",
        help="of one layer; the others are rtn4, which needs no activations",
    )
    parser.add_argument(
        "--scratch", type=Path, help="where the checkpoints are written (a temporary folder)"
    )
    arguments = parser.parse_args()
    out = Console(highlight=False, width=110)
    table = Table(
        title=f"Qwen2.5-VL-7B's shapes, streamed, one layer in {arguments.tier}",
        title_justify="left",
    )
    for name in (
        "decoder layers",
        "checkpoint GB",
        "peak resident GB",
        "without mapped files",
        "minutes",
    ):
        table.add_column(name, justify="right")
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            size = write(Path(scratch) / "model", "qwen2_5_vl_7b", layers)
            peak, anonymous, seconds = quantize(
                Path(scratch) / "model", Path(scratch) / "outputs", arguments.tier
            )
        table.add_row(
            str(layers),
            f"{size / 1e9:.2f}",
            f"{peak / 1e9:.2f}",
            f"{anonymous / 1e9:.2f}",
            f"{seconds / 60:.1f}",
        )
    out.print(table)


if __name__ == "__main__":
    main()
