"""Tokens per second in llama.cpp and in transformers, side by side in one run.

`python benchmarks/llama_cpp_speed.py [--pocket NAME] [--low K] [--rounds 7] [--threads N]`; needs
llama-cpp-python. Without --pocket the model is a random Llama of 0.4 billion weights.

Contestants: the 16-bit model in both; LUQ's formats of 4 and 2 bits in groups of 128, and trellis
codes of 2 bits, in transformers, each exact and with inputs rounded to 8 bits; the 16-bit file that
llama.cpp's own quantizer makes Q4_K_M; LUQ's files with `q4_k` in all layers, and with `iq1_m` in
the first K. Codes are nearest or random ones: speed does not depend on them. Each round reads a
prompt of 128 tokens and then writes 32, one after the other; rounds alternate between the
contestants. Shown are medians, sizes of the weight files, and the ratio of written tokens to
Q4_K_M's with the 10th and 90th percentile of the rounds.
"""

import argparse
import ctypes
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import llama_cpp
import numpy as np
import packed_products
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import luq
from luq.allocation.allocations import Allocation
from luq.config import Float16Tier
from luq.export import folder as hf_folder
from luq.export.about import MODEL
from luq.export.checksums import weight_bytes
from luq.export.folder import PackedModel
from luq.export.gguf import folder as gguf_folder
from luq.formats.base import PackedWeight
from luq.formats.gguf import KINDS
from luq.formats.layer_file import write_layer
from luq.formats.linear import round_activations
from luq.models.decoder import linears_of
from luq.models.settings_files import read_config
from luq.models.settings_files import sees_images as sees
from luq.pocket.shipped import WEIGHTS
from luq.quantization.gguf_grids import nearest
from luq.quantization.methods import make_quantizer

PROMPT = 128  # tokens
WRITTEN = 32
VOCABULARY = 2048  # pieces of the pocket tokenizer, which the random model borrows
TIERS = ("gptq4", "gptq2", "trellis2")  # in transformers, with random codes
Coder = Callable[[Tensor], PackedWeight]


@dataclass
class Contestant:
    """Reads a prompt and writes tokens; seconds of each, by round."""

    name: str
    bytes: int
    read: Callable[[list[int]], None]
    write: Callable[[int], None]
    reading: list[float] = field(default_factory=list)
    writing: list[float] = field(default_factory=list)

    def round(self, prompt: list[int], counts: bool) -> None:
        """One round; the first is not counted."""
        begun = time.perf_counter()
        self.read(prompt)
        read = time.perf_counter()
        self.write(WRITTEN)
        written = time.perf_counter()
        if counts:
            self.reading.append(read - begun)
            self.writing.append(written - read)


class InTransformers:
    """A folder as a user loads it."""

    def __init__(self, folder: Path, dtype: torch.dtype, sees_images: bool) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        kind: Any = AutoModelForImageTextToText if sees_images else AutoModelForCausalLM
        self.model = kind.from_pretrained(folder, dtype=dtype).eval()
        self.given: dict[str, Any] = {}

    @torch.no_grad()
    def read(self, prompt: list[int]) -> None:
        """Read a prompt."""
        output = self.model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        self.given = {"past_key_values": output.past_key_values}
        self.last = output.logits[:, -1].argmax(-1, keepdim=True)

    @torch.no_grad()
    def write(self, count: int) -> None:
        """Write tokens, the likeliest each time."""
        for _ in range(count):
            output = self.model(input_ids=self.last, use_cache=True, **self.given)
            self.given = {"past_key_values": output.past_key_values}
            self.last = output.logits[:, -1].argmax(-1, keepdim=True)


class InLlamaCpp:
    """A GGUF file."""

    def __init__(self, file: Path, threads: int) -> None:
        self.model = llama_cpp.Llama(
            str(file), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def read(self, prompt: list[int]) -> None:
        """Read a prompt."""
        self.model.reset()
        self.model.eval(prompt)

    def write(self, count: int) -> None:
        """Write tokens, the likeliest each time."""
        for _ in range(count):
            self.model.eval([self.model.sample(temp=0.0)])


def random_llama(folder: Path) -> Path:
    """A Llama with 411 million random weights in its layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=8,
        num_attention_heads=16,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).half().save_pretrained(folder)
    for file in (WEIGHTS / "pocket_llava").glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def coder_of(tier: str) -> Coder:
    """What packs a weight in a tier without any data."""
    if tier in KINDS:
        return lambda weight: nearest(KINDS[tier], weight, 0)
    if tier in TIERS:
        return lambda weight: packed_products.packed(tier, *weight.shape)
    quantizer = make_quantizer(Float16Tier())
    return lambda weight: quantizer.quantize(weight, None)


def packed(source: Path, layers: nn.ModuleList, tiers: list[str], scratch: Path) -> PackedModel:
    """A model with a tier for each layer; every layer gets the codes of the first."""
    for tier in dict.fromkeys(tiers):
        folder = scratch / tier
        if not folder.exists():
            folder.mkdir()
            coder = coder_of(tier)
            linears = linears_of(layers[0])
            write_layer(folder, {n: coder(m.weight.float()) for n, m in linears.items()})
    folders = [scratch / tier for tier in tiers]
    return PackedModel(source, folders, Allocation(tuple(tiers)))


def requantized(file: Path, target: Path) -> Path:
    """A file as llama.cpp's own quantizer makes it in Q4_K_M."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    paths = str(file).encode(), str(target).encode()
    if llama_cpp.llama_model_quantize(*paths, ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp does not quantize {file}")
    return target


def contestants(source: Path, low: int, threads: int, scratch: Path) -> list[Contestant]:
    """All of them, loaded."""
    layers = luq.load(str(source)).vlm.layers
    n = len(layers)
    sees_images = sees(read_config(source))
    loaded: list[Contestant] = []

    def add(name: str, size: int, runner: InTransformers | InLlamaCpp) -> None:
        loaded.append(Contestant(name, size, runner.read, runner.write))

    def add_gguf(name: str, file: Path) -> None:
        add(f"llama.cpp: {name}", file.stat().st_size, InLlamaCpp(file, threads))

    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        runner = InTransformers(source, dtype, sees_images)
        add(f"transformers: 16 bit, computed in {kind}", weight_bytes(source), runner)
    for tier in TIERS:
        target = scratch / f"hf-{tier}"
        folder = hf_folder.export(packed(source, layers, [tier] * n, scratch), target)
        for is_rounded in (False, True):
            runner = InTransformers(folder, torch.float32, sees_images)
            round_activations(runner.model, is_rounded)
            inputs = "inputs in 8 bits" if is_rounded else "exact"
            add(f"transformers: LUQ, {tier}, {inputs}", weight_bytes(folder), runner)

    plain = gguf_folder.export(packed(source, layers, ["float16"] * n, scratch), scratch / "plain")
    add_gguf("16 bit", plain / MODEL)
    add_gguf("Q4_K_M, its own", requantized(plain / MODEL, scratch / "q4_k_m.gguf"))
    plans = {
        "LUQ, q4_k": ["q4_k"] * n,
        f"LUQ, iq1_m in {low} of {n}, q4_k": ["iq1_m"] * low + ["q4_k"] * (n - low),
    }
    for name, tiers in plans.items():
        target = scratch / f"gguf{len(loaded)}"
        add_gguf(name, gguf_folder.export(packed(source, layers, tiers, scratch), target) / MODEL)
    return loaded


def table_of(loaded: list[Contestant], title: str) -> Table:
    """Medians, and the ratio of writing to Q4_K_M's."""
    table = Table(title=title, title_justify="left")
    for column in ("", "MB", "tokens/s, read", "tokens/s, written", "against Q4_K_M"):
        table.add_column(column, justify="right" if column else "left")
    (base,) = (each for each in loaded if "Q4_K_M" in each.name)
    for each in loaded:
        ratios = np.array(base.writing) / np.array(each.writing)
        low, middle, high = np.percentile(ratios, (10, 50, 90))
        table.add_row(
            each.name,
            f"{each.bytes / 1e6:.1f}",
            f"{PROMPT / np.median(each.reading):.0f}",
            f"{WRITTEN / np.median(each.writing):.1f}",
            f"{middle:.2f} [{low:.2f}, {high:.2f}]",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pocket", metavar="NAME", help="a pocket model, not a random one")
    parser.add_argument("--low", type=int, default=3, help="layers in iq1_m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        shipped = WEIGHTS / (arguments.pocket or "")
        source = shipped if arguments.pocket else random_llama(scratch / "model")
        loaded = contestants(source, arguments.low, arguments.threads, scratch)
        generator = torch.Generator().manual_seed(0)
        for number in range(arguments.rounds + 1):
            prompt = torch.randint(300, VOCABULARY, (PROMPT,), generator=generator).tolist()
            for each in loaded:
                each.round(prompt, counts=number > 0)
        model = arguments.pocket or "random Llama"
        title = f"{model}, {arguments.threads} threads, n={arguments.rounds}"
        Console(highlight=False, width=110).print(table_of(loaded, title))


if __name__ == "__main__":
    main()
