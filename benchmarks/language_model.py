"""Tiers on a real language model: stored bits, perplexity and CPU seconds, paired by window.

`python benchmarks/language_model.py --calibration valid.txt --text test.txt
[--model FOLDER] [--tiers trellis2 gptq2:group_size=64 ...] [--propagation exact]`.

Without `--model` it is SmolLM2-135M-Instruct, made of its installed package (see `smollm2.py`).
Texts are files such as WikiText-2's raw validation and test texts, which are detokenized as lm-eval
does. All linears of the decoder are packed; embeddings and norms stay in 16 bit, unless a setting
gives embeddings a tier. Stored bits are of the decoder's linears, MB of all that is stored.
Perplexity is over the first windows of the text; a ratio is to the 16-bit model's on the same
windows, with its 95 % interval over windows. CPU seconds are of calibration and quantization, of
all threads.

`--compute bfloat16` calibrates with products in bf16; the text is read in the model's own type.

Named tiers may get other parameters, as in `gptq2:group_size=64,descent=2`. Other settings of the
quantizer stand after a `+`, as in `gptq2:group_size=64+refine.steps=50+embeddings=gptq4`.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import yaml
from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from smollm2 import packaged_file, write_folder

from luq.allocation.allocations import Allocation
from luq.api.graph import GraphSettings, LoadedGraph, calibration_of
from luq.api.loaded import LoadedModel, load
from luq.config import CalibrationConfig, QuantizerConfig
from luq.config.building import build, plain
from luq.config.checks import COMPUTES
from luq.config.named_tiers import NAMED_TIERS
from luq.evaluation.artefacts import Packed, installed
from luq.evaluation.measures import perplexity, perplexity_ratio
from luq.evaluation.perplexity import text_losses, text_tokens
from luq.formats.artefacts import Rest
from luq.formats.sizes import rest_ledger
from luq.quantization.artefacts import end_walk
from luq.questions.text import text_source

TIERS = ("gptq4:group_size=64", "gptq3:group_size=64", "gptq2:group_size=64")
TIERS += ("trellis4", "trellis3", "trellis2")


@dataclass(frozen=True)
class Contestant:
    """One tier in all layers, under one propagation."""

    label: str
    quantizer: QuantizerConfig

    @staticmethod
    def of(label: str, propagation: str) -> "Contestant":
        """From what the command line says of it."""
        head, *settings = label.split("+")
        name, _, parameters = head.partition(":")
        tiers: dict[str, Any] = {key: plain(tier) for key, tier in NAMED_TIERS.items()}
        for parameter in filter(None, parameters.split(",")):
            key, _, value = parameter.partition("=")
            tiers[name][key] = yaml.safe_load(value)
        quantizer: dict[str, Any] = {"low": name, "high": name, "propagation": propagation}
        for setting in settings:
            key, _, value = setting.partition("=")
            *groups, last = key.split(".")
            target = quantizer
            for group in groups:
                target = target.setdefault(group, {})
            target[last] = yaml.safe_load(value)
        return Contestant(label, build(QuantizerConfig, quantizer | {"tiers": tiers}, "quantizer"))


@dataclass(frozen=True)
class Result:
    """What came of a contestant. `losses` are nats per token, window by window."""

    label: str
    stored_bits: float
    file_bytes: int
    cpu_seconds: float
    losses: list[float]


class Bench:
    """A model, what it is calibrated on, and the windows of text that it is measured on."""

    def __init__(self, model: LoadedModel, calibration: CalibrationConfig, windows: torch.Tensor):
        self.model = model
        self.calibration = calibration
        self.windows = windows

    def graph(self, quantizer: QuantizerConfig) -> LoadedGraph:
        """The artefacts under a quantizer's settings."""
        samples = calibration_of(self.model, self.calibration)
        return LoadedGraph(self.model, GraphSettings(quantizer), samples)

    def run(self, contestant: Contestant, bars: Progress) -> Result:
        """Quantize and measure."""
        graph = self.graph(contestant.quantizer)
        allocation = Allocation((contestant.quantizer.high,) * self.model.layers)
        packed = Packed(graph.layers(allocation), graph.parts(None))
        return self.measure(contestant.label, packed, graph.rest, bars)

    def measure(self, label: str, packed: Packed, float_rest: Rest, bars: Progress) -> Result:
        """Make what is packed, and read the text with it.

        Args:
            label: for people.
            packed: layers, and parts beside them.
            float_rest: what there is beside the layers in 16 bit.
            bars: show how far it is.
        """
        store = self.model.store
        begun = time.process_time()
        layers_bytes = 0
        weights = 0
        for layer in bars.track(packed.layers, description=label):
            size = store.get(layer).size()
            layers_bytes += size.bytes
            weights += size.weights
        end_walk(store.tools)
        parts = {part.part: store.get(part).size() for part in packed.parts}
        seconds = time.process_time() - begun
        rest_bytes = sum(rest_ledger(store.get(float_rest).ledger, parts).values())
        losses = text_losses(installed(self.model.checkpoint, packed, store.tools), self.windows)
        bits = 8 * layers_bytes / weights
        return Result(label, bits, layers_bytes + rest_bytes, seconds, losses)


def sixteen_bit(quantizer: QuantizerConfig) -> Contestant:
    """The model as it is."""
    plain_parts = replace(quantizer, embeddings=None, head=None)
    return Contestant("16 bit", replace(plain_parts, high="float16", low="float16"))


def detokenized(text: Path, folder: Path) -> Path:
    """The same text as a file in `folder`, detokenized."""
    file = folder / text.name
    content = wikitext_detokenizer({"page": text.read_text(encoding="utf-8")})
    file.write_text(content, encoding="utf-8")
    return file


def table_of(results: list[Result], reference: Result, length: int) -> Table:
    """The results beside the 16-bit model's."""
    table = Table(title=f"{len(reference.losses)} windows of {length} tokens")
    for column in ("tier", "stored bits", "MB", "perplexity", "ratio to 16 bit", "CPU s"):
        table.add_column(column, justify="left" if column == "tier" else "right")
    table.add_row(
        "16 bit",
        "16",
        f"{reference.file_bytes / 1e6:.1f}",
        f"{perplexity(reference.losses, length).value:.2f}",
        "1",
        "",
    )
    for result in results:
        ratio, low, high = perplexity_ratio(result.losses, reference.losses)
        table.add_row(
            result.label,
            f"{result.stored_bits:.3f}",
            f"{result.file_bytes / 1e6:.1f}",
            f"{perplexity(result.losses, length).value:.2f}",
            f"{ratio:.3f} ({low:.3f}..{high:.3f})",
            f"{result.cpu_seconds:.0f}",
        )
    return table


def parser_of_command(description: str, needs_texts: bool = True) -> argparse.ArgumentParser:
    """What this benchmark and those that are like it are told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--calibration", type=Path, required=needs_texts, help="a text file")
    parser.add_argument("--text", type=Path, required=needs_texts, help="a text to report on")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--tiers", nargs="+", default=TIERS)
    parser.add_argument("--propagation", default="exact", choices=("exact", "float"))
    parser.add_argument("--tokens", type=int, default=8192, help="of calibration")
    parser.add_argument("--compute", default="model", choices=COMPUTES)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="of windows and samples")
    parser.add_argument("--store", type=Path, help="keep what is made here")
    parser.add_argument("--json", type=Path, help="add a line for each result to this file")
    return parser


def bench_of(arguments: argparse.Namespace, folder: Path) -> Bench:
    """The model and the texts that a command line names.

    Args:
        arguments: as `parser_of_command` reads them.
        folder: for what only this run needs.
    """
    source = arguments.model or folder / "model"
    if arguments.model is None:
        write_folder(packaged_file(), source)
    calibration = CalibrationConfig(
        "text",
        alpha=0,
        tokens=arguments.tokens,
        sample_tokens=arguments.length,
        compute=arguments.compute,
        text=str(detokenized(arguments.calibration, folder)),
    )
    model = load(source, store=arguments.store or folder / "store")
    held_out = text_source(str(detokenized(arguments.text, folder)), "report")
    tokens = arguments.windows * arguments.length
    windows = text_tokens(model.processor.tokenizer, held_out, tokens, arguments.length)
    return Bench(model, calibration, windows)


def keep(result: Result, file: Path | None) -> None:
    """Add a result to a file, as a line of JSON."""
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(plain(result)) + "\n")


def main() -> None:
    arguments = parser_of_command(__doc__.split("\n")[0]).parse_args()
    console = Console(width=100)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name, Progress(console=console, transient=True) as bars:
        bench = bench_of(arguments, Path(name))
        contestants = [Contestant.of(label, arguments.propagation) for label in arguments.tiers]
        reference = bench.run(sixteen_bit(contestants[0].quantizer), bars)
        for contestant in contestants:
            results.append(bench.run(contestant, bars))
            keep(results[-1], arguments.json)
    console.print(table_of(results, reference, arguments.length))


if __name__ == "__main__":
    main()
