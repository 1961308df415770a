"""An exported folder knows what it was: whatever is damaged is found before it is loaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from luq.allocation.allocations import Allocation
from luq.config import QuantizerConfig
from luq.config.building import build
from luq.errors import ConfigError, ModelError
from luq.export import checksums
from luq.export.about import ABOUT, about_json, read_about
from luq.export.checksums import VARIABLE, check_before_loading, check_complete, verify
from luq.export.folder import PackedModel, export
from luq.formats.layer_file import write_layer
from luq.models.vlm import VLM
from luq.models.weight_files import SINGLE
from luq.pocket.shipped import WEIGHTS as POCKET
from luq.quantization.methods import make_quantizer
from luq.store.writers import sole_writer
from tests.luq.export.facts import RUN

SOURCE = POCKET / "pocket_llava"
TIERS = {"rtn4": {"method": "rtn", "bits": 4}}


@pytest.fixture(scope="module")
def exported(vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model, rounded to 4 bits."""
    tiers = build(QuantizerConfig, {"low": "rtn4", "high": "rtn4", "tiers": TIERS}).tiers
    quantizer = make_quantizer(tiers["rtn4"])
    root = tmp_path_factory.mktemp("checksums")
    folders: list[Path] = []
    for index in range(len(vlm.layers)):
        layer = {}
        for name, weight in vlm.original(index).items():
            layer[name] = quantizer.quantize(weight.float(), None)
        folder = root / f"layer{index}"
        folder.mkdir()
        write_layer(folder, layer)
        folders.append(folder)
    model = PackedModel(SOURCE, folders, Allocation(("rtn4",) * len(folders)))
    return export(model, root / "model", RUN)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def flip(file: Path, place: int) -> None:
    """Change one bit of a byte of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_every_file_but_the_card_has_a_checksum(exported: Path) -> None:
    names = {file.name for file in exported.iterdir()}
    assert set(verify(exported).files) == names - {ABOUT, "README.md"}
    assert {SINGLE, "config.json", "tokenizer.json"} <= names


@pytest.mark.parametrize(
    "name", [SINGLE, "config.json", "tokenizer.json", "tokenizer_config.json", ABOUT]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_flipped_bit_is_found(copy: Path, name: str, share: float) -> None:
    file = copy / name
    flip(file, int(share * file.stat().st_size))
    with pytest.raises(ModelError, match=name):
        verify(copy)
    with pytest.raises(ModelError, match=name):
        check_before_loading(copy)


def test_plain_transformers_stops_too(copy: Path) -> None:
    flip(copy / SINGLE, -1)
    with pytest.raises(ModelError, match="its bytes are not those"):
        AutoModelForImageTextToText.from_pretrained(copy)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / SINGLE).unlink(), "missing"),
        (lambda folder: (folder / SINGLE).write_bytes(b""), "0 bytes"),
        (lambda folder: (folder / "config.json").write_text("{}"), "2 bytes"),
    ],
    ids=["gone", "empty", "another"],
)
def test_missing_and_other_files_are_named(
    copy: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=said):
        verify(copy)
    if said != "missing":
        with pytest.raises(ModelError, match=said):
            check_before_loading(copy)


def test_a_model_is_loaded_without_its_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    check_before_loading(copy)
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        check_complete(copy, read_about(copy))


def test_all_that_is_damaged_is_said_at_once(copy: Path) -> None:
    flip(copy / SINGLE, -1)
    flip(copy / "tokenizer.json", -2)
    (copy / "added_tokens.json").write_text("{}")
    with pytest.raises(ModelError) as refusal:
        verify(copy)
    for name in (SINGLE, "tokenizer.json", "added_tokens.json: it was not exported"):
        assert name in str(refusal.value)


def test_of_large_weights_sizes_and_headers_are_compared(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "QUICK_BYTES", 0)
    flip(copy / SINGLE, -1)
    check_before_loading(copy)
    monkeypatch.setenv(VARIABLE, "always")
    with pytest.raises(ModelError, match="its bytes"):
        check_before_loading(copy)
    monkeypatch.setenv(VARIABLE, "auto")
    flip(copy / SINGLE, 20)
    with pytest.raises(ModelError, match="its header"):
        check_before_loading(copy)
    monkeypatch.setenv(VARIABLE, "never")
    check_before_loading(copy)
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(ConfigError, match="LUQ_VERIFY='yes'"):
        check_before_loading(copy)


def test_the_card_may_be_edited(copy: Path) -> None:
    (copy / "README.md").write_text("mine")
    verify(copy)


def test_a_folder_of_an_earlier_version_says_that_it_holds_none(copy: Path) -> None:
    about = replace(read_about(copy), files={})
    (copy / ABOUT).write_text(json.dumps(about_json(about)))
    with pytest.raises(ModelError, match="no checksums"):
        verify(copy)
    check_before_loading(copy)


def test_two_exports_into_one_folder_are_one(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    folders = [exported] * 12  # never read
    with sole_writer(target, "export"):
        process_of_another = PackedModel(SOURCE, folders, Allocation(("rtn4",) * 12))
        with pytest.raises(Exception, match="another export is writing"):
            export(process_of_another, target)
    assert list(tmp_path.iterdir()) == []
