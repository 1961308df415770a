"""`python -m analysis SWEEP`: one table of a sweep, sorted by stored bytes, and one figure."""

import argparse
import os
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from analysis import figures, frame
from luq.errors import LuqError


def _size(count: float) -> str:
    return f"{count / 1e6:.3f} MB" if count < 1e9 else f"{count / 1e9:.3f} GB"


def _percent(share: float) -> str:
    return "-" if pd.isna(share) else f"{100 * share:.1f}"


def _number(value: float, places: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{places}f}"


def _change(saved: float) -> str:
    return "-" if pd.isna(saved) else f"{-100 * saved:+.1f}" if saved else "0.0"


def table(runs: pd.DataFrame) -> Table:
    """One row per run, smallest first."""
    first = runs.iloc[0]
    shown = Table(
        title=f"{first['model']}: {first['benchmarks']} benchmarks, n = {first['n']} units, smallest first", title_justify="left"
    )
    shown.add_column("run", style="bold", no_wrap=True)
    columns = ("nominal\nbits", "stored\nbits", "vs\n4-bit %", "whole\ncheckpoint", "vs\n4-bit %", "mean score", "retention\n%")
    for name in (*columns, "KL\nnats", "top-1\n%", "perplexity", "collapsed"):
        shown.add_column(name, justify="right", no_wrap=True)
    for _, run in runs.iterrows():
        shown.add_row(
            run["name"],
            f"{run['nominal_bits']:.2f}",
            f"{run['stored_bits']:.3f}",
            _change(run["linears_saved"]),
            _size(run["checkpoint_bytes"]),
            _change(run["checkpoint_saved"]),
            f"{run['score']:.1f} ± {run['stderr']:.1f}",
            _percent(run["retention"]),
            _number(run["kl"], 3),
            _percent(run["agreement"]),
            _number(run["perplexity"], 1),
            f"{run['collapsed']}/{run['benchmarks']}" if run["collapsed"] else "",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser("python -m analysis", description=__doc__)
    parser.add_argument("sweep", help="name of the sweep (`luq sweep NAME`, or group=NAME of `luq run -m`)")
    parser.add_argument("--outputs", type=Path, default=Path(os.environ.get("LUQ_OUTPUTS", "outputs")))
    arguments = parser.parse_args()
    try:
        runs = frame.against(frame.load(arguments.outputs, arguments.sweep))
    except LuqError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error[/bold red] {error}", soft_wrap=True)
        sys.exit(1)
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 140
    out.print(table(runs))
    file = figures.retention_against_bits(runs, arguments.outputs / "sweeps" / arguments.sweep / "retention.png")
    out.print(
        "±: standard error of the mean score over questions. KL per answer token to the 16-bit model and same first choices: "
        "means\nover benchmarks. Perplexity: held-out text. collapsed: benchmarks with one answer for (nearly) all, or gibberish."
    )
    out.print(f"figure: {file}")


if __name__ == "__main__":
    main()
