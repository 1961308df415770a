"""Every tier in one folder: a fresh process loads it bit for bit, and says the same."""

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from luq.allocation.allocations import Allocation, LinearTier
from luq.config import QuantizerConfig
from luq.config.building import build
from luq.errors import ModelError
from luq.export import folder as folders
from luq.export.about import ABOUT, FORMAT_VERSION, GUARD, GUARD_ENTRY, read_about
from luq.export.folder import PackedModel, export
from luq.formats.layer_file import read_layer, write_layer
from luq.models.checkpoint import check_files
from luq.models.families import decoder_weight
from luq.models.vlm import VLM
from luq.models.weight_files import INDEX, SINGLE
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer
from luq.quantization.walk import install
from luq.store.sealed import sealed
from tests.conftest import correlated
from tests.luq.export.facts import CARD, RUN

CONF = Path(__file__).parents[3] / "conf"
SOURCE = POCKET / "pocket_llava"
TIERS = (
    "float16",
    "gptq8",
    "gptq4",
    "gptq3",
    "q4_0",
    "ternary",
    "billm",
    "arb_rc",
    "trellis2",
    "trellis1",
)
OTHERS = ("gate_proj", "up_proj", "down_proj")
PLAN = Allocation(TIERS, tuple(LinearTier(9, f"mlp.{name}", "billm_faithful") for name in OTHERS))
FRESH = """
import hashlib, json, sys
import luq
import torch
from transformers import AutoModelForImageTextToText
torch.manual_seed(0)
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
layers = model.model.language_model.layers
buffers = {}
for i, layer in enumerate(layers):
    for name, module in layer.named_modules():
        if name.endswith("_proj"):
            for buffer, tensor in module.named_buffers(recurse=False):
                content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
                digest = hashlib.sha256(content).hexdigest()
                buffers[f"{i}.{name}.{buffer}"] = [str(tensor.dtype), list(tensor.shape), digest]
ids = torch.tensor([json.loads(sys.argv[2])])
mask = torch.ones_like(ids)
tokens = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
plain = [n for n, m in layers.named_modules() if type(m) is torch.nn.Linear]
print(json.dumps({"buffers": buffers, "tokens": tokens[0].tolist(), "plain": plain}))
"""


@pytest.fixture(scope="module")
def packed(vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One folder per decoder layer, each in another tier; the last layer's MLP in yet another."""
    settings_by_tier = yaml.safe_load((CONF / "quantizer" / "luq.yaml").read_text())["tiers"]
    tiers = build(
        QuantizerConfig, {"low": "billm", "high": "gptq4", "tiers": settings_by_tier}
    ).tiers
    root = tmp_path_factory.mktemp("layers")
    hessians: dict[int, torch.Tensor] = {}
    folders = []
    for index, tier in enumerate(TIERS):
        quantizer = make_quantizer(tiers[tier])
        layer = {}
        for name, weight in vlm.original(index).items():
            size = weight.shape[1]
            hessians.setdefault(size, correlated(4 * size, size))
            if index == 9 and "mlp" in name:
                quantizer = make_quantizer(tiers["billm_faithful"])
            layer[name] = quantizer.quantize(weight.float(), hessians[size])
        folder = root / f"layer{index}"
        folder.mkdir()
        write_layer(folder, layer)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def exported(packed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export") / "model"
    return export(PackedModel(SOURCE, packed, PLAN), target, RUN, CARD)


def test_a_fresh_process_gets_the_same_bits_and_says_the_same(
    exported: Path, packed: list[Path], vlm: VLM
) -> None:
    import hashlib

    prompt = [1, 40, 41, 42, 43, 44]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(exported), json.dumps(prompt)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    fresh = json.loads(done.stdout.splitlines()[-1])
    assert fresh["plain"] == [], "no 16-bit linear is left in the decoder"
    stored = {}
    for index, folder in enumerate(packed):
        for name, weight in read_layer(folder).items():
            for buffer, tensor in weight.buffers.items():
                digest = hashlib.sha256(
                    tensor.contiguous().view(torch.uint8).numpy().tobytes()
                ).hexdigest()
                stored[f"{index}.{name}.{buffer}"] = [str(tensor.dtype), list(tensor.shape), digest]
    assert fresh["buffers"] == stored
    install(vlm, packed)
    try:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            tokens = vlm.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=24,
                do_sample=False,
            )
    finally:
        vlm.restore()
    assert fresh["tokens"] == tokens[0].tolist()


@pytest.mark.parametrize("auto", ["AutoModelForImageTextToText", "AutoModel"])
def test_without_luq_transformers_stops_with_a_sentence(exported: Path, auto: str) -> None:
    """Where LUQ is not installed, or not imported: random linears would answer nonsense."""
    program = f"import transformers, sys; transformers.{auto}.from_pretrained(sys.argv[1])"
    command = [sys.executable, "-c", program, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "`pip install luq`, and `import luq` before from_pretrained" in done.stderr


def test_the_ledger_is_the_file(exported: Path) -> None:
    about = read_about(exported)
    assert about.file_bytes == sum(about.ledger.values()) == (exported / SINGLE).stat().st_size
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
    } <= set(about.ledger)
    assert f"**{about.file_bytes:,}**" in (exported / "README.md").read_text()


def test_the_ledger_counts_each_tensor_in_its_own_type(exported: Path, packed: list[Path]) -> None:
    """What is left for the header is what safetensors writes: eight bytes and the JSON's length."""
    ledger = read_about(exported).ledger
    with (exported / SINGLE).open("rb") as file:
        assert ledger["header"] == 8 + int.from_bytes(file.read(8), "little")
    codes = 0
    for folder in packed:
        for weight in read_layer(folder).values():
            codes += weight.ledger().get("codes", 0)
    assert ledger["codes"] == codes


def test_buffers_stand_under_their_linear_s_name(exported: Path) -> None:
    with safe_open(exported / SINGLE, "pt") as file:
        names = set(file.keys())
    assert "language_model.model.layers.2.self_attn.q_proj.codes" in names
    assert "language_model.model.layers.2.self_attn.q_proj.weight" not in names


def test_one_weight_file_has_no_index(exported: Path) -> None:
    assert not (exported / INDEX).exists()


def _is_linear(name: str) -> bool:
    """Whether a tensor of the pocket model is a decoder linear's weight."""
    return decoder_weight(name) is not None and name.endswith("_proj.weight")


def test_everything_else_is_copied_as_it_stands(exported: Path) -> None:
    with (
        safe_open(SOURCE / SINGLE, "pt") as before,
        safe_open(exported / SINGLE, "pt") as after,
    ):
        copied = [name for name in before.keys() if not _is_linear(name)]  # noqa: SIM118
        assert len(copied) > 50
        for name in copied:
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
    last_layer = again.model.language_model.layers[9]
    assert last_layer.mlp.up_proj.tier == "billm_faithful"
    assert last_layer.self_attn.q_proj.tier == TIERS[9]
    loaded = model.state_dict()
    saved = again.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in loaded)


def test_mutated_folders_are_refused_or_answer_and_never_crash(
    exported: Path, tmp_path: Path
) -> None:
    """In a process of its own: a signal would end this one."""
    scratch = tmp_path / "copies"
    scratch.mkdir()
    words = [str(exported), str(scratch), "0", "60"]
    command = [sys.executable, "-m", "tests.luq.export.fuzz", *words]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    refused, answered = (int(word) for word in done.stdout.split() if word.isdigit())
    assert refused + answered == 60
    assert refused > 20
    assert answered > 5


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCE, tmp_path / "source"))


def split_in_two(folder: Path) -> None:
    """The checkpoint as two shards and an index."""
    with safe_open(folder / SINGLE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    (folder / SINGLE).unlink()
    names = list(tensors)
    places = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_shards_stay_shards(
    source: Path, packed: list[Path], exported: Path, tmp_path: Path
) -> None:
    split_in_two(source)
    target = export(PackedModel(source, packed, PLAN), tmp_path / "two")
    tensor_bytes = {n: s for n, s in read_about(target).ledger.items() if n != "header"}
    index = json.loads((target / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(tensor_bytes.values())}
    places = json.loads((target / INDEX).read_text())["weight_map"]
    about = read_about(target)
    assert about.file_bytes == sum(f.stat().st_size for f in target.glob("*.safetensors"))
    with safe_open(exported / SINGLE, "pt") as whole:
        assert set(places) == set(whole.keys())
        for name, shard in places.items():
            with safe_open(target / shard, "pt") as part:
                assert torch.equal(part.get_tensor(name), whole.get_tensor(name))


def damaged(folder: Path) -> None:
    file = folder / SINGLE
    file.write_bytes(file.read_bytes()[:-1000])


def without(folder: Path, part: str) -> None:
    with safe_open(folder / SINGLE, "pt") as file:
        tensors = {n: file.get_tensor(n) for n in file.keys() if part not in n}  # noqa: SIM118
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def without_a_linear(folder: Path) -> None:
    without(folder, "layers.3.mlp.up_proj")


def without_a_kind_of_linear(folder: Path) -> None:
    without(folder, "mlp.up_proj")


def quantized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "awq"}})
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, r"model\.safetensors is damaged"),
        (without_a_linear, r"lacks the tensor .*layers\.3\.mlp\.up_proj"),
        (without_a_kind_of_linear, r"no weight for layers\.0\.mlp\.up_proj"),
        (quantized, r"already quantized \(awq\)"),
        (lambda folder: (folder / SINGLE).unlink(), "missing"),
    ],
    ids=["damaged", "without a linear", "without a kind of linear", "quantized", "without weights"],
)
def test_a_bad_source_leaves_nothing(
    source: Path, packed: list[Path], tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(source)
    with pytest.raises(ModelError, match=message):
        export(PackedModel(source, packed, PLAN), tmp_path / "out" / "model")
    assert not (tmp_path / "out" / "model").exists()
    assert list(tmp_path.glob("out/*")) == []


def test_what_is_there_is_not_overwritten(packed: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("x")
    with pytest.raises(ModelError, match="exists"):
        export(PackedModel(SOURCE, packed, PLAN), tmp_path)
    assert (tmp_path / "notes").read_text() == "x"


def test_a_full_disk_is_said_first(
    packed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match="may need"):
        export(PackedModel(SOURCE, packed, PLAN), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_and_a_foreign_folder(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not exported by LUQ"):
        read_about(SOURCE)
    copy = Path(shutil.copytree(exported, tmp_path / "newer"))
    for name in (ABOUT, "config.json"):
        content = json.loads((copy / name).read_text())
        versioned = content if name == ABOUT else content["quantization_config"]
        versioned["format_version"] = 99
        (copy / name).write_text(json.dumps(sealed(content) if name == ABOUT else content))
    with pytest.raises(ModelError, match="format version 99"):
        read_about(copy)
    from transformers import AutoModelForImageTextToText

    with pytest.raises(ModelError, match="format version 99"):
        AutoModelForImageTextToText.from_pretrained(copy)


def test_a_packed_folder_is_no_source(exported: Path) -> None:
    with pytest.raises(ModelError, match=r"already quantized \(luq\)"):
        check_files(exported)


def test_luq_is_light_until_transformers_comes() -> None:
    early = "; ".join(
        (
            "import sys, luq",
            "assert 'torch' not in sys.modules",
            "from transformers.quantizers import auto",
            "assert 'luq' in auto.AUTO_QUANTIZER_MAPPING",
            "assert 'luq' in auto.AUTO_QUANTIZATION_CONFIG_MAPPING",
        )
    )
    late = "; ".join(
        (
            "from transformers.quantizers import auto",
            "import luq",
            "assert 'luq' in auto.AUTO_QUANTIZER_MAPPING",
        )
    )
    for line in (early, late):
        done = subprocess.run(
            [sys.executable, "-c", line], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_luq_json_says_the_run_and_gives_it_back(exported: Path) -> None:
    content = json.loads((exported / ABOUT).read_text())
    assert content["format_version"] == FORMAT_VERSION
    assert content["layout"] == "luq"
    assert content["command"] == "luq run allocation.k=4"
    assert content["memory"]["stored_bits"] == 2.5
    about = read_about(exported)
    assert about.run == RUN
    assert about.layout == "luq"


def test_a_folder_of_no_run_has_a_ledger_and_no_card(packed: list[Path], tmp_path: Path) -> None:
    target = export(PackedModel(SOURCE, packed, PLAN), tmp_path / "model")
    about = read_about(target)
    assert about.run is None
    assert about.file_bytes == (target / SINGLE).stat().st_size
    assert not (target / "README.md").exists()


def test_a_folder_from_before_there_were_layouts_is_read(exported: Path, tmp_path: Path) -> None:
    content = json.loads((exported / ABOUT).read_text())
    for entry in ("layout", "files", "seal", "digest"):
        del content[entry]
    (tmp_path / ABOUT).write_text(json.dumps(content))
    assert read_about(tmp_path) == replace(read_about(exported), files={})


@pytest.mark.parametrize(
    "change",
    [
        {"ledger": [1]},
        {"file_bytes": "many"},
        {"memory": None},
        {"scores": {"gqa": "high"}},
        {"files": {"../model.safetensors": {"bytes": 1, "sha256": ""}}},
        {"files": {"model.safetensors": {"bytes": "1", "sha256": ""}}},
    ],
)
def test_a_damaged_luq_json_is_said(
    exported: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    content = json.loads((exported / ABOUT).read_text())
    (tmp_path / ABOUT).write_text(json.dumps(sealed(content | change)))
    with pytest.raises(ModelError, match=next(iter(change))):
        read_about(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "", "null", "[" * 100_000, '{"format_version": "1"}', '{"a": NaN}']
)
def test_a_luq_json_that_is_no_table_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(ModelError, match="damaged"):
        read_about(tmp_path)


def test_a_luq_json_that_lacks_an_entry_is_said(exported: Path, tmp_path: Path) -> None:
    for entry in ("ledger", "command"):
        content = json.loads((exported / ABOUT).read_text())
        del content[entry]
        (tmp_path / ABOUT).write_text(json.dumps(sealed(content)))
        with pytest.raises(ModelError, match=entry):
            read_about(tmp_path)


def test_the_config_is_the_source_s_and_what_is_packed(exported: Path) -> None:
    source = json.loads((SOURCE / "config.json").read_text())
    config = json.loads((exported / "config.json").read_text())
    packing = config.pop("quantization_config")
    assert config.pop(GUARD_ENTRY) == GUARD
    assert config == source
    assert packing["quant_method"] == "luq"
    assert packing["format_version"] == FORMAT_VERSION
    assert [layer["tier"] for layer in packing["layers"]] == list(TIERS)
    assert packing["layers"][9]["other_tiers"] == dict.fromkeys(OTHERS, "billm_faithful")
    assert "other_tiers" not in packing["layers"][8]
    gptq4 = packing["layers"][2]["linears"]["q_proj"]
    assert gptq4["format"] == "integer"
    assert gptq4["shape"] == [128, 128]
    assert gptq4["buffers"]["scales"][0] == "float16"


def test_weights_can_be_read_by_everybody(exported: Path) -> None:
    assert stat.S_IMODE((exported / SINGLE).stat().st_mode) == 0o644


def test_an_empty_target_is_used(packed: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    target = export(PackedModel(SOURCE, packed, PLAN), tmp_path / "empty")
    assert (target / SINGLE).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_file_in_the_target_s_place_is_not_overwritten(
    packed: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="exists"):
        export(PackedModel(SOURCE, packed, PLAN), tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


def test_what_a_killed_export_left_is_used_up(packed: list[Path], tmp_path: Path) -> None:
    remains = tmp_path / ".model.tmp"
    remains.mkdir()
    (remains / "half.safetensors").write_text("x")
    target = export(PackedModel(SOURCE, packed, PLAN), tmp_path / "model")
    assert not remains.exists()
    assert not (target / "half.safetensors").exists()


def test_a_disk_with_just_enough_room_is_used(
    packed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = (SOURCE / SINGLE).stat().st_size
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    export(PackedModel(SOURCE, packed, PLAN), tmp_path / "model")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(ModelError, match="may need"):
        export(PackedModel(SOURCE, packed, PLAN), tmp_path / "other")


def test_room_is_counted_over_all_shards(
    source: Path, packed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_in_two(source)
    needed = sum(shard.stat().st_size for shard in source.glob("*.safetensors"))
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(ModelError, match="may need"):
        export(PackedModel(source, packed, PLAN), tmp_path / "model")


def test_fewer_packed_layers_than_the_source_has_are_said(
    packed: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="has decoder layer 9, but 9 layers were packed"):
        export(PackedModel(SOURCE, packed[:9], Allocation(TIERS[:9])), tmp_path / "model")


def test_more_packed_layers_than_the_source_has_are_said(
    packed: list[Path], tmp_path: Path
) -> None:
    model = PackedModel(SOURCE, [*packed, packed[0]], Allocation((*TIERS, TIERS[0])))
    with pytest.raises(ModelError, match=r"no weight for layers\.10\.mlp\.down_proj"):
        export(model, tmp_path / "model")


def test_each_layer_of_a_shard_is_read_once(
    packed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counting(folder: Path, checkpoint: Path) -> object:
        read.append(folder)
        return read_layer(folder, checkpoint)

    monkeypatch.setattr(folders, "read_layer", counting)
    export(PackedModel(SOURCE, packed, PLAN), tmp_path / "model")
    assert sorted(read) == sorted([*packed, *packed]), "for the config, and for the weights"


SETTINGS = {"do_pad": True, "size": {"shortest_edge": 32}}


def test_the_image_processor_s_settings_replace_the_source_s(
    packed: list[Path], tmp_path: Path
) -> None:
    model = PackedModel(SOURCE, packed, PLAN, SETTINGS)
    target = export(model, tmp_path / "model")
    before = json.loads((SOURCE / "processor_config.json").read_text())
    after = json.loads((target / "processor_config.json").read_text())
    assert after == before | {"image_processor": SETTINGS}
    assert not (target / "preprocessor_config.json").exists()


@pytest.mark.parametrize("with_processor", [False, True])
def test_an_image_processor_in_a_file_of_its_own_is_changed_there(
    with_processor: bool, source: Path, packed: list[Path], tmp_path: Path
) -> None:
    """Pixel limits of older checkpoints go: the settings hold them as a size."""
    processor = json.loads((source / "processor_config.json").read_text())
    (source / "processor_config.json").unlink()
    settings = processor.pop("image_processor")
    limits = {"min_pixels": 3, "max_pixels": 9, "rescale_factor": 0.5}
    (source / "preprocessor_config.json").write_text(json.dumps(settings | limits))
    if with_processor:
        (source / "processor_config.json").write_text(json.dumps(processor))
    target = export(PackedModel(source, packed, PLAN, SETTINGS), tmp_path / "model")
    after = json.loads((target / "preprocessor_config.json").read_text())
    assert after == settings | {"rescale_factor": 0.5} | SETTINGS
    if with_processor:
        assert json.loads((target / "processor_config.json").read_text()) == processor


def test_what_is_not_of_the_model_is_not_copied(
    source: Path, packed: list[Path], tmp_path: Path
) -> None:
    (source / "pytorch_model.bin").write_text("x")
    (source / ABOUT).write_text("{}")
    (source / "vocab.txt").write_text("x")
    target = export(PackedModel(source, packed, PLAN), tmp_path / "model")
    assert not (target / "pytorch_model.bin").exists()
    assert (target / "vocab.txt").read_text() == "x"
    assert read_about(target).layout == "luq"


def test_towers_have_layers_that_are_not_packed() -> None:
    names = (
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
        "visual.layers.0.mlp.gate_proj.weight",
        "audio_tower.layers.0.self_attn.q_proj.weight",
    )
    assert not any(decoder_weight(name) for name in names)
    decoder = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert decoder_weight(decoder) == (0, "self_attn.q_proj")


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("layers.3.self_attn.q_proj.weight", (3, "self_attn.q_proj")),
        ("model.language_model.layers.12.mlp.down_proj.weight", (12, "mlp.down_proj")),
        ("model.language_model.layers.0.conv.in_proj.weight", (0, "conv.in_proj")),
        ("model.text_model.layers.0.mlp.gate_up_proj.weight", (0, "mlp.gate_up_proj")),
        ("model.layers.3.self_attn.q_proj.bias", None),
        ("model.layers.3.mlp.down_proj.weight_scale", None),
        ("model.sublayers.3.mlp.down_proj.weight", None),
        ("model.connector.layers.3.mlp.down_proj.weight", None),
        ("model.vision_model.layers.3.self_attn.q_proj.weight", None),
    ],
)
def test_names_of_decoder_linears(name: str, linear: tuple[int, str] | None) -> None:
    assert decoder_weight(name) == linear


def spoil_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a folder's config says of its first layer."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"]["layers"][0])
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer["linears"].pop("q_proj"),
        lambda layer: layer.pop("tier"),
        lambda layer: layer["linears"]["q_proj"].pop("shape"),
        lambda layer: layer["linears"]["q_proj"].update(shape=[1, 2, 3]),
        lambda layer: layer["linears"]["q_proj"]["buffers"].update(weight=["save", [1]]),
        lambda layer: layer["linears"]["q_proj"]["buffers"].update(weight=["nothing", [1]]),
        lambda layer: layer.update(linears=None),
    ],
)
def test_a_config_that_does_not_say_how_a_linear_is_packed_is_an_error(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    from transformers import AutoModelForImageTextToText

    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    spoil_config(copy, change)
    with pytest.raises(ModelError, match=r"how layers\.0\.self_attn\.q_proj is packed"):
        AutoModelForImageTextToText.from_pretrained(copy)


def test_a_buffer_of_another_shape_is_named(exported: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    with safe_open(copy / SINGLE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name in tensors if name.endswith("layers.2.mlp.up_proj.codes"))
    tensors[name] = torch.zeros(4, 1, dtype=tensors[name].dtype)
    save_file(tensors, copy / SINGLE, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"layers\.2\.mlp\.up_proj has codes of the shape \[4, 1\]"
    ):
        AutoModelForImageTextToText.from_pretrained(copy)


def test_a_config_of_another_number_of_layers_is_an_error(exported: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"]["layers"].pop()
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="packs 9 layers, but its model has 10"):
        AutoModelForImageTextToText.from_pretrained(copy)
