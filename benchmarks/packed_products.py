"""Products of one packed linear beside llama.cpp's and torch's, in one run, on one thread.

`python benchmarks/packed_products.py [--size 4096] [--rounds 9] [--tokens 1 32 512]`. Milliseconds
of CPU time, medians over alternating rounds: exact (fp32 products of the stored bits), in 8 bits
(inputs rounded), torch's bf16 and fp32 linear, and, where llama-cpp-python is installed, the same
in the type of llama.cpp next to the tier in size, with the ratio of the 8-bit product to it and the
10th and 90th percentile of the rounds.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from ggml_products import Ggml
from rich.console import Console
from rich.table import Table

from luq.config import RtnTier, TernaryTier
from luq.formats.base import PackedWeight
from luq.formats.incoherence import OVERLAPPING, overlaps
from luq.formats.trellis import COMPUTED, TILE, TrellisWeight
from luq.quantization.methods import make_quantizer

GROUP = 128
NEAREST = {"gptq8": "q8_0", "gptq4": "q4_k", "gptq2": "q2_k", "ternary": "tq2_0"}
NEAREST["trellis2"] = "iq2_xxs"


def packed(name: str, rows: int, columns: int) -> PackedWeight:
    """A random weight; speed does not depend on its codes."""
    generator = torch.Generator().manual_seed(0)
    if name == "trellis2":
        stream = (rows // TILE, columns // TILE * TILE**2 * 2 // 8)
        codes = torch.randint(0, 256, stream, generator=generator, dtype=torch.uint8)
        scales = torch.full((rows // TILE,), 0.02, dtype=torch.float16)
        meta = {"rotation": OVERLAPPING} if overlaps(rows) or overlaps(columns) else {}
        return TrellisWeight(
            {"codes": codes, "scales": scales},
            (rows, columns),
            bits=2,
            window=12,
            seed=1,
            code=COMPUTED,
            **meta,
        )
    tier = TernaryTier(group_size=GROUP)
    if name.startswith("gptq"):
        tier = RtnTier(bits=int(name.removeprefix("gptq")), group_size=GROUP)
    weight = torch.randn(rows, columns, generator=generator) * 0.02
    return make_quantizer(tier).quantize(weight, torch.eye(columns))


def rounds(runs: dict[str, Callable[[], object]], count: int) -> dict[str, np.ndarray]:
    """Milliseconds of each contestant in each round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(count + 1):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            if number:
                times[name].append(1e3 * (time.process_time() - begun))
    return {name: np.array(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 32, 512])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        ggml = Ggml()
    except ImportError:
        ggml = None
    size = arguments.size
    plain = torch.randn(size, size)
    table = Table(title=f"{size} x {size}, CPU ms, one thread, n={arguments.rounds}")
    names = ("tier", "tokens", "exact", "8 bits", "bf16", "fp32", "llama.cpp", "8 bits / llama.cpp")
    for column in names:
        table.add_column(column, justify="left" if column == "tier" else "right")
    for name, kind in NEAREST.items():
        kernel = packed(name, size, size).cpu_kernel()
        for tokens in arguments.tokens:
            x = torch.randn(tokens, size)
            exact = kernel.linear if tokens <= kernel.few_tokens else kernel.tiled
            extra_arguments = () if tokens <= kernel.few_tokens else (torch.float32,)
            half = (x.bfloat16(), plain.bfloat16())
            runs = {
                "exact": lambda run=exact, factors=(x, *extra_arguments): run(*factors),
                "8 bits": lambda run=kernel.eight_bits, x=x: run(x),
                "bf16": lambda factors=half: F.linear(*factors),
                "fp32": lambda x=x: F.linear(x, plain),
            }
            if ggml is not None:
                runs["llama.cpp"] = ggml.product(kind, size, tokens, 1)
            times = rounds(runs, arguments.rounds)
            cells = [f"{np.median(values):.2f}" for values in times.values()]
            if ggml is not None:
                ratios = times["8 bits"] / times["llama.cpp"]
                low, middle, high = np.percentile(ratios, (10, 50, 90))
                cells[-1] += f" ({kind})"
                cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
            table.add_row(name, str(tokens), *cells)
    Console(width=110, highlight=False).print(table)


if __name__ == "__main__":
    main()
