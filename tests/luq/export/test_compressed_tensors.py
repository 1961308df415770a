"""Integer tiers in compressed-tensors' layout: plain transformers says the same, without LUQ."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from luq.allocation.allocations import Allocation, LinearTier
from luq.config import BillmTier, Float16Tier, RtnTier
from luq.errors import ModelError
from luq.export.about import read_about
from luq.export.folder import PackedModel, export
from luq.formats.layer_file import read_layer, write_layer
from luq.models.families import LINEARS
from luq.models.vlm import VLM
from luq.models.weight_files import SINGLE
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer
from luq.quantization.walk import install

interchange = pytest.importorskip(
    "luq.export.compressed_tensors", reason="compressed-tensors is not installed"
)
pytest.importorskip(
    "compressed_tensors", reason="the optional package compressed-tensors is not installed"
)

SOURCE = POCKET / "pocket_llava"
TIERS = {
    "rtn2": RtnTier(bits=2, group_size=64, symmetric=True),
    "rtn3": RtnTier(bits=3, group_size=128, symmetric=True),
    "rtn4": RtnTier(bits=4, group_size=32, symmetric=True),
    "rtn8": RtnTier(bits=8, group_size=128, symmetric=True),
    "rtn3 by row": RtnTier(bits=3, group_size=0, symmetric=True),
    # one group of 128 columns per row, and two of 384
    "rtn8 wide": RtnTier(bits=8, group_size=192, symmetric=True),
    "rtn4 short": RtnTier(bits=4, group_size=96, symmetric=True),
    "float16": Float16Tier(),
    "rtn4 zeros": RtnTier(bits=4),
    "rtn3 zeros by row": RtnTier(bits=3, group_size=0),
    "billm": BillmTier(),
}
PLANS = {
    "mixed": (
        "rtn2",
        "rtn3",
        "rtn4",
        "rtn8",
        "rtn3 by row",
        "float16",
        "rtn2",
        "rtn3",
        "rtn4",
        "rtn8 wide",
    ),
    "zero points": ("float16", *["rtn4 zeros"] * 9),
    "zero points by row": ("rtn3 zeros by row",) * 10,
}
FRESH = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText
assert "luq" not in sys.modules
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
ids = torch.tensor([json.loads(sys.argv[2])])
with torch.no_grad():
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
mask = torch.ones_like(ids)
tokens = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=16, do_sample=False)
weights = {}
for name, module in model.model.language_model.layers.named_modules():
    if name.endswith("_proj"):
        weights[name] = module.weight.detach().clone()
save_file(weights, sys.argv[3])
print(json.dumps({"logits": logits[0, -1].tolist(), "tokens": tokens[0].tolist()}))
"""


@pytest.fixture(scope="module")
def pack(
    vlm: VLM, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Sequence[str]], list[Path]]:
    """A plan -> one folder per decoder layer."""
    root, eyes = tmp_path_factory.mktemp("layers"), {n: torch.eye(n) for n in (128, 384)}

    @cache
    def layer(index: int, tier: str) -> Path:
        quantizer, folder = make_quantizer(TIERS[tier]), root / f"{index} {tier}"
        folder.mkdir()
        write_layer(
            folder,
            {
                n: quantizer.quantize(w.float(), eyes[w.shape[1]])
                for n, w in vlm.original(index).items()
            },
        )
        return folder

    return lambda plan: [layer(i, tier) for i, tier in enumerate(plan)]


@pytest.mark.parametrize("name", PLANS)
def test_plain_transformers_says_the_same(vlm: VLM, pack, tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file

    plan = PLANS[name]
    packed = pack(plan)
    model = PackedModel(SOURCE, packed, Allocation(tuple(plan)))
    target = export(model, tmp_path / "model", layout=interchange.COMPRESSED_TENSORS)
    about = read_about(target)
    assert about.layout == "compressed-tensors"
    file_bytes = (target / SINGLE).stat().st_size
    assert about.file_bytes == sum(about.ledger.values()) == file_bytes
    asked = [1, 40, 41, 42, 43, 44]
    command = [
        sys.executable,
        "-c",
        FRESH,
        str(target),
        json.dumps(asked),
        str(tmp_path / "weights.safetensors"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = load_file(tmp_path / "weights.safetensors")
    for index, folder in enumerate(packed):
        for linear, weight in read_layer(folder).items():
            wanted = weight.dequantize(torch.float32 if name == "mixed" else torch.float16).float()
            assert torch.equal(found[f"{index}.{linear}"], wanted), (index, linear, plan[index])
    install(vlm, packed)
    try:
        ids = torch.tensor([asked])
        with torch.no_grad():
            logits = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            said = vlm.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=16,
                do_sample=False,
            )
    finally:
        vlm.restore()
    assert torch.allclose(
        torch.tensor(told["logits"]), logits, atol=1e-4 if name == "mixed" else 0.02
    )
    assert told["tokens"] == said[0].tolist()


def test_three_bits_are_three_bits(pack) -> None:
    weight = read_layer(pack(PLANS["mixed"])[1])["mlp.down_proj"]
    codes, part = interchange.tensors(weight)["weight_packed"]
    assert part == "codes"
    assert (
        codes.numel() * 4
        == weight.buffers["codes"].numel()
        == weight.shape[0] * weight.shape[1] * 3 // 8
    )


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (("rtn4", "billm"), "layer 1 is stored in billm, a binary format"),
        (
            ("rtn4", "rtn4 zeros"),
            "mixes 4 bit in groups of 32, 4 bit in groups of 128 with zero points",
        ),
        (
            ("rtn4", "rtn4 short"),
            r"layer 1 .* rtn4 short, whose groups of 96 do not divide the 128 columns of "
            r"self_attn.q_proj: .* quantizer.tiers.rtn4 short.group_size=64, or",
        ),
        (
            ("rtn4 zeros", "rtn3 zeros by row"),
            "mixed widths of this format only without zero points",
        ),
    ],
)
def test_what_transformers_could_not_load_is_refused_and_leaves_nothing(
    pack, tmp_path: Path, plan, message: str
) -> None:
    plan = (*plan, *["rtn4"] * 8) if "rtn4" in plan else (*plan, *["rtn4 zeros"] * 8)
    model = PackedModel(SOURCE, pack(plan), Allocation(tuple(plan)))
    with pytest.raises(ModelError, match=message):
        export(model, tmp_path / "out", layout=interchange.COMPRESSED_TENSORS)
    assert not (tmp_path / "out").exists()


def write_widths(folder: Path, columns: int, wide: int, size: int) -> list[Path]:
    """A layer in groups of `size`: linears of `columns` columns, and a last one of `wide`."""
    quantizer = make_quantizer(RtnTier(group_size=size, symmetric=True))
    packed = {}
    for name in LINEARS:
        width = wide if name == "mlp.down_proj" else columns
        weight = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
        packed[name] = quantizer.quantize(weight, None)
    write_layer(folder, packed)
    return [folder]


# Columns of the linears, of the last one, and of a group; and the size that the error offers.
SHORT = [(576, 1536, 128, 64), (192, 320, 200, 64), (320, 96, 80, 32), (130, 100, 128, 0)]


def test_linears_that_servers_fuse_are_in_one_tier(vlm: VLM, tmp_path: Path) -> None:
    weights = vlm.original(0)
    layer = {}
    for name, weight in weights.items():
        bits = 8 if name == "self_attn.k_proj" else 4
        quantizer = make_quantizer(RtnTier(bits=bits, group_size=64, symmetric=True))
        layer[name] = quantizer.quantize(weight.float(), None)
    write_layer(tmp_path, layer)
    allocation = Allocation(("four",), (LinearTier(0, "self_attn.k_proj", "eight"),))
    message = r"q_proj in four and self_attn\.k_proj in eight: .*allocation\.tie=true"
    with pytest.raises(ModelError, match=message):
        interchange.config(PackedModel(tmp_path, [tmp_path], allocation))


@pytest.mark.parametrize(("columns", "wide", "size", "offered"), SHORT)
def test_a_short_last_group_is_refused_with_a_size_that_works(
    columns: int, wide: int, size: int, offered: int, tmp_path: Path
) -> None:
    short = write_widths(tmp_path, columns, wide, size)
    message = (
        rf"do not divide the \d+ columns of .* quantizer\.tiers\.low\.group_size={offered}, or"
    )
    with pytest.raises(ModelError, match=message):
        interchange.config(PackedModel(tmp_path, short, Allocation(("low",))))
    even = write_widths(tmp_path, columns, wide, offered)
    for group in interchange.config(PackedModel(tmp_path, even, Allocation(("low",))))[
        "config_groups"
    ].values():
        assert group["weights"].get("group_size", 0) == offered
