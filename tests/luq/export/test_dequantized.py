"""Plain weights for tools that know nothing of LUQ."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from luq.allocation.allocations import Allocation
from luq.config import QuantizerConfig
from luq.config.building import build
from luq.errors import ModelError
from luq.export.about import read_about
from luq.export.checksums import verify
from luq.export.dequantized import dequantized
from luq.export.folder import PackedModel, export
from luq.formats.layer_file import PackedLayer, write_layer
from luq.models.vlm import VLM
from luq.models.weight_files import SINGLE
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer

SOURCE = POCKET / "pocket_llava"
TIERS = {"rtn4": {"method": "rtn", "bits": 4}}
# Without LUQ: transformers alone.
PLAIN = """
import sys, torch
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
assert "luq" not in sys.modules
ids = torch.tensor([[1, 40, 41, 42, 43, 44]])
with torch.no_grad():
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
torch.save(logits, sys.argv[2])
"""


@pytest.fixture(scope="module")
def packed(
    vlm: VLM, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Path], list[PackedLayer]]:
    """The pocket model's layers, rounded to 4 bits."""
    tiers = build(QuantizerConfig, {"low": "rtn4", "high": "rtn4", "tiers": TIERS}).tiers
    quantizer = make_quantizer(tiers["rtn4"])
    root = tmp_path_factory.mktemp("layers")
    folders: list[Path] = []
    layers: list[PackedLayer] = []
    for index in range(len(vlm.layers)):
        layer = {}
        for name, weight in vlm.original(index).items():
            layer[name] = quantizer.quantize(weight.float(), None)
        folder = root / f"layer{index}"
        folder.mkdir()
        write_layer(folder, layer)
        folders.append(folder)
        layers.append(layer)
    return folders, layers


def test_transformers_alone_loads_what_the_packed_weights_mean(
    packed: tuple[list[Path], list[PackedLayer]], tmp_path: Path
) -> None:
    folders, layers = packed
    model = PackedModel(SOURCE, folders, Allocation(("rtn4",) * len(folders)))
    folder = export(model, tmp_path / "plain", layout=dequantized(torch.float16))
    with safe_open(folder / SINGLE, framework="pt") as file:
        names = list(file.keys())
        for index, layer in enumerate(layers):
            for name, weight in layer.items():
                (stored,) = [
                    n
                    for n in names
                    if n.endswith(f"layers.{index}.{name}.weight") and "vision" not in n
                ]
                assert torch.equal(file.get_tensor(stored), weight.dequantize().half())
    about = verify(folder)
    assert about.file_bytes == sum(about.ledger.values()) == (folder / SINGLE).stat().st_size
    packed_folder = export(model, tmp_path / "packed")
    logits: list[torch.Tensor] = []
    for program, place in (
        (PLAIN, folder),
        (f"import luq{PLAIN.replace('assert', '#')}", packed_folder),
    ):
        file = tmp_path / f"{place.name}.pt"
        command = [sys.executable, "-c", program, str(place), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        logits.append(torch.load(file))
    assert torch.allclose(*logits, atol=0.02), "equal up to the rounding of weights to fp16"


def test_what_overflows_is_refused() -> None:
    tiers = build(QuantizerConfig, {"low": "rtn4", "high": "rtn4", "tiers": TIERS}).tiers
    weight = make_quantizer(tiers["rtn4"]).quantize(
        torch.linspace(-2e5, 2e5, 256).view(2, 128), None
    )
    with pytest.raises(ModelError, match="infinite"):
        dequantized(torch.float16).tensors(weight)
    assert dequantized(torch.bfloat16).tensors(weight)["weight"][0].dtype == torch.bfloat16


def test_the_folder_says_its_layout(
    packed: tuple[list[Path], list[PackedLayer]], tmp_path: Path
) -> None:
    folders, _ = packed
    model = PackedModel(SOURCE, folders, Allocation(("rtn4",) * len(folders)))
    folder = export(model, tmp_path / "plain", layout=dequantized(torch.float16))
    assert read_about(folder).layout == "dequantized"
