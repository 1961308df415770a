"""Stored bits of every tier on a decoder layer of true 7B shapes, and plans projected from them.

`python benchmarks/true_shapes.py [--model llava|qwen] [--tiers billm gptq4 ...] [--quick]`.

Weights and activations are random (no real checkpoint is needed for sizes): each linear is really
quantized and packed, the layer written, and the file measured. What stays 16-bit is counted from
the shapes. Scores are not projected. `--quick`: GPTQ without clip search and descent, trellis codes
with a window of 8 bits, which store as many bytes and are worse.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

from luq.config import GptqTier, QuantizerConfig, TierConfig, TrellisTier
from luq.config.building import build
from luq.formats.layer_file import LayerSize, layer_size, write_layer
from luq.quantization.methods import make_quantizer

CONF = Path(__file__).parent.parent / "conf"
# Name, hidden, width of k and v, intermediate, layers, the paper's k, and the 16-bit parameters
# beside the decoder's linears.
MODELS = {
    "llava": ("LLaVA-1.5-7B", 4096, 4096, 11008, 32, 16, 587_000_000),
    "qwen": ("Qwen2.5-VL-7B", 3584, 512, 18944, 28, 12, 1_766_000_000),
}
LUQ = (
    ("billm_faithful", "gptq4"),
    ("billm", "gptq4"),
    ("gptq2", "gptq4"),
    ("trellis2", "trellis4"),
    ("trellis2", "trellis3"),
    ("trellis1", "trellis3"),
)
# Activations behind each Hessian: fewer than columns, as damping has to cope with on real layers.
TOKENS = 512
DEFAULT_TIERS = [
    "billm_faithful",
    "billm",
    "arb_rc",
    "ternary",
    "gptq2",
    "gptq3",
    "gptq4",
    "trellis1",
    "trellis2",
    "trellis3",
    "trellis4",
]


def shapes(hidden: int, narrow: int, wide: int) -> dict[str, tuple[int, int]]:
    """[out, in] of the seven linears."""
    attention = {f"self_attn.{n}_proj": (hidden if n in "qo" else narrow, hidden) for n in "qkvo"}
    return attention | {
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }


def measure(
    linears: dict[str, tuple[int, int]], tier: TierConfig, folder: Path
) -> tuple[LayerSize, float]:
    """The size of one layer's file in a tier, and the seconds that its seven linears took."""
    quantizer = make_quantizer(tier)
    packed = {}
    seconds = 0.0
    generator = torch.Generator().manual_seed(0)
    for name, (rows, columns) in linears.items():
        weight = torch.randn(rows, columns, generator=generator) * 0.02
        inputs = torch.randn(TOKENS, columns, generator=generator) * torch.logspace(0, -1, columns)
        hessian = None if tier.data_free else 2 * inputs.T @ inputs / TOKENS
        begun = time.perf_counter()
        packed[name] = quantizer.quantize(weight, hessian)
        seconds += time.perf_counter() - begun
        del weight, hessian
    write_layer(folder, packed)
    return layer_size(folder, packed), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="llava")
    parser.add_argument(
        "--tiers",
        nargs="+",
        default=DEFAULT_TIERS,
    )
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    out = Console(highlight=False, width=120)
    name, hidden, narrow, wide, layers, k, rest_weights = MODELS[arguments.model]
    settings = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
    tiers = build(QuantizerConfig, settings, "quantizer").tiers
    layer_sizes: dict[str, LayerSize] = {}
    sizes = Table(title=f"{name}: one decoder layer", title_justify="left")
    for column in ("tier", "nominal bits", "stored bits", "MB", "seconds"):
        sizes.add_column(column, justify="left" if column == "tier" else "right")
    for tier in arguments.tiers:
        config = tiers[tier]
        if arguments.quick and isinstance(config, GptqTier):
            config = replace(config, clip_steps=0, descent=0)
        if arguments.quick and isinstance(config, TrellisTier):
            config = replace(config, window=8)
        with tempfile.TemporaryDirectory() as folder:
            size, seconds = measure(shapes(hidden, narrow, wide), config, Path(folder))
        layer_sizes[tier] = size
        bits = 8 * size.bytes / size.weights
        out.print(f"{tier}: {bits:.3f} stored bits, {seconds:.0f} s")
        sizes.add_row(
            tier,
            f"{size.nominal_bits:.2f}",
            f"{bits:.3f}",
            f"{size.bytes / 1e6:.1f}",
            f"{seconds:.0f}",
        )
    out.print(sizes)
    if "gptq4" not in layer_sizes:
        return
    plans = {tier: {tier: layers} for tier in layer_sizes} | {
        f"LUQ, k = {k}, {low} and {high}": {low: k, high: layers - k} for low, high in LUQ
    }
    model_table = Table(
        title=f"{name}: {layers} layers, {2 * rest_weights / 1e9:.2f} GB beside them stay 16-bit",
        title_justify="left",
    )
    for column in (
        "plan",
        "nominal bits",
        "stored bits",
        "linears GB",
        "vs 4-bit %",
        "checkpoint GB",
        "vs 4-bit %",
    ):
        model_table.add_column(column, justify="left" if column == "plan" else "right")
    base = layers * layer_sizes["gptq4"].bytes
    for plan, parts in plans.items():
        if not parts.keys() <= layer_sizes.keys():
            continue
        stored = sum(n * layer_sizes[t].bytes for t, n in parts.items())
        nominal = sum(n * layer_sizes[t].nominal_bits for t, n in parts.items()) / layers
        bits = 8 * stored / (layers * layer_sizes["gptq4"].weights)
        rest_bytes = 2 * rest_weights  # in 16 bit
        linears = 100 * (stored / base - 1)
        file = 100 * ((stored + rest_bytes) / (base + rest_bytes) - 1)
        cells = [f"{nominal:.2f}", f"{bits:.3f}", f"{stored / 1e9:.2f}", f"{linears:+.1f}"]
        cells += [f"{(stored + rest_bytes) / 1e9:.2f}", f"{file:+.1f}"]
        model_table.add_row(plan, *cells)
    out.print(model_table)


if __name__ == "__main__":
    main()
