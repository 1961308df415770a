"""Peak memory of profiling and quantizing a checkpoint of Qwen2.5-VL-7B's shapes whose layers stay on disk.

`python benchmarks/stream_memory.py [--layers 2 4 8] [--tier rtn4]`: for each number of decoder layers a checkpoint with random
bfloat16 weights is written shard by shard (0.47 GB a layer and 3.5 GB beside them), then a process of its own runs
`luq quantize` on it with model.stream=true and 16 x 512 calibration tokens: entropies of all layers, and all layers packed.
The peak is that process's largest resident memory. It must not grow with the number of layers.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate import init_empty_weights
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from tests.luq.models import tiny_qwen

SHAPES = {"hidden": 3584, "wide": 18944, "heads": 28, "narrow": 4}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "window_size": 112,
}
VOCABULARY = 152064


def write(folder: Path, layers: int) -> int:
    """Write the checkpoint; returns its bytes. Tokenizer and processor are those of the tests' small model."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    tiny_qwen.write(folder)
    (folder / "model.safetensors").unlink()
    told = json.loads((folder / "config.json").read_text())
    half = SHAPES["hidden"] // SHAPES["heads"] // 2
    told["text_config"] |= {
        "hidden_size": SHAPES["hidden"], "intermediate_size": SHAPES["wide"], "num_attention_heads": SHAPES["heads"],
        "num_key_value_heads": SHAPES["narrow"], "num_hidden_layers": layers, "vocab_size": VOCABULARY,
        "layer_types": ["full_attention"] * layers,
        "rope_parameters": {"rope_type": "default", "mrope_section": [half - 48, 24, 24], "rope_theta": 1e6},
    }  # fmt: skip
    told["vision_config"] |= VISION | {"out_hidden_size": SHAPES["hidden"], "fullatt_block_indexes": [7, 15, 23, 31]}
    (folder / "config.json").write_text(json.dumps(told))
    with init_empty_weights():
        skeleton = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    generator, shards, places = torch.Generator().manual_seed(0), dict[str, dict[str, tuple[int, ...]]](), dict[str, str]()
    for name, tensor in skeleton.state_dict().items():
        part = name.split("language_model.layers.")[1].split(".")[0] if "language_model.layers." in name else "rest"
        shards.setdefault(f"model-{part}.safetensors", {})[name] = tuple(tensor.shape)
    for shard, tensors in shards.items():
        made = {}
        for name, shape in tensors.items():
            plain = "norm" in name or name.endswith("bias")
            fill = torch.ones(shape) if "norm" in name else torch.zeros(shape)
            made[name] = (fill if plain else torch.randn(shape, generator=generator) * 0.02).bfloat16()
        save_file(made, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(made, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def quantize(folder: Path, outputs: Path, tier: str) -> tuple[int, int, float]:
    """(peak resident bytes, the most that is not a mapped file, seconds) of `luq quantize` in a process of its own."""
    given = [
        f"model.path={folder}", "model.name=qwen_shapes", "model.stream=true", "model.max_pixels=12544", "tracking=none",
        "calibration.tokens=8192", "calibration.sample_tokens=512", "profile.tokens=2048", "profile.clusters=50",
        "profile.seeds=1", "allocation.k=1", f"quantizer.low={tier}", "quantizer.high=rtn4", "quantizer.propagation=float",
        f"paths.outputs={outputs}",
    ]  # fmt: skip
    begun = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.cli", "quantize", *given]
    with tempfile.TemporaryFile("w+") as told:
        process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told), 0
        own = 0
        while process.poll() is None:  # what wait4 reports would be this process's own peak, which a fork starts with
            status = dict(re.findall(r"(VmHWM|RssAnon):\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text()))
            peak, own = (max(most, 1024 * int(status.get(n, 0))) for most, n in ((peak, "VmHWM"), (own, "RssAnon")))
            time.sleep(0.2)
        if process.returncode:
            told.seek(0)
            sys.exit(told.read())
    return peak, own, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--tier", default="rtn4", help="of one layer; the others are rtn4, which needs no activations")
    parser.add_argument("--scratch", type=Path, help="where the checkpoints are written (a temporary folder)")
    arguments, out = parser.parse_args(), Console(highlight=False, width=110)
    shown = Table(title=f"Qwen2.5-VL-7B's shapes, streamed, one layer in {arguments.tier}", title_justify="left")
    for name in ("decoder layers", "checkpoint GB", "peak resident GB", "without mapped files", "minutes"):
        shown.add_column(name, justify="right")
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            size = write(Path(scratch) / "model", layers)
            peak, own, seconds = quantize(Path(scratch) / "model", Path(scratch) / "outputs", arguments.tier)
        shown.add_row(str(layers), f"{size / 1e9:.2f}", f"{peak / 1e9:.2f}", f"{own / 1e9:.2f}", f"{seconds / 60:.1f}")
    out.print(shown)


if __name__ == "__main__":
    main()
