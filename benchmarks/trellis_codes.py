"""Squared error of trellis codes on Gaussian numbers, and the search for the computed code.

`python benchmarks/trellis_codes.py [--windows 12 16] [--sequences 64]`: for each window and number
of bits the error of the table of format version 1 and of the computed code, as multiples of
Shannon's bound 4^-bits, each at the best of a few scales, which is shown.

`python benchmarks/trellis_codes.py --search [--pairs 2500]`: how FACTOR and OFFSET of
`luq.formats.trellis` were found. Random pairs, of which those with the least error at 3 and 4 bits
go on to a larger sample at 1 to 4 bits, and the best of these to other windows. Errors are
geometric means over bits and windows, relative to the table's. Four minutes of one core.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from luq.formats.kernels import searches
from luq.formats.trellis import FACTOR, OFFSET, computed_numbers, table

LENGTH = 1024  # numbers of a sequence
WHOLE_BITS = (1, 2, 3, 4)
ALL_BITS = tuple(quarters / 4 for quarters in range(4, 17))
WINDOW = 12  # the tiers'
OTHER_WINDOWS = (8, 10, 14, 16)
# Scales of numbers of variance one, over the standard deviation of what is coded.
SCALES = {
    1: (0.84, 0.88, 0.92),
    2: (0.98, 1.02, 1.06),
    3: (1.05, 1.08, 1.11),
    4: (1.08, 1.11, 1.14),
}
SCREENED_SEQUENCES = 16
COMPARED_SEQUENCES = 64
SCREENED = 100  # pairs that go on
COMPARED = 8


class Pair(NamedTuple):
    """A computed code."""

    factor: int
    offset: int

    def numbers(self, window: int) -> torch.Tensor:
        return computed_numbers(torch.arange(1 << window), self.factor, self.offset)


class Best(NamedTuple):
    """The least squared error, and the scale of the numbers over that of the source."""

    error: float
    scale: float


def gaussian(sequences: int, seed: int) -> torch.Tensor:
    return torch.randn(sequences, LENGTH, generator=torch.Generator().manual_seed(seed))


def error(values: torch.Tensor, numbers: torch.Tensor, bits: float, window: int) -> Best:
    """What the best of the scales gives, after the codes were given their own best scale."""
    start = torch.zeros(len(values), dtype=torch.int32)
    spread = float(numbers.square().mean().sqrt())
    nearest = min(SCALES, key=lambda whole_bits: abs(whole_bits - bits))
    fits = []
    for relative in SCALES[nearest]:
        scale = relative / spread
        path = searches.trellis(values / scale, numbers, start, bits, window)
        if path is None:
            raise SystemExit("the compiled search is needed: install a C compiler")
        coded = numbers[path]
        # the scale that minimises |x - s c|^2: s = c.x / c.c
        fitted = float((coded * values).sum() / coded.square().sum())
        fits.append(Best(float((values - fitted * coded).square().mean()), scale))
    return min(fits)


class Case(NamedTuple):
    """What a code is compared with the table on."""

    bits: int
    window: int


def cases(bits: tuple[int, ...], windows: tuple[int, ...]) -> list[Case]:
    """Those that the compiled search can do."""
    all_cases = [Case(b, window) for window in windows for b in bits]
    return [case for case in all_cases if case.window >= case.bits + searches.SMALLEST_STEMS]


def best_pairs(
    pairs: list[Pair], values: torch.Tensor, compared: list[Case], count: int, out: Console
) -> list[Pair]:
    """The `count` pairs with the least errors, best first."""
    references = [error(values, table(case.window), *case).error for case in compared]
    ranked = []
    for pair in pairs:
        errors = [error(values, pair.numbers(case.window), *case).error for case in compared]
        ranked.append((float(np.exp(np.log(np.divide(errors, references)).mean())), pair))
    ranked.sort()
    for ratio, pair in ranked[:3]:
        out.print(f"  {ratio:.4f}  factor {pair.factor:#010x}  offset {pair.offset:#010x}")
    return [pair for _, pair in ranked[:count]]


def find(count: int, out: Console) -> Pair:
    """The pair that the search takes of `count` random ones."""
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        factor = int(generator.integers(0, 1 << 32)) | 1
        pairs.append(Pair(factor, int(generator.integers(0, 1 << 32))))
    out.print(f"{count} pairs, 3 and 4 bits, window {WINDOW}")
    values = gaussian(SCREENED_SEQUENCES, 1)
    screened = best_pairs(pairs, values, cases((3, 4), (WINDOW,)), SCREENED, out)
    out.print(f"the best {SCREENED}, 1 to 4 bits, window {WINDOW}, other numbers")
    values = gaussian(COMPARED_SEQUENCES, 2)
    compared = best_pairs(screened, values, cases(WHOLE_BITS, (WINDOW,)), COMPARED, out)
    out.print(f"the best {COMPARED}, windows {OTHER_WINDOWS}")
    values = gaussian(SCREENED_SEQUENCES, 3)
    return best_pairs(compared, values, cases(WHOLE_BITS, OTHER_WINDOWS), 1, out)[0]


def comparison(windows: list[int], sequences: int) -> Table:
    """The table's and the computed code's errors over the bound."""
    values = gaussian(sequences, 4)
    report = Table(title=f"error / 4^-bits, n = {values.numel()}", title_justify="left")
    for column in ("window", "bits", "table", "computed", "scale", "computed / table"):
        report.add_column(column, justify="right")
    pair = Pair(FACTOR, OFFSET)
    for window in windows:
        for bits in ALL_BITS:
            if window < bits + searches.SMALLEST_STEMS:
                continue
            error_of_table = error(values, table(window), bits, window).error
            best = error(values, pair.numbers(window), bits, window)
            bound = 4.0**-bits
            cells = (
                f"{error_of_table / bound:.3f}",
                f"{best.error / bound:.3f}",
                f"{best.scale:.3f}",
            )
            report.add_row(str(window), f"{bits:g}", *cells, f"{best.error / error_of_table:.3f}")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, nargs="+", default=[WINDOW])
    parser.add_argument("--sequences", type=int, default=COMPARED_SEQUENCES)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--pairs", type=int, default=2500)
    arguments = parser.parse_args()
    out = Console(highlight=False, width=100)
    if arguments.search:
        pair = find(arguments.pairs, out)
        out.print(f"taken: factor {pair.factor:#010x}, offset {pair.offset:#010x}")
        return
    out.print(comparison(arguments.windows, arguments.sequences))


if __name__ == "__main__":
    main()
