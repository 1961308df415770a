"""Figures for people and papers, with matplotlib."""

from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FormatStrFormatter

STYLES = {  # family -> colour, marker
    "uniform": ("#555555", "s"),
    "LUQ, multimodal calibration": ("#1f5fa8", "o"),
    "LUQ, text-only calibration": ("#d9812a", "D"),
}


def family(run: pd.Series) -> str:
    if not run["mixed"]:
        return "uniform"
    return f"LUQ, {'text-only' if run['calibration'] == 'text' else 'multimodal'} calibration"


def retention_against_bits(frame: pd.DataFrame, file: Path) -> Path:
    """Mean retention (%) against stored bits per weight; error bars are standard errors of the mean score.

    The 16-bit model is the dashed line at 100 %. Open markers: at least half of the benchmarks collapsed.
    """
    quantized = frame[frame["uniform_tier"] != "float16"]
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    axes.axhline(100, color="#999999", linewidth=1, linestyle="--", zorder=0)
    axes.text(1.0, 100, "16-bit ", transform=axes.get_yaxis_transform(), ha="right", va="bottom", color="#777777", fontsize=8)
    for name, runs in quantized.groupby(quantized.apply(family, axis=1)):
        colour, marker = STYLES[str(name)]
        runs = runs.sort_values("stored_bits")
        if len(runs) > 1 and name != "uniform":
            axes.plot(runs["stored_bits"], 100 * runs["retention"], color=colour, linewidth=1, alpha=0.5, zorder=1)
        axes.plot([], [], color=colour, marker=marker, linestyle="none", label=str(name))
        for _, run in runs.iterrows():
            where = run["stored_bits"], 100 * run["retention"]
            error = 100 * run["stderr"] * run["retention"] / run["score"] if run["score"] else 0
            face = "white" if run["collapsed"] * 2 >= run["benchmarks"] else colour
            axes.errorbar(
                *where, yerr=error, color=colour, marker=marker, markerfacecolor=face, markersize=7, capsize=3, linewidth=1
            )
            text_only = run["mixed"] and run["calibration"] == "text"
            offset, side = ((0, 10), "center") if text_only else ((8, -11), "left")
            axes.annotate(run["name"], where, xytext=offset, textcoords="offset points", fontsize=8, ha=side)
    axes.plot(
        [],
        [],
        color="#555555",
        marker="o",
        markerfacecolor="white",
        linestyle="none",
        label="open: half of the benchmarks collapsed",
    )
    axes.set_xlabel("stored bits per weight (bytes of the files, all included)")
    axes.set_ylabel("mean retention, % of the 16-bit score")
    axes.xaxis.set_major_formatter(FormatStrFormatter("%.1f"))
    axes.margins(x=0.12)
    axes.set_ylim(0, 108)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    first = frame.iloc[0]
    axes.set_title(f"{first['model']}, {first['benchmarks']} benchmarks, n = {first['n']}", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=160)
    plt.close(figure)
    return file
