"""What rounding activations to 8 bits changes in a pocket model's answers.

`python benchmarks/eight_bits.py [--model pocket_wide] [--tiers gptq4 gptq2 ternary ...]`: every
decoder linear in one tier (nearest codes, or trellis codes without a Hessian), and windows of the
pocket's report text. KL(exact || rounded) of the next token's distribution in nats, its mean with
the standard error over windows, and the share of tokens whose likeliest successor is the same.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from luq.config import ModelConfig, RtnTier
from luq.config.named_tiers import NAMED_TIERS
from luq.evaluation.perplexity import text_tokens
from luq.formats.linear import PackedLinear, round_activations
from luq.models.decoder import linears_of
from luq.models.vlm import VLM, load_vlm
from luq.quantization.methods import make_quantizer
from luq.questions.text import text_source

TOKENS = 2048
WINDOW = 128


def pack(vlm: VLM, name: str) -> None:
    """Put every decoder linear in a tier."""
    tier = NAMED_TIERS[name]
    if tier.method == "gptq":
        tier = RtnTier(bits=tier.bits, group_size=tier.group_size)
    quantizer = make_quantizer(tier)
    for layer in vlm.layers:
        for path, linear in linears_of(layer).items():
            weight = linear.weight.detach().float()
            packed = quantizer.quantize(weight, torch.eye(weight.shape[1]))
            parent, _dot, attribute = path.rpartition(".")
            holder: nn.Module = layer.get_submodule(parent)
            setattr(holder, attribute, PackedLinear(packed, name, linear.bias))


@torch.no_grad()
def distributions(vlm: VLM, windows: Tensor) -> Tensor:
    """Logarithms of the next token's probabilities, [windows, tokens, vocabulary]."""
    return torch.cat([vlm.model(input_ids=ids[None]).logits.log_softmax(-1) for ids in windows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="pocket_wide")
    tiers = ("gptq8", "gptq4", "gptq3", "gptq2", "ternary", "trellis2")
    parser.add_argument("--tiers", nargs="+", default=tiers, choices=NAMED_TIERS, metavar="TIER")
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.model}, {TOKENS} tokens in windows of {WINDOW}")
    for column in ("tier", "KL, nats", "same likeliest token"):
        table.add_column(column)
    for name in arguments.tiers:
        model = ModelConfig(arguments.model, f"pocket:{arguments.model}", device="cpu")
        vlm = load_vlm(model)
        vlm.restore()
        text = text_source("pocket", "report")
        windows = text_tokens(vlm.processor.tokenizer, text, TOKENS, WINDOW)
        pack(vlm, name)
        exact = distributions(vlm, windows)
        round_activations(vlm.model)
        rounded = distributions(vlm, windows)
        divergence = (exact.exp() * (exact - rounded)).sum(-1).mean(1)
        error = divergence.std() / len(divergence) ** 0.5
        same = (exact.argmax(-1) == rounded.argmax(-1)).float().mean()
        table.add_row(name, f"{divergence.mean():.2e} +- {error:.0e}", f"{100 * same:.1f} %")
    Console(width=100, highlight=False).print(table)


if __name__ == "__main__":
    main()
