"""What packed folders take on disk, in memory after loading, and while they answer.

`python benchmarks/checkpoint_memory.py [--layers 2] [--tiers gptq4 trellis2] [--dtype float16]`.

The same model in 16 bit stands beside them. A LLaVA with random weights whose decoder layers have
LLaVA-1.5-7B's shapes is written, its layers packed (gptqN by rounding to nearest, others under the
identity: files of the same size, quickly made), exported, and each folder loaded in a process of
its own, to read 32 tokens and say 8. Loading is judged against the interpreter with transformers'
model code imported, which takes memory without any model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

from luq.allocation.allocations import Allocation
from luq.config import GptqTier, QuantizerConfig, RtnTier, TrellisTier
from luq.config.building import build
from luq.export.folder import PackedModel, export
from luq.formats.layer_file import write_layer
from luq.models.families import LINEARS
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer

CONF = Path(__file__).parent.parent / "conf"
TEXT = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
}
PROBE = """
import json, re, sys, time
import luq, torch
from transformers import AutoModelForImageTextToText
from transformers.models.llava import modeling_llava
def status(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
def reset():
    open("/proc/self/clear_refs", "w").write("5")
torch.set_num_threads(1)
told = {"interpreter": status("VmRSS")}
reset()
dtype = getattr(torch, sys.argv[2])
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=dtype).eval()
told |= {"loading": status("VmHWM"), "loaded": status("VmRSS")}
tensors = [*model.parameters(), *model.buffers()]
told["weights"] = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
reset()
ids = torch.arange(40, 72)[None]
asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False}
with torch.no_grad():
    first = time.perf_counter()
    model.generate(**asked, max_new_tokens=1)
    rest = time.perf_counter()
    model.generate(**asked, min_new_tokens=9, max_new_tokens=9)
    told["token"] = (time.perf_counter() - rest - (rest - first)) / 8
told["answering"] = status("VmHWM")
print(json.dumps(told))
"""


def source(folder: Path, layers: int) -> Path:
    """A 16-bit LLaVA with random weights.

    Its decoder layers have the true 7B shapes; vision tower and vocabulary are the pocket model's.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    settings = json.loads((POCKET / "pocket_llava" / "config.json").read_text())
    settings["text_config"] |= TEXT | {"num_hidden_layers": layers}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(**settings)).half()
    model.save_pretrained(folder)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "chat_template.jinja",
    ):
        (folder / name).write_bytes((POCKET / "pocket_llava" / name).read_bytes())
    return folder


def packed(folder: Path, tier: str, layers: int, target: Path) -> Path:
    """The source with all of its layers in a tier, as a folder."""
    from transformers import AutoModelForImageTextToText

    settings = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
    quick = build(QuantizerConfig, settings, "quantizer").tiers[tier]
    if isinstance(quick, GptqTier):
        quick = RtnTier(quick.bits, quick.group_size, quick.symmetric)
    elif isinstance(quick, TrellisTier):
        quick = replace(quick, window=8)
    quantizer = make_quantizer(quick)
    hessians: dict[int, torch.Tensor] = {}  # identities, by columns
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float16)
    places = []
    for i, layer in enumerate(model.model.language_model.layers):
        place = target.with_name(f"{target.name}-{i}")
        place.mkdir()
        weights = {n: layer.get_submodule(n).weight.detach().float() for n in LINEARS}
        for weight in weights.values():
            hessians.setdefault(weight.shape[1], torch.eye(weight.shape[1]))
        linears = {n: quantizer.quantize(w, hessians[w.shape[1]]) for n, w in weights.items()}
        write_layer(place, linears)
        places.append(place)
    del model
    return export(PackedModel(folder, places, Allocation((tier,) * layers)), target)


def probe(folder: Path, dtype: str) -> dict[str, float]:
    """The memory numbers of a folder, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder), dtype],
        capture_output=True,
        text=True,
        check=True,
    )
    measurements: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tiers", nargs="+", default=["gptq8", "gptq4", "gptq3", "gptq2"])
    parser.add_argument(
        "--dtype", default="float16", help="of what stays 16-bit and of the activations"
    )
    arguments = parser.parse_args()
    out = Console(highlight=False, width=130)
    table = Table(
        title=f"{arguments.layers} decoder layers of LLaVA-1.5-7B's shapes, MB",
        title_justify="left",
    )
    for name in (
        "folder",
        "files",
        "weights in memory",
        "loading, peak",
        "over interpreter / files",
        "answering, peak",
        "ms a token",
    ):
        table.add_column(name, justify="left" if name == "folder" else "right")
    with tempfile.TemporaryDirectory() as scratch:
        base = source(Path(scratch) / "source", arguments.layers)
        folders = {"16 bit, as it came": base}
        folders |= {
            t: packed(base, t, arguments.layers, Path(scratch) / t) for t in arguments.tiers
        }
        for name, folder in folders.items():
            files = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
            measurements = probe(folder, arguments.dtype)
            loading_share = (measurements["loading"] - measurements["interpreter"]) / files
            cells = [
                files,
                measurements["weights"],
                measurements["loading"],
                measurements["answering"],
            ]
            megabytes = [f"{c / 1e6:.0f}" for c in cells]
            table.add_row(
                name,
                *megabytes[:3],
                f"{loading_share:.2f}",
                megabytes[3],
                f"{1e3 * measurements['token']:.0f}",
            )
    out.print(table)


if __name__ == "__main__":
    main()
