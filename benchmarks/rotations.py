"""Error of trellis codes by how a width is rotated: in blocks, or by transforms that overlap.

`python benchmarks/rotations.py [--widths 570 ...] [--bits 2 3] [--draws 5] [--outliers inputs]`:
tr(E H E^T) / tr(W H W^T) of Gaussian weights [64, width] under the Hessian of Gaussian inputs, of
which one column in fifty is twelve times as large (with `--outliers weights` those of the weights,
with `both` those of both), mean over the draws with their standard deviation. The columns are the
blocks that the largest power of two in the width gives; two transforms that overlap, as the
quantizer has them; the same without signs between them. The default takes half a minute of one
core, `--widths 3420 3584 --draws 3` three minutes.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from rich.console import Console
from rich.table import Table

from luq.config import TrellisTier
from luq.formats import incoherence
from luq.quantization.methods.trellis import SEED, Trellis

ROWS = 64
OUTLIERS = 50  # columns of which one is large
LARGE = 12
WIDTHS = [96, 128, 570, 576, 855, 896, 1152]
BLOCKS, OVERLAPPING, BARE = "blocks", "overlapping", "without signs between"
WAYS = (BLOCKS, OVERLAPPING, BARE)


class Problem(NamedTuple):
    """A weight and the Hessian of its inputs."""

    weight: torch.Tensor
    hessian: torch.Tensor

    def error(self, bits: float) -> float:
        """tr(E H E^T) / tr(W H W^T) of what the tier makes of the weight."""
        packed = Trellis(TrellisTier(bits=bits)).quantize(self.weight, self.hessian)
        difference = packed.dequantize() - self.weight
        return self._energy(difference) / self._energy(self.weight)

    def _energy(self, rows: torch.Tensor) -> float:
        return float(((rows @ self.hessian) * rows).double().sum())


def draw(width: int, seed: int, outliers: str) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, width, generator=generator)
    inputs = torch.randn(2 * width + 256, width, generator=generator)
    large = torch.randperm(width, generator=generator)[: max(1, round(width / OUTLIERS))]
    if outliers != "weights":
        inputs[:, large] *= LARGE
    if outliers != "inputs":
        weight[:, large] *= LARGE
    return Problem(weight, 2 * inputs.T @ inputs / len(inputs))


@contextmanager
def rotated(way: str, width: int) -> Iterator[None]:
    """Weights of a width are rotated so while this lasts."""
    signs = incoherence.signs

    def first_signs(size: int, seed: int, device: torch.device) -> torch.Tensor:
        is_first = seed < SEED + incoherence.BETWEEN
        return signs(size, seed, device) if is_first else torch.ones(size, device=device)

    with (
        patch.object(incoherence, "overlaps", lambda size: size == width and way != BLOCKS),
        patch.object(incoherence, "signs", first_signs if way == BARE else signs),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--bits", nargs="+", type=float, default=[2, 3])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--outliers", choices=["inputs", "weights", "both"], default="inputs")
    options = parser.parse_args()
    table = Table("columns", "block", "bits", *WAYS)
    for width in options.widths:
        problems = [draw(width, seed, options.outliers) for seed in range(options.draws)]
        is_power_of_two = width & -width == width
        ways = (BLOCKS,) if is_power_of_two else WAYS
        for bits in options.bits:
            cells = []
            for way in ways:
                with rotated(way, width):
                    errors = torch.tensor([problem.error(bits) for problem in problems])
                spread = float(errors.std()) if len(errors) > 1 else 0.0
                cells.append(f"{float(errors.mean()):.4f} ± {spread:.4f}")
            table.add_row(f"{width:,}", str(width & -width), f"{bits:g}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
