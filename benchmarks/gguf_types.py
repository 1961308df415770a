"""LUQ's codes on llama.cpp's block types beside llama.cpp's own, on real Hessians.

`python benchmarks/gguf_types.py --calibration valid.txt --text test.txt [--model FOLDER]
[--types q2_k q3_k ...] [--beside trellis2 ...] [--linears mlp.down_proj] [--layers 0 4 8 ...]
[--ggml LIBRARY]`: a language model, its text.
`python benchmarks/gguf_types.py --pocket pocket_wide --linears all ...`: a pocket model, calibrated
as a run calibrates it; errors are of other questions, perplexity is of text that is held out.

The named linears of the decoder layers (all, or those that `--layers` names) are packed, all others
stay in 16 bit, and Hessians are those of the 16-bit model's inputs. `feedback`: the tier; so are
those that `--beside` names. `nearest`: the same search of a block's numbers, weighed by the
Hessian's diagonal, and nearest codes. `ggml`: `ggml_quantize_chunk` of the shared library that
`--ggml` names (a build of llama.cpp's `ggml-base`), with the Hessian's diagonal as the importance
matrix. Error: tr(E H E^T) / tr(W H W^T) with the Hessian of what is reported on, geometric mean
over linears; its ratio to the feedback's with the 95 % interval over them. Perplexity as in
`language_model.py`, and its ratio to the feedback's on the same windows. CPU seconds are of the
quantizers alone, of one thread or as many as torch has.
"""

import argparse
import ctypes
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from language_model import bench_of, parser_of_command
from pocket_calibration import pocket_samples
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from luq.api.graph import calibration_of
from luq.calibration.artefacts import samples_of
from luq.calibration.samples import CalibrationSet, Sample
from luq.config import CalibrationConfig, GgufTier, ModelConfig
from luq.config.named_tiers import NAMED_TIERS
from luq.evaluation.measures import bootstrap, perplexity, perplexity_ratio
from luq.evaluation.perplexity import text_losses, text_tokens
from luq.formats.gguf import KINDS
from luq.formats.gguf_codebooks import CodebookType
from luq.models.decoder import linears_of
from luq.models.vlm import VLM, load_vlm, loaded
from luq.quantization.block_grid import fit
from luq.quantization.codebook_grid import fit_codebook
from luq.quantization.layer import hessians
from luq.quantization.methods import make_quantizer
from luq.quantization.states import first_inputs, pass_through
from luq.questions.text import text_source

TYPES = ("q2_k", "q3_k", "q4_k", "q4_0", "iq4_nl", "q6_k")
FEEDBACK = "feedback"
SEARCH_STEPS = 20  # of nearest codes
CODEBOOK_STEPS = 5  # of nearest points: more find nothing
POCKET_TOKENS = 16384  # of the text that a pocket model reads, as a run has it
POCKET_LENGTH = 128  # of its windows
# Weight [out, in] and Hessian [in, in] -> what is stored means.
Quantizer = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Contender:
    """A way to make one type, and what came of it, layer by layer."""

    kind: str
    way: str
    quantize: Quantizer
    errors: list[float] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)  # fp16, by layer
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def add(self, weight: Tensor, hessian: Tensor, held_out: Tensor) -> None:
        """One layer's linear."""
        begun = time.process_time()
        values = self.quantize(weight, hessian)
        self.seconds += time.process_time() - begun
        difference = values - weight
        error = ((difference @ held_out) * difference).sum()
        self.errors.append(float(error / ((weight @ held_out) * weight).sum()))
        self.weights.append(values.half())


def bits_of(kind: str) -> float:
    """Bits per weight of a type, or of a tier that is none; without what a tier stores per row."""
    return KINDS[kind].stored_bits if kind in KINDS else NAMED_TIERS[kind].least_bits


def by_feedback(kind: str) -> Quantizer:
    """The tier, as a run has it."""
    quantizer = make_quantizer(GgufTier(kind) if kind in KINDS else NAMED_TIERS[kind])
    return lambda weight, hessian: quantizer.quantize(weight, hessian).dequantize()


def by_nearest(kind: str) -> Quantizer:
    """The search alone."""
    blocks = KINDS[kind]

    def quantize(weight: Tensor, hessian: Tensor) -> Tensor:
        importance = torch.diagonal(hessian)
        group = torch.arange(weight.shape[1]) // blocks.group
        if isinstance(blocks, CodebookType):
            points = fit_codebook(blocks, weight, importance, CODEBOOK_STEPS)
            return points.decode(points.nearest(weight, importance, group), group)
        grid = fit(blocks, weight, importance, SEARCH_STEPS)
        return grid.decode(grid.encode(weight, group), group)

    return quantize


def by_ggml(kind: str, library: ctypes.CDLL) -> Quantizer:
    """llama.cpp's quantizer with an importance matrix."""
    number = GGMLQuantizationType[kind.upper()]
    blocks = KINDS[kind]

    def quantize(weight: Tensor, hessian: Tensor) -> Tensor:
        values = np.ascontiguousarray(weight.numpy())
        importance = np.ascontiguousarray(torch.diagonal(hessian).numpy())
        rows, columns = values.shape
        stored = np.empty((rows, columns // blocks.weights * blocks.bytes), np.uint8)
        pointers = values.ctypes.data, stored.ctypes.data, importance.ctypes.data
        source, target, weights = (ctypes.c_void_p(pointer) for pointer in pointers)
        size = [ctypes.c_int64(count) for count in (0, rows, columns)]
        library.ggml_quantize_chunk(ctypes.c_int(number), source, target, *size, weights)
        return torch.from_numpy(quants.dequantize(stored, number))

    return quantize


def contenders_of(types: list[str], tiers: list[str], ggml: Path | None) -> list[Contender]:
    """All ways to make each type, and tiers beside them."""
    library = None if ggml is None else ctypes.CDLL(str(ggml))
    contenders: list[Contender] = []
    for kind in types:
        contenders.append(Contender(kind, FEEDBACK, by_feedback(kind)))
        contenders.append(Contender(kind, "nearest", by_nearest(kind)))
        if library is not None:
            contenders.append(Contender(kind, "ggml", by_ggml(kind, library)))
    contenders += [Contender(name, FEEDBACK, by_feedback(name)) for name in tiers]
    return contenders


class Scene(NamedTuple):
    """A model, what it is calibrated on, what errors are of, and windows of text."""

    vlm: VLM
    calibrated: CalibrationSet
    reported: CalibrationSet
    windows: Tensor
    layers: list[int]  # whose linears are packed


def all_layers(vlm: VLM) -> list[int]:
    return list(range(len(vlm.layers)))


def scene_of_texts(arguments: argparse.Namespace, folder: Path) -> Scene:
    """A language model; errors are of the windows. `folder` is for what only this run needs."""
    bench = bench_of(arguments, folder)
    tools = bench.model.store.tools
    samples = samples_of(calibration_of(bench.model, bench.calibration), tools)
    windows: list[Sample] = []
    for place, ids in enumerate(bench.windows):
        windows.append(Sample(f"window {place}", ids, torch.zeros(len(ids), dtype=torch.bool)))
    vlm = loaded(tools, bench.model.checkpoint)
    return Scene(vlm, samples, CalibrationSet.of(windows), bench.windows, all_layers(vlm))


def scene_of_pocket(name: str, length: int) -> Scene:
    """A pocket model; errors are of questions that are drawn with another seed."""
    vlm = load_vlm(ModelConfig(name, f"pocket:{name}", device="cpu"))
    usual = CalibrationConfig("multimodal", alpha=0.5)
    calibrated = pocket_samples(vlm, usual)
    reported = pocket_samples(vlm, replace(usual, alpha=1.0, seed=1))
    text = text_source("pocket", "report")
    windows = text_tokens(vlm.processor.tokenizer, text, POCKET_TOKENS, length)
    return Scene(vlm, calibrated, reported, windows, all_layers(vlm))


@torch.no_grad()
def quantize_all(
    scene: Scene, linears: list[str], contenders: list[Contender], bars: Progress
) -> None:
    """Give every contender those linears of every layer."""
    calibrated = first_inputs(scene.vlm, scene.calibrated)
    reported = first_inputs(scene.vlm, scene.reported)
    groups = tuple((linear,) for linear in linears)
    layers = list(scene.vlm.layers)[: max(scene.layers) + 1]
    for index, layer in enumerate(bars.track(layers, description="quantize")):
        if index in scene.layers:
            of_calibrated = hessians(layer, calibrated, groups)
            of_reported = hessians(layer, reported, groups)
            for linear in linears:
                weight = layer.get_submodule(linear).weight.detach().float()
                for contender in contenders:
                    contender.add(weight, of_calibrated[linear], of_reported[linear])
        pass_through(layer, calibrated)
        pass_through(layer, reported)


@torch.no_grad()
def losses_with(scene: Scene, linears: list[str], weights: list[Tensor]) -> list[float]:
    """Losses of the text with other weights in the layers that are packed."""
    modules: list[nn.Linear] = []
    for index in sorted(scene.layers):
        layer = scene.vlm.layers[index]
        modules += [layer.get_submodule(linear) for linear in linears]
    originals = [module.weight.detach().clone() for module in modules]
    for module, weight in zip(modules, weights, strict=True):
        module.weight.copy_(weight)
    losses = text_losses(scene.vlm, scene.windows)
    for module, original in zip(modules, originals, strict=True):
        module.weight.copy_(original)
    return losses


def table_of(contenders: list[Contender], reference: list[float], length: int) -> Table:
    """All results; each is compared with the feedback's of its type."""
    title = f"{len(contenders[0].errors)} linears, {len(reference)} windows of {length} tokens"
    title += f"; 16 bit {perplexity(reference, length).value:.2f}"
    table = Table(title=title)
    for column in ("type", "bits", "way", "error", "ratio", "perplexity", "ratio", "CPU s"):
        is_text = column in ("type", "way")
        table.add_column(column, justify="left" if is_text else "right")
    first = {each.kind: each for each in contenders if each.way == FEEDBACK}
    for each in contenders:
        best = first[each.kind]
        logs = [math.log(a / b) for a, b in zip(each.errors, best.errors, strict=True)]
        error = math.exp(sum(math.log(a) for a in each.errors) / len(each.errors))
        ratios = ["", ""]
        if each is not best:
            error_ratio = [math.exp(number) for number in bootstrap(logs)]
            ratio = perplexity_ratio(each.losses, best.losses)
            ratios = [f"{a:.3f} ({b:.3f}..{c:.3f})" for a, b, c in (error_ratio, ratio)]
        table.add_row(
            each.kind,
            f"{bits_of(each.kind):.3f}",
            each.way,
            f"{error:.5f}",
            ratios[0],
            f"{perplexity(each.losses, length).value:.2f}",
            ratios[1],
            f"{each.seconds:.0f}",
        )
    return table


def parser() -> argparse.ArgumentParser:
    """What `language_model.py` is told, types in place of tiers, and a library."""
    parser = parser_of_command(__doc__.split("\n")[0], needs_texts=False)
    parser.add_argument("--pocket", metavar="NAME", help="a pocket model, in place of texts")
    parser.add_argument("--types", nargs="+", default=TYPES, choices=KINDS)
    parser.add_argument("--beside", nargs="+", default=[], choices=NAMED_TIERS, metavar="TIER")
    parser.add_argument("--layers", nargs="+", type=int, help="which ones; all without it")
    parser.add_argument(
        "--linears", nargs="+", default=["mlp.down_proj"], help="names in a decoder layer, or all"
    )
    parser.add_argument("--ggml", type=Path, help="a shared library of llama.cpp's ggml-base")
    return parser


def main() -> None:
    command = parser()
    arguments = command.parse_args()
    if arguments.pocket is None and None in (arguments.calibration, arguments.text):
        command.error("give --calibration and --text, or --pocket")
    console = Console(width=100)
    contenders = contenders_of(arguments.types, arguments.beside, arguments.ggml)
    with tempfile.TemporaryDirectory() as name, Progress(console=console, transient=True) as bars:
        if arguments.pocket is None:
            scene = scene_of_texts(arguments, Path(name))
        else:
            scene = scene_of_pocket(arguments.pocket, POCKET_LENGTH)
        if arguments.layers is not None:
            scene = scene._replace(layers=arguments.layers)
        scene.vlm.restore()
        linears = arguments.linears
        if linears == ["all"]:
            linears = list(linears_of(scene.vlm.layers[0]))
        quantize_all(scene, linears, contenders, bars)
        reference = text_losses(scene.vlm, scene.windows)
        for each in bars.track(contenders, description="perplexity"):
            each.losses = losses_with(scene, linears, each.weights)
    console.print(table_of(contenders, reference, scene.windows.shape[1]))


if __name__ == "__main__":
    main()
