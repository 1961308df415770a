"""Decode speed of packed linears on this machine, each beside the same in 16 bit, in one run.

`python benchmarks/decode_speed.py [--size 4096] [--rounds 15] [--threads N]`.

First one linear, one token: the packed kernel, and torch on the 16-bit weight in the types that
torch computes in. Then pocket_llava, generating one token after the other: every tier on all
layers, loaded from an exported folder as a user loads it, beside the 16-bit folder. Ratios over 1:
the packed one is faster. Rounds alternate between the contestants; shown are medians, and for
ratios the 10th and 90th percentile of the rounds.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table

from luq.allocation.allocations import Allocation
from luq.config import QuantizerConfig, RtnTier
from luq.config.building import build
from luq.export.folder import PackedModel, export
from luq.formats.layer_file import write_layer
from luq.formats.linear import PackedLinear
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer

CONF = Path(__file__).parent.parent / "conf"
QUANTIZER = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
TIERS = build(QuantizerConfig, QUANTIZER, "quantizer").tiers
TOKENS = 32


def rounds(contestants: dict[str, Callable[[], object]], n: int) -> dict[str, np.ndarray]:
    """Seconds of each contestant in each of `n` rounds, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(n + 1):
        for name, run in contestants.items():
            begun = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - begun)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(base_seconds: np.ndarray, seconds: np.ndarray) -> str:
    low, middle, high = np.percentile(base_seconds / seconds, (10, 50, 90))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def one_linear(size: int, n: int) -> Table:
    """A square linear in every tier, one token."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, size, generator=generator) * 0.02
    x = torch.randn(1, size, generator=generator)
    hessian = torch.eye(size)
    runs: dict[str, Callable[[], object]] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        runs[name] = partial(torch.nn.functional.linear, x.to(dtype), weight.to(dtype))
    for name, tier in TIERS.items():
        if tier.method == "gptq":  # the same format, and its time does not depend on the codes
            tier = RtnTier(bits=tier.bits, group_size=tier.group_size)
        if name not in ("float16", "billm_faithful") or (name != "float16" and size <= 1024):
            runs[name] = partial(
                PackedLinear(make_quantizer(tier).quantize(weight, hessian), name), x
            )
    repeat = max(1, int(2e7 / size**2))
    seconds = rounds(
        {name: lambda r=run: [r() for _ in range(repeat)] for name, run in runs.items()}, n
    )
    table = Table(
        title=f"{size} x {size}, one token, {torch.get_num_threads()} threads, n={n}",
        title_justify="left",
    )
    for column in ("", "ms", "against fp32", "against bf16", "against fp16"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in seconds.items():
        cells = [ratio(seconds[base], values) for base in ("fp32", "bf16", "fp16")]
        table.add_row(name, f"{1e3 * np.median(values) / repeat:.2f}", *cells)
    return table


def generation(n: int, scratch: Path) -> Table:
    """pocket_llava from exported folders."""
    from transformers import AutoModelForImageTextToText

    import luq  # noqa: F401

    source = POCKET / "pocket_llava"
    models = {
        "16 bit": AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()
    }
    layers = models["16 bit"].model.language_model.layers
    for name, tier in TIERS.items():
        quantizer = make_quantizer(tier)
        folders = []
        for i, layer in enumerate(layers):
            folder = scratch / f"{name}-{i}"
            folder.mkdir()
            linears = {
                n: m.weight.detach() for n, m in layer.named_modules() if n.endswith("_proj")
            }
            write_layer(
                folder,
                {n: quantizer.quantize(w, torch.eye(w.shape[1])) for n, w in linears.items()},
            )
            folders.append(folder)
        packed = PackedModel(source, folders, Allocation((name,) * len(folders)))
        target = export(packed, scratch / name)
        models[name] = AutoModelForImageTextToText.from_pretrained(
            target, dtype=torch.float32
        ).eval()
    ids = torch.arange(40, 72)[None]
    settings = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "do_sample": False,
        "use_cache": True,
    }
    with torch.no_grad():
        runs = {
            k: lambda m=m: m.generate(**settings, min_new_tokens=TOKENS, max_new_tokens=TOKENS)
            for k, m in models.items()
        }
        seconds = rounds(runs, n)
    table = Table(title=f"pocket_llava from folders, {TOKENS} tokens, n={n}", title_justify="left")
    for column in ("", "tokens/s", "against 16 bit"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in seconds.items():
        table.add_row(name, f"{TOKENS / np.median(values):.0f}", ratio(seconds["16 bit"], values))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    out = Console(highlight=False, width=110)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out.print(one_linear(arguments.size, arguments.rounds))
    with tempfile.TemporaryDirectory() as scratch:
        out.print(generation(arguments.rounds, Path(scratch)))


if __name__ == "__main__":
    main()
