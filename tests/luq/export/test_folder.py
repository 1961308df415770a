"""Every tier in one folder: loaded by a fresh process bit for bit, and saying what the model in
memory says.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from luq.allocation.plans import Allocation
from luq.config import QuantizerConfig
from luq.config.building import build
from luq.errors import ModelError
from luq.export import folder as save
from luq.formats.layer_file import read_layer, write_layer
from luq.models.checkpoint import check_files
from luq.models.vlm import VLM
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer
from luq.quantization.walk import install
from tests.conftest import correlated

CONF = Path(__file__).parents[3] / "conf"
SOURCE = POCKET / "pocket_llava"
TIERS = (
    "float16",
    "gptq8",
    "gptq4",
    "gptq3",
    "gptq2",
    "ternary",
    "billm",
    "arb_rc",
    "trellis2",
    "trellis1",
)
FRESH = """
import hashlib, json, sys
import luq
import torch
from transformers import AutoModelForImageTextToText
torch.manual_seed(0)
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
layers = model.model.language_model.layers
found = {}
for i, layer in enumerate(layers):
    for name, module in layer.named_modules():
        if name.endswith("_proj"):
            for buffer, tensor in module.named_buffers(recurse=False):
                digest = hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
                found[f"{i}.{name}.{buffer}"] = [str(tensor.dtype), list(tensor.shape), digest]
ids = torch.tensor([json.loads(sys.argv[2])])
said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
plain = [n for n, m in layers.named_modules() if type(m) is torch.nn.Linear]
print(json.dumps({"buffers": found, "tokens": said[0].tolist(), "plain": plain}))
"""


@pytest.fixture(scope="module")
def packed(vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One folder per decoder layer, each in another tier; the last layer's MLP in yet another."""
    settings = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())
    tiers = build(QuantizerConfig, settings, "quantizer").tiers
    root, hessians = tmp_path_factory.mktemp("layers"), {}
    folders = []
    for index, tier in enumerate(TIERS):
        quantizer = make_quantizer(tiers[tier])
        layer = {}
        for name, weight in vlm.original(index).items():
            size = weight.shape[1]
            hessians.setdefault(size, correlated(4 * size, size))
            made = (
                make_quantizer(tiers["billm_faithful"])
                if index == 9 and "mlp" in name
                else quantizer
            )
            layer[name] = made.quantize(weight.float(), hessians[size])
        folder = root / f"layer{index}"
        folder.mkdir()
        write_layer(folder, layer)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def exported(packed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export") / "model"
    return save.export(
        SOURCE, packed, TIERS, target, {"allocation": "mixed"}, "# card\n\n{ledger}\n"
    )


def test_a_fresh_process_gets_the_same_bits_and_says_the_same(
    exported: Path, packed: list[Path], vlm: VLM
) -> None:
    import hashlib

    asked = [1, 40, 41, 42, 43, 44]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(exported), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["plain"] == [], "no 16-bit linear is left in the decoder"
    wanted = {}
    for index, folder in enumerate(packed):
        for name, weight in read_layer(folder).items():
            for buffer, tensor in weight.buffers.items():
                digest = hashlib.sha256(
                    tensor.contiguous().view(torch.uint8).numpy().tobytes()
                ).hexdigest()
                wanted[f"{index}.{name}.{buffer}"] = [str(tensor.dtype), list(tensor.shape), digest]
    assert told["buffers"] == wanted
    install(vlm, Allocation(TIERS), packed)
    try:
        ids = torch.tensor([asked])
        with torch.no_grad():
            said = vlm.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=24,
                do_sample=False,
            )
    finally:
        vlm.restore()
    assert told["tokens"] == said[0].tolist()


def test_the_ledger_is_the_file(exported: Path) -> None:
    about = save.about(exported)
    assert (
        about["file_bytes"]
        == sum(about["ledger"].values())
        == (exported / save.SINGLE).stat().st_size
    )
    assert {
        "codes",
        "scales",
        "masks",
        "zeros",
        "vision",
        "projector",
        "embeddings",
        "head",
        "norms",
        "header",
    } <= set(about["ledger"])
    assert f"**{about['file_bytes']:,}**" in (exported / "README.md").read_text()


def test_everything_else_is_copied_as_it_stands(exported: Path) -> None:
    with (
        safe_open(SOURCE / save.SINGLE, "pt") as before,
        safe_open(exported / save.SINGLE, "pt") as after,
    ):
        kept = [n for n in before.keys() if save.ELSEWHERE.search(n) or not save.LINEAR.match(n)]  # noqa: SIM118
        assert len(kept) > 50
        for name in kept:
            assert torch.equal(before.get_tensor(name), after.get_tensor(name)), name
            assert before.get_tensor(name).dtype == after.get_tensor(name).dtype
    for name in (
        "tokenizer.json",
        "processor_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ):
        assert (exported / name).read_bytes() == (SOURCE / name).read_bytes()


@pytest.mark.parametrize("pushed", [False, True])
def test_saving_the_loaded_model_again_changes_nothing(
    pushed: bool, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With save_pretrained, and as push_to_hub would upload it."""
    from huggingface_hub import HfApi, RepoUrl
    from transformers import AutoModelForImageTextToText

    import luq  # noqa: F401

    def commit(_api: HfApi, repo_id: str, operations: list, **_settings: object) -> None:
        assert repo_id == "someone/again"
        for operation in operations:
            target = tmp_path / "again" / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            with operation.as_file() as file:
                target.write_bytes(file.read())

    monkeypatch.setattr(
        HfApi, "create_repo", lambda _, repo_id, **__: RepoUrl(f"https://huggingface.co/{repo_id}")
    )
    monkeypatch.setattr(HfApi, "create_commit", commit)
    model = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float16)
    if pushed:
        model.push_to_hub("someone/again")
    else:
        model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "again", dtype=torch.float16)
    one, two = model.state_dict(), again.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCE, tmp_path / "source"))


def split_in_two(folder: Path) -> None:
    """The checkpoint as two shards and an index."""
    with safe_open(folder / save.SINGLE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    (folder / save.SINGLE).unlink()
    names = list(tensors)
    places = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(part, shard)
    (folder / save.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_shards_stay_shards(
    source: Path, packed: list[Path], exported: Path, tmp_path: Path
) -> None:
    split_in_two(source)
    target = save.export(source, packed, TIERS, tmp_path / "two", {}, "")
    places = json.loads((target / save.INDEX).read_text())["weight_map"]
    about = save.about(target)
    assert about["file_bytes"] == sum(f.stat().st_size for f in target.glob("*.safetensors"))
    with safe_open(exported / save.SINGLE, "pt") as whole:
        assert set(places) == set(whole.keys())
        for name, shard in places.items():
            with safe_open(target / shard, "pt") as part:
                assert torch.equal(part.get_tensor(name), whole.get_tensor(name))


def damaged(folder: Path) -> None:
    file = folder / save.SINGLE
    file.write_bytes(file.read_bytes()[:-1000])


def without_a_linear(folder: Path) -> None:
    with safe_open(folder / save.SINGLE, "pt") as file:
        tensors = {n: file.get_tensor(n) for n in file.keys() if "layers.3.mlp.up_proj" not in n}  # noqa: SIM118
    save_file(tensors, folder / save.SINGLE, metadata={"format": "pt"})


def quantized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "awq"}})
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (damaged, r"model\.safetensors is damaged"),
        (without_a_linear, r"no weight for layers\.3\.mlp\.up_proj"),
        (quantized, r"already quantized \(awq\)"),
        (lambda folder: (folder / save.SINGLE).unlink(), "missing"),
    ],
    ids=["damaged", "without a linear", "quantized", "without weights"],
)
def test_a_bad_source_leaves_nothing(
    source: Path, packed: list[Path], tmp_path: Path, spoil, told: str
) -> None:
    spoil(source)
    with pytest.raises(ModelError, match=told):
        save.export(source, packed, TIERS, tmp_path / "out" / "model", {}, "")
    assert not (tmp_path / "out" / "model").exists()
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_what_is_there_is_not_overwritten(packed: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ModelError, match="exists"):
        save.export(SOURCE, packed, TIERS, tmp_path, {}, "")
    assert (tmp_path / "mine").read_text() == "x"


def test_a_full_disk_is_said_first(
    packed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match="may need"):
        save.export(SOURCE, packed, TIERS, tmp_path / "x", {}, "")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_and_a_foreign_folder(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not exported by LUQ"):
        save.about(SOURCE)
    copy = Path(shutil.copytree(exported, tmp_path / "newer"))
    for name in (save.ABOUT, "config.json"):
        told = json.loads((copy / name).read_text())
        place = told if name == save.ABOUT else told["quantization_config"]
        place["format_version"] = 99
        (copy / name).write_text(json.dumps(told))
    with pytest.raises(ModelError, match="format version 99"):
        save.about(copy)
    from transformers import AutoModelForImageTextToText

    with pytest.raises(ModelError, match="format version 99"):
        AutoModelForImageTextToText.from_pretrained(copy)


def test_a_packed_folder_is_no_source(exported: Path) -> None:
    with pytest.raises(ModelError, match=r"already quantized \(luq\)"):
        check_files(exported)


def test_luq_is_light_until_transformers_comes() -> None:
    code = "import sys, luq; assert 'torch' not in sys.modules; from transformers.quantizers import auto; "
    code += "assert 'luq' in auto.AUTO_QUANTIZER_MAPPING; assert 'luq' in auto.AUTO_QUANTIZATION_CONFIG_MAPPING"
    late = "from transformers.quantizers import auto; import luq; assert 'luq' in auto.AUTO_QUANTIZER_MAPPING"
    for line in (code, late):
        done = subprocess.run(
            [sys.executable, "-c", line], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
