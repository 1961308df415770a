"""LUQ's tiers and other quantizers on the same weights, calibration tokens and text.

`python benchmarks/peers.py RESULTS.jsonl --model FOLDER --calibration valid.txt --text test.txt
[--gguf FILE] [--gptq FOLDER] [--billm FOLDER] [--only ROW ...] [--linears down_proj]`, then
`... --show`, `--markdown` and `--figure FILE.png` for what the file holds.

FOLDER is a language model as `smollm2.py` or `gemma3.py` writes it; the texts are files such as
WikiText-2's raw validation and test texts, which are detokenized as lm-eval does. Each row is
measured in a process of its own and added to RESULTS.jsonl when it is done: the same command goes
on where it was stopped. Peers are packages that are installed (llama-cpp-python, auto-round, hqq)
or folders with published code (the repositories IST-DASLab/gptq and Aaronhuang-778/BiLLM); those
that are missing are left out with a sentence.

All rows are calibrated on the same tokens. A peer's weights are dequantized into the same model in
torch, and every model is scored by the same code: perplexity of the first windows of the text, its
ratio to the 16-bit model's, and the KL divergence from the 16-bit model's prediction of each next
token, with 95 % intervals over windows. Stored bits are of the decoder's packed linears, with
scales, zero points and masks; the rest stays in 16 bit. CPU seconds are of calibration and
quantization in all threads, GB the largest memory of the process up to there. llama.cpp quantizes
--gguf, a file of the same weights, as llama-quantize does, with the types that it falls back to.
`--linears` packs those alone, the others stay in 16 bit: then all rows can be in their own types.
"""

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer
from peer_methods import (
    GROUP,
    AutoRound,
    BillmReference,
    GptqReference,
    Hqq,
    LlamaCpp,
    Made,
    Peer,
    Subject,
)
from peer_results import (
    FLOAT,
    Result,
    Scene,
    draw,
    keep,
    markdown_of,
    measured_elsewhere,
    of_scene,
    results_of,
    table_of,
)
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

import luq
from luq.allocation.allocations import Allocation
from luq.api.graph import FLOAT as UNPACKED
from luq.api.graph import calibration_of, quantizer_of
from luq.calibration.artefacts import samples_of
from luq.config import GptqTier, RefineConfig, TierConfig
from luq.config.named_tiers import NAMED_TIERS, named_tier
from luq.errors import ConfigError, DataError
from luq.models.decoder import linears_of
from luq.questions.text import Windows, start_tokens

LLAMA_CPP = ("IQ2_XXS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "Q2_K", "Q3_K_M", "Q4_K_M")
PLACES = 64  # of a window whose logits are in memory at once
OURS = "LUQ"


@dataclass(frozen=True)
class Float:
    """The model as it is."""

    def missing(self) -> str:
        return ""

    def quantize(self, subject: Subject) -> Made:
        return Made(sum(2 * each.weight.numel() for each in subject.all_linears().values()))


@dataclass(frozen=True)
class Tier:
    """One of LUQ's tiers."""

    tier: TierConfig
    fit: bool = False  # to what the packed linears before give

    def missing(self) -> str:
        return ""

    def plan(self, subject: Subject) -> luq.Plan:
        """That tier for every linear that is packed."""
        name, tier = named_tier(self.tier)
        layers: list[dict[str, str]] = []
        for layer in subject.model.vlm.layers:
            names = linears_of(layer)
            layers.append({each: name if each in subject.chosen else UNPACKED for each in names})
        quantizer = quantizer_of(UNPACKED, tier)
        return luq.Plan(Allocation.of_linears(layers), quantizer)

    def quantize(self, subject: Subject) -> Made:
        vlm = subject.model.vlm
        unpacked_bytes = 0
        for layer in vlm.layers:
            for name, module in linears_of(layer).items():
                if name not in subject.chosen:
                    unpacked_bytes += 2 * module.weight.numel()
        samples = [{"text": text} for text in subject.texts]
        plan = self.plan(subject)
        packed = luq.quantize(subject.model, plan, samples, refine=RefineConfig(fit=self.fit))
        stored_bytes = packed.memory().stored_bytes - unpacked_bytes
        assert packed.model is vlm.model  # which now has the packed linears
        return Made(stored_bytes)


@dataclass(frozen=True)
class Mix(Tier):
    """The half of the layers with the least entropy in a lower tier, as in LUQ's paper."""

    low: TierConfig = NAMED_TIERS["billm"]

    def plan(self, subject: Subject) -> luq.Plan:
        profile = luq.profile(subject.model, [{"text": text} for text in subject.texts])
        return luq.plan(profile, k=subject.model.layers // 2, low=self.low, high=self.tier)


class Row(NamedTuple):
    """A row of the table."""

    family: str
    peer: Peer


def rows_of(arguments: argparse.Namespace) -> dict[str, Row]:
    """All rows, the most telling first."""
    rows = {FLOAT: Row(FLOAT, Float())}
    grids: dict[int, GptqTier] = {}
    for bits in (2, 3, 4):
        usual = NAMED_TIERS[f"gptq{bits}"]
        assert isinstance(usual, GptqTier)
        grids[bits] = replace(usual, group_size=GROUP)
    for bits in (2, 3, 4):
        trellis = NAMED_TIERS[f"trellis{bits}"]
        rows[f"trellis{bits} fitted"] = Row(OURS, Tier(trellis, fit=True))
        rows[f"trellis{bits}"] = Row(OURS, Tier(trellis))
        rows[f"gptq{bits}"] = Row(OURS, Tier(grids[bits]))
        rows[f"HQQ {bits}"] = Row("HQQ", Hqq(bits))
        published = GptqReference(arguments.gptq, bits)
        rows[f"GPTQ {bits}"] = Row("GPTQ, published", published)
    for kind in LLAMA_CPP:
        rows[f"llama.cpp {kind}"] = Row("llama.cpp", LlamaCpp(kind, arguments.gguf))
    if not arguments.linears:  # a mix gives tiers to whole layers
        rows["billm + gptq4"] = Row(OURS, Mix(grids[4]))
    rows["billm"] = Row(OURS, Tier(NAMED_TIERS["billm"]))
    rows["BiLLM"] = Row("BiLLM, published", BillmReference(arguments.billm))
    for bits in (2, 3, 4):
        rows[f"AutoRound W{bits}"] = Row("AutoRound", AutoRound(bits, arguments.steps))
    return rows


class Texts(NamedTuple):
    """What the model is calibrated on, and what it is scored on."""

    calibration: list[str]
    windows: Tensor  # [windows, length]


def content_of(file: Path) -> str:
    """A text, detokenized."""
    return str(wikitext_detokenizer({"page": file.read_text(encoding="utf-8")}))


def windows_of(tokenizer: object, content: str, count: int, length: int) -> Tensor:
    """The first windows [count, length] of a text, each begun as the tokenizer begins a text."""
    cutter = Windows(tokenizer, "--text", length)
    windows = cutter.add(content)[:count]
    if len(windows) < count:
        raise DataError(f"--text has {len(windows)} windows of {length}: ask for fewer --windows")
    return torch.tensor(windows)


def pieces_of(tokenizer: object, content: str, count: int, length: int) -> list[str]:
    """Evenly spaced pieces of a text, each of `length` tokens with those that begin a text.

    A piece that is cut within a word can have other tokens than it had; then the next one does.
    """
    ids = tokenizer(content, add_special_tokens=False, verbose=False).input_ids
    body = length - len(start_tokens(tokenizer))
    spacing = len(ids) // count
    pieces: list[str] = []
    for place in range(count):
        for start in range(place * spacing, (place + 1) * spacing - body):
            piece = tokenizer.decode(ids[start : start + body], clean_up_tokenization_spaces=False)
            if len(tokenizer(piece).input_ids) == length:
                pieces.append(piece)
                break
        else:
            raise DataError(f"--calibration has {len(ids)} tokens: ask for fewer --tokens")
    return pieces


@torch.no_grad()
def hidden_of(model: torch.nn.Module, windows: Tensor) -> Tensor:
    """What the head reads [windows, length - 1, width]; the last place predicts nothing."""
    decoder = model.get_decoder()
    return torch.stack(
        [decoder(input_ids=ids[None]).last_hidden_state[0, :-1].float() for ids in windows]
    )


class Reading(NamedTuple):
    """How well a text is read, in nats per token, by window."""

    losses: list[float]
    divergences: list[float]


@torch.no_grad()
def reading_of(
    head: torch.nn.Module, hidden: Tensor, reference: Tensor, windows: Tensor
) -> Reading:
    """Losses, and KL divergences from another model with the same head.

    Args:
        head: hidden states -> logits.
        hidden: as of `hidden_of`.
        reference: the other model's.
        windows: the text.
    """
    losses: list[float] = []
    divergences: list[float] = []
    for ids, states, reference_hidden in zip(windows, hidden, reference, strict=True):
        loss = 0.0
        divergence = 0.0
        for start in range(0, len(states), PLACES):
            logs = head(states[start : start + PLACES]).float().log_softmax(-1)
            expected = head(reference_hidden[start : start + PLACES]).float().log_softmax(-1)
            following = ids[1 + start : 1 + start + len(logs)]
            loss -= float(logs.gather(1, following[:, None]).sum())
            # KL = sum_v p(v) (log p(v) - log q(v))
            divergence += float((expected.exp() * (expected - logs)).sum())
        losses.append(loss / len(states))
        divergences.append(divergence / len(states))
    return Reading(losses, divergences)


def scene_of(arguments: argparse.Namespace) -> Scene:
    """What a command line measures."""
    texts = hashlib.sha256()
    for file in (arguments.calibration, arguments.text):
        texts.update(file.read_bytes())
    return Scene(
        arguments.name or arguments.model.name,
        texts.hexdigest()[:12],
        arguments.tokens,
        arguments.windows,
        arguments.length,
        sorted(arguments.linears),
    )


def chosen_of(model: luq.LoadedModel, names: Sequence[str]) -> tuple[str, ...]:
    """Full names of linears that are given by their last names; none: all.

    Raises:
        ConfigError: The model has no such linear.
    """
    linears = list(linears_of(model.vlm.layers[0]))
    full_names = {linear.rpartition(".")[2]: linear for linear in linears}
    for name in names:
        if name not in full_names:
            raise ConfigError(f"--linears {name}: the layers have {', '.join(full_names)}")
    return tuple(full_names[name] for name in names) or tuple(linears)


def measure(name: str, row: Row, arguments: argparse.Namespace, folder: Path) -> Result:
    """Quantize and score, in this process.

    Args:
        name: of the row.
        row: what is done.
        arguments: the command line.
        folder: for what only this row needs.
    """
    model = luq.load(arguments.model, store=folder)
    vlm = model.vlm
    vlm.restore()
    if getattr(vlm.model.config, "final_logit_softcapping", None):
        raise ConfigError(f"{arguments.model} bounds its logits, which is not done here")
    tokenizer = vlm.processor.tokenizer
    windows = windows_of(tokenizer, content_of(arguments.text), arguments.windows, arguments.length)
    count = arguments.tokens // arguments.length
    texts = pieces_of(tokenizer, content_of(arguments.calibration), count, arguments.length)
    samples = calibration_of(model, [{"text": text} for text in texts])
    subject = Subject(
        model,
        texts,
        samples_of(samples, model.store.tools),
        chosen_of(model, arguments.linears),
    )
    weights = sum(module.weight.numel() for module in subject.all_linears().values())
    begun = time.process_time()
    quantized = row.peer.quantize(subject)
    seconds = time.process_time() - begun
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hidden = hidden_of(vlm.model, windows)
    reference = reference_states(hidden, name, arguments)
    reading = reading_of(vlm.model.get_output_embeddings(), hidden, reference, windows)
    return Result(
        scene_of(arguments),
        name,
        row.family,
        8 * quantized.stored_bytes / weights,
        reading.losses,
        reading.divergences,
        seconds,
        peak_bytes,
        quantized.note,
    )


def reference_states(hidden: Tensor, name: str, arguments: argparse.Namespace) -> Tensor:
    """The 16-bit model's hidden states, which lie beside the results; its own row writes them."""
    scene = scene_of(arguments)
    kind = f"{scene.model}-{scene.texts}-{scene.windows}x{scene.length}"
    file = arguments.results.parent / f"{arguments.results.stem}-{kind}.safetensors"
    if name == FLOAT:
        unfinished = file.with_suffix(".part")
        save_file({"hidden": hidden}, unfinished)
        unfinished.replace(file)
        return hidden
    if not file.is_file():
        raise DataError(f"{file} is missing: measure the row {FLOAT!r} again")
    reference = load_file(file)["hidden"]
    if reference.shape != hidden.shape:
        raise DataError(f"{file} holds {list(reference.shape)}: delete it and measure {FLOAT!r}")
    return reference


def parser_of_command() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="a file of JSON lines, which is gone on with")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--name", help="of the model; without it, the folder's")
    parser.add_argument("--calibration", type=Path, required=True, help="a text file")
    parser.add_argument("--text", type=Path, required=True, help="a text to report on")
    parser.add_argument("--gguf", type=Path, help="a file of the same weights, for llama.cpp")
    parser.add_argument("--gptq", type=Path, help="a folder with IST-DASLab/gptq")
    parser.add_argument("--billm", type=Path, help="a folder with Aaronhuang-778/BiLLM")
    parser.add_argument("--steps", type=int, default=200, help="of AutoRound, for a block")
    parser.add_argument("--tokens", type=int, default=8192, help="of calibration")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--length", type=int, default=512, help="of windows and samples")
    parser.add_argument("--linears", nargs="+", default=[], help="pack these alone")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    parser.add_argument("--show", action="store_true", help="the table; nothing is measured")
    parser.add_argument("--markdown", action="store_true", help="the same for a page")
    parser.add_argument("--figure", type=Path, help="draw what there is; nothing is measured")
    return parser


def missing_rows(
    names: Sequence[str], rows: dict[str, Row], done: Sequence[str], console: Console
) -> list[str]:
    """Rows that can be measured and are not there yet; the others are named."""
    pending: list[str] = []
    for name in names:
        lack = rows[name].peer.missing()
        if name in done:
            continue
        if lack:
            console.print(f"left out: {name}: {lack}")
        else:
            pending.append(name)
    return pending


def main() -> None:
    command = parser_of_command()
    arguments = command.parse_args()
    console = Console(width=80, highlight=False)
    rows = rows_of(arguments)
    names = arguments.only or list(rows)
    for name in names:
        if name not in rows:
            command.error(f"there is no row {name!r}: choose among {', '.join(rows)}")
    scene = scene_of(arguments)
    results = of_scene(results_of(arguments.results), scene)
    if arguments.show or arguments.markdown or arguments.figure:
        if arguments.show:
            console.print(table_of(results))
        if arguments.markdown:
            console.print(markdown_of(results), soft_wrap=True)
        if arguments.figure:
            draw(results, arguments.figure)
        return
    if arguments.here:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                keep(measure(name, rows[name], arguments, Path(folder)), arguments.results)
        return
    failed: list[str] = []
    done = [result.row for result in results]
    if FLOAT not in done:
        elsewhere = measured_elsewhere(results_of(arguments.results), scene)
        if elsewhere is not None:
            keep(elsewhere, arguments.results)
            done.append(FLOAT)
        names = [FLOAT, *(name for name in names if name != FLOAT)]
    for name in missing_rows(names, rows, done, console):
        console.print(f"{time.strftime('%H:%M:%S')} {name}")
        words = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--here"]
        if subprocess.run(words, check=False).returncode != 0:
            failed.append(name)
    for name in failed:
        console.print(f"failed: {name}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
