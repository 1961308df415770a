"""CPU seconds and error of every tier on one linear, beside published GPTQ in the same run.

`python benchmarks/quantizers.py [--sizes 1024x1024 4096x4096 4096x11008] [--tiers ...]
[--threads N]`.

Gaussian weights, and a Hessian of inputs with a falling spectrum, in which a few columns are large,
as in real layers. Published GPTQ is algorithm 1 of its paper with the steps of the reference code:
two Cholesky factors and an inverse, blocks of 128 columns, 4-bit asymmetric grids per row, no
act-order and no clip search. Error: tr(E H E^T) / tr(W H W^T). The last column is what a Gaussian
source needs at least for that error at that many stored bits, were all columns alike: 4^-bits.
`--loops [N]`: instead, BiLLM's searches of one block of 4096 rows against plain loops over the same
candidates, N rounds.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import yaml
from rich.console import Console
from rich.table import Table

from luq.config import GptqTier, QuantizerConfig
from luq.config.building import build
from luq.formats.kernels import searches
from luq.quantization.lloyd import SortedRows
from luq.quantization.methods import billm, make_quantizer
from tests.luq.quantization.test_lloyd import loop

CONF = Path(__file__).parent.parent / "conf"
QUANTIZER = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
TIERS = build(QuantizerConfig, QUANTIZER, "quantizer").tiers
PLAIN = GptqTier(bits=4)


def case(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [rows, columns] and Hessian [columns, columns] of 2 * columns tokens, at most 8192."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator) * 0.02
    tokens = min(2 * columns, 8192)
    inputs = torch.randn(tokens, columns, generator=generator) * torch.logspace(0, -1, columns)
    inputs[:, :: columns // 8] *= 8
    inputs = inputs + 0.3 * inputs.roll(1, 1)
    return weight, 2 * inputs.T @ inputs / tokens


def published(weight: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """The values that GPTQ as published gives a weight (Frantar et al., algorithm 1)."""
    columns = weight.shape[1]
    work = weight.clone()
    values = torch.zeros_like(work)
    damped = hessian.clone()
    damped.diagonal().add_(0.01 * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True)
    low = work.amin(1).clamp_max(0)
    scale = (work.amax(1).clamp_min(0) - low) / 15
    zero = torch.round(-low / scale)
    for start in range(0, columns, 128):
        end = min(start + 128, columns)
        block = work[:, start:end].clone()
        errors = torch.zeros_like(block)
        triangle = upper[start:end, start:end]
        for j in range(end - start):
            codes = torch.clamp(torch.round(block[:, j] / scale) + zero, 0, 15)
            values[:, start + j] = scale * (codes - zero)
            # the columns to come make up for the error: w -= (w_j - q_j) / U_jj U_j (GPTQ)
            error = (block[:, j] - values[:, start + j]) / triangle[j, j]
            block[:, j:] -= error[:, None] @ triangle[j, j:][None]
            errors[:, j] = error
        work[:, end:] -= errors @ upper[start:end, end:]
    return values


def loops(n: int) -> Table:
    """What is searched, seconds of the search, and how many times longer the loop takes.

    Of the times: median, least and most of n rounds.
    """
    weight = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0))
    importance = torch.logspace(0, -1, 128)
    ranked = weight.square().sort(1).values
    thresholds = weight.square().flatten().sort().values[:: weight.numel() // 82][1:82].contiguous()
    contestants: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "49 counts of salient columns (faithful)": (
            lambda: searches.billm_errors(ranked, 49), lambda: billm.salient_errors(ranked, 49),
        ),
        "81 splits (faithful)": (
            lambda: searches.billm_errors(weight.square(), thresholds),
            lambda: billm.split_errors(weight.square(), thresholds),
        ),
        "four values, 12 turns (fitted)": (
            lambda: SortedRows(weight).fit(importance, False),
            lambda: loop(weight, importance, 12),
        ),
    }  # fmt: skip
    report = Table(
        title=f"4096 x 128, {torch.get_num_threads()} threads, n = {n}", title_justify="left"
    )
    for column in ("search", "seconds", "loop, seconds", "times"):
        report.add_column(column, justify="left" if column == "search" else "right")
    for name, pair in contestants.items():
        seconds = []
        for i in range(n + 1):
            begun = [time.perf_counter()]
            for run in pair:
                run()
                begun.append(time.perf_counter())
            if i > 0:  # the first round warms up
                seconds.append((begun[1] - begun[0], begun[2] - begun[1]))
        times = sorted(b / a for a, b in seconds)
        # medians
        search_seconds, loop_seconds = (sorted(s)[n // 2] for s in zip(*seconds, strict=True))
        report.add_row(
            name,
            f"{search_seconds:.4f}",
            f"{loop_seconds:.3f}",
            f"{times[n // 2]:.0f} [{times[0]:.0f}, {times[-1]:.0f}]",
        )
    return report


def table_of(rows: int, columns: int, tiers: list[str]) -> Table:
    """Published GPTQ and some tiers on one linear."""
    weight, hessian = case(rows, columns)
    weight_energy = float(((weight @ hessian) * weight).sum())  # tr(W H W^T)
    title = f"{rows} x {columns}, {torch.get_num_threads()} threads"
    report = Table(title=title, title_justify="left")
    for column in ("tier", "stored bits", "CPU s", "x published", "error", "4^-bits"):
        report.add_column(column, justify="left" if column == "tier" else "right")
    begun = time.process_time()
    values = published(weight, hessian)
    base = time.process_time() - begun
    rounds = [("published gptq4", 4 + 20 / columns, base, values)]
    for name, tier in {"plain gptq4": PLAIN, **{t: TIERS[t] for t in tiers}}.items():
        begun = time.process_time()
        packed = make_quantizer(tier).quantize(weight, hessian)
        seconds = time.process_time() - begun
        bits = 8 * sum(packed.ledger().values()) / weight.numel()
        rounds.append((name, bits, seconds, packed.dequantize()))
    for name, bits, seconds, values in rounds:
        error = weight - values
        share = float(((error @ hessian) * error).sum()) / weight_energy
        report.add_row(
            name,
            f"{bits:.3f}",
            f"{seconds:.2f}",
            f"{seconds / base:.2f}",
            f"{share:.5f}",
            f"{4**-bits:.5f}",
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["1024x1024"])
    parser.add_argument("--tiers", nargs="+", default=[t for t in TIERS if t != "float16"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--loops", type=int, nargs="?", const=5)
    arguments = parser.parse_args()
    out = Console(highlight=False, width=120)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.loops:
        out.print(loops(arguments.loops))
        return
    for size in arguments.sizes:
        rows, columns = map(int, size.split("x"))
        out.print(table_of(rows, columns, arguments.tiers))


if __name__ == "__main__":
    main()
