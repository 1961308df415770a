"""Error against stored bits of every tier: on Gaussian weights, and on a pocket model's own.

`python benchmarks/rate_distortion.py [--model pocket_llava] [--tiers NAME ...]
[--figure docs/rate_distortion.png]`.

Gaussian: 512 x 512, the Hessian the identity, mean squared error. Model: every linear of every
layer, the Hessians of the 16-bit model on its usual calibration set, the median over linears of
tr(E H E^T) / tr(W H W^T) and of the error relative to the best scalar tier (gptqN, interpolated on
a logarithmic scale at the same stored bits), with quartiles. The last column is the error over the
least that any code of so many stored bits has for Gaussian weights under the same Hessian.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from pocket_calibration import pocket_samples
from rich.console import Console
from rich.table import Table

from luq.config import CalibrationConfig, ModelConfig, QuantizerConfig, TierConfig, building
from luq.models.vlm import load_vlm
from luq.quantization.layer import hessians
from luq.quantization.layer_calls import shared_inputs
from luq.quantization.methods import make_quantizer
from luq.quantization.states import first_inputs, pass_through

CONF = Path(__file__).parent.parent / "conf"
QUANTIZER = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
TIERS = building.build(QuantizerConfig, QUANTIZER, "quantizer").tiers
LEFT_OUT = ("float16", "rtn4")
SCALAR = ("gptq2", "gptq3", "gptq4", "gptq8")


class Measured(NamedTuple):
    """One linear in one tier."""

    bits: float  # stored, of a weight
    error: float  # tr(E H E^T) / tr(W H W^T)
    bound: float  # the least error of any code


def least_error(hessian: torch.Tensor, bits: float) -> float:
    """The least tr(E H E^T) / tr(W H W^T) of rows with independent Gaussian weights, at these bits.

    Reverse water-filling (Cover and Thomas, Elements of Information Theory, theorem 13.3.3): along
    the eigenvectors of H the weights are independent with variances l_i. Those below the water
    level t get no bits, the others 1/2 log2(l_i / t) and the error t, where t makes the mean of
    the bits what they are.
    """
    variances = torch.linalg.eigvalsh(hessian.double()).clamp_min(0).flip(0)
    total = float(variances.sum())
    positive = variances[variances > 1e-12 * variances[0]]
    logarithms = positive.log2()
    # with the k largest above the water, log2 t = mean of their log2 l_i - 2 bits n / k
    counts = torch.arange(1, len(positive) + 1)
    levels = logarithms.cumsum(0) / counts - 2 * bits * len(variances) / counts
    # k is right if the k-th is still above its own level
    above = int((logarithms >= levels).sum())
    level = float(2 ** levels[above - 1])
    return float(positive.clamp_max(level).sum()) / total


def measure(tier: TierConfig, weight: torch.Tensor, hessian: torch.Tensor) -> Measured:
    packed = make_quantizer(tier).quantize(weight, hessian)
    error = weight - packed.dequantize()
    bits = 8 * sum(packed.ledger().values()) / weight.numel()
    relative = float(((error @ hessian) * error).sum() / ((weight @ hessian) * weight).sum())
    return Measured(bits, relative, least_error(hessian, bits))


def gaussian(tiers: list[str]) -> dict[str, np.ndarray]:
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    return {n: np.array([measure(TIERS[n], weight, torch.eye(512))]) for n in tiers}


@torch.no_grad()
def of_model(name: str, tiers: list[str]) -> dict[str, np.ndarray]:
    """Tier -> (bits, error, bound) of every linear."""
    vlm = load_vlm(ModelConfig(name, f"pocket:{name}", device="cpu"))
    states = first_inputs(vlm, pocket_samples(vlm, CalibrationConfig("multimodal", 0.5)))
    measurements: dict[str, list[Measured]] = {n: [] for n in tiers}
    for index, layer in enumerate(vlm.layers):
        layer_hessians = hessians(layer, states, shared_inputs(layer, states))
        for linear, weight in vlm.original(index).items():
            for tier, values in measurements.items():
                values.append(measure(TIERS[tier], weight.float(), layer_hessians[linear]))
        pass_through(layer, states)
    return {n: np.array(v) for n, v in measurements.items()}


def against_scalar(measurements: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Error of every linear over the scalar tiers' at the same bits.

    Below their least bits the line goes on with 6.02 dB a bit.
    """
    relative = {}
    for name, values in measurements.items():
        ratios = []
        for i, (bits, error, _) in enumerate(values):
            x = np.array([measurements[s][i, 0] for s in SCALAR])
            y = np.log([measurements[s][i, 1] for s in SCALAR])
            # log error of the scalar tiers at these bits; a bit less is a factor 4
            line = np.interp(bits, x, y) + np.log(4) * max(0.0, x[0] - bits)
            ratios.append(error / np.exp(line))
        relative[name] = np.array(ratios)
    return relative


def table(title: str, measurements: dict[str, np.ndarray]) -> Table:
    report = Table(title=title, title_justify="left")
    relative = against_scalar(measurements)
    columns = ("tier", "stored bits", "error", "against scalar at the same bits", "over the bound")
    for column in columns:
        report.add_column(column, justify="left" if column == "tier" else "right")
    for name, values in sorted(measurements.items(), key=lambda item: item[1][:, 0].mean()):
        low, middle, high = np.percentile(relative[name], (25, 50, 75))
        spread = f"{middle:.2f}" if len(values) == 1 else f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        bits = f"{values[:, 0].mean():.3f}"
        over_bound = f"{np.median(values[:, 1] / values[:, 2]):.2f}"
        report.add_row(name, bits, f"{np.median(values[:, 1]):.5f}", spread, over_bound)
    return report


def draw(parts: dict[str, dict[str, np.ndarray]], file: Path) -> None:
    figure, axes = plt.subplots(1, len(parts), figsize=(10, 4), sharey=True, layout="constrained")
    for axis, (title, measurements) in zip(axes, parts.items(), strict=True):
        for name, values in measurements.items():
            bits, error = values[:, 0].mean(), np.median(values[:, 1])
            if bits > 5:
                continue
            family = (
                "trellis"
                if "trellis" in name
                else "scalar (gptq)"
                if name in SCALAR
                else "binary and ternary"
            )
            style = {
                "trellis": ("C2", "o"),
                "scalar (gptq)": ("C0", "s"),
                "binary and ternary": ("C1", "^"),
            }[family]
            axis.plot(bits, error, style[1], color=style[0])
            axis.annotate(
                name, (bits, error), xytext=(5, 3), textcoords="offset points", fontsize=8
            )
        x = np.linspace(0.9, 4.5, 50)
        if title.startswith("Gaussian"):
            axis.plot(x, 4.0**-x, "k--", lw=1)
            axis.annotate(
                "no code can do better",
                (1.5, 4.0**-1.5),
                xytext=(-52, -44),
                textcoords="offset points",
                fontsize=8,
            )
        axis.set(title=title, xlabel="stored bits per weight", xlim=(0.9, 4.5), yscale="log")
    axes[0].set_ylabel("error relative to the weights")
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket_llava")
    parser.add_argument("--tiers", nargs="*", default=[])
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    out = Console(highlight=False, width=100)
    tiers = [name for name in TIERS if name not in LEFT_OUT]
    if arguments.tiers:
        tiers = list(dict.fromkeys((*arguments.tiers, *SCALAR)))
    parts = {
        "Gaussian weights": gaussian(tiers),
        f"{arguments.model}, median linear": of_model(arguments.model, tiers),
    }
    for title, measurements in parts.items():
        n = len(next(iter(measurements.values())))
        out.print(table(f"{title}, n = {n}", measurements))
    if arguments.figure:
        draw(parts, arguments.figure)


if __name__ == "__main__":
    main()
