"""A layer's file comes back as it was written, and what was not written so is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from luq.errors import StoreError
from luq.formats.base import PackedWeight
from luq.formats.layer_file import FILE, layer_size, read_layer, write_layer
from luq.formats.packing import pack_bits
from luq.models.families import LINEARS
from tests.luq.formats.weights import copies, integers, row_columns, ternaries

Tensors = dict[str, torch.Tensor]
Entries = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_layer(tmp_path, {name: row_columns(9, 20, 8, 0.3) for name in LINEARS})
    return tmp_path


def rewrite(folder: Path, change: Callable[[Tensors, Entries], object]) -> None:
    """Change a file's tensors and metadata in place."""
    with safe_open(folder / FILE, framework="pt") as file:
        entries = json.loads(file.metadata()["luq"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, entries)
    save_file(tensors, folder / FILE, metadata={"luq": json.dumps(entries)})


def test_a_layer_comes_back_and_its_ledger_is_its_size(folder: Path) -> None:
    layer = read_layer(folder)
    assert tuple(layer) == LINEARS
    size = layer_size(folder, layer)
    assert size.bytes == (folder / FILE).stat().st_size
    assert sum(size.ledger.values()) == size.bytes
    assert size.weights == 7 * 9 * 20
    nominal = sum(weight.nominal_bits for weight in layer.values()) / 7
    assert size.nominal_bits == pytest.approx(nominal)
    copy = folder / "copy"
    copy.mkdir()
    write_layer(copy, layer)
    assert (copy / FILE).read_bytes() == (folder / FILE).read_bytes()


@pytest.mark.parametrize("weight", [integers(9, 20, 3, 3, False, 8), ternaries(9, 20, 3, 8)])
def test_a_short_last_group_comes_back_with_its_size(weight: PackedWeight, tmp_path: Path) -> None:
    write_layer(tmp_path, copies(weight))
    with safe_open(tmp_path / FILE, framework="pt") as file:
        entries = json.loads(file.metadata()["luq"])
    assert entries["q_proj"] == {"format": weight.format, "shape": [9, 20], "group_size": 8}
    layer = read_layer(tmp_path)
    for restored in layer.values():
        assert torch.equal(restored.dequantize(), weight.dequantize())
        assert restored.meta == {"group_size": 8}
    assert layer_size(tmp_path, layer).ledger["scales"] == 7 * 9 * 3 * 2


def test_groups_that_divide_the_columns_are_stored_without_their_size(tmp_path: Path) -> None:
    """So files of these widths are what they always were."""
    write_layer(tmp_path, copies(integers(9, 24, 3, 3, False)))
    with safe_open(tmp_path / FILE, framework="pt") as file:
        entries = json.loads(file.metadata()["luq"])
    assert entries["q_proj"] == {"format": "integer", "shape": [9, 24]}


DAMAGE: dict[str, tuple[Callable[[Tensors, Entries], object], str]] = {
    "a missing linear": (
        lambda _, entries: entries.pop("k_proj"),
        "unknown linears k_proj",
    ),
    "an unknown linear": (
        lambda _, entries: entries.update(x_proj=entries["k_proj"]),
        "linear x_proj: .* must be there, but is missing",
    ),
    "an unknown tensor": (
        lambda tensors, _: tensors.update({"x_proj.codes": torch.ones(1)}),
        "unknown linears x_proj",
    ),
    "an unknown buffer": (
        lambda tensors, _: tensors.update({"k_proj.codes": torch.ones(1)}),
        "linear k_proj: .*'codes' must be absent",
    ),
    "a missing buffer": (
        lambda tensors, _: tensors.pop("k_proj.signs"),
        "linear k_proj: .*'signs' must be there",
    ),
    "no buffers": (
        lambda tensors, _: [tensors.pop(n) for n in list(tensors) if n.startswith("k_proj")],
        "linear k_proj: .*must be there",
    ),
    "another type": (
        lambda tensors, _: tensors.update({"k_proj.signs": tensors["k_proj.signs"].int()}),
        r"linear k_proj: .*'signs' must be uint8 \[23\], but is int32 \[23\]",
    ),
    "content": (
        lambda tensors, _: tensors.update({"k_proj.salient": pack_bits(torch.ones(20))}),
        "linear k_proj: .*'salient' must be marks",
    ),
    "no format": (lambda _, entries: entries["k_proj"].pop("format"), "its format is None"),
    "an unknown format": (
        lambda _, entries: entries["k_proj"].update(format="fractal"),
        "unknown format 'fractal'",
    ),
    "no shape": (lambda _, entries: entries["k_proj"].pop("shape"), "its shape is None"),
    "a shape of three": (
        lambda _, entries: entries["k_proj"].update(shape=[1, 2, 3]),
        r"its shape is \[1, 2, 3\]",
    ),
    "a shape of fractions": (
        lambda _, entries: entries["k_proj"].update(shape=[9.0, 20]),
        r"its shape is \[9.0, 20\]",
    ),
    "a negative shape": (
        lambda _, entries: entries["k_proj"].update(shape=[-9, -20]),
        "two whole numbers",
    ),
    "a negative block": (
        lambda _, entries: entries["k_proj"].update(block=-8),
        "linear k_proj: .*'block' must be",
    ),
    "an unknown number": (lambda _, entries: entries["k_proj"].update(self=1), "'self' is unknown"),
    "an entry that is no object": (
        lambda _, entries: entries.update(k_proj=[1]),
        "linear k_proj: the metadata does not describe it",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_layer_is_refused_with_file_and_linear(folder: Path, name: str) -> None:
    change, message = DAMAGE[name]
    rewrite(folder, change)
    with pytest.raises(StoreError, match=message) as refused:
        read_layer(folder)
    assert str(refused.value).startswith(str(folder / FILE))
    assert f"Delete {folder} and run again" in str(refused.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no luq metadata"),
        ({"luq": "{"}, "not JSON"),
        ({"luq": "[]"}, "not an object"),
        ({"luq": "null"}, "not an object"),
    ],
)
def test_metadata_that_is_none_is_refused(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    save_file({"q_proj.codes": torch.zeros(1)}, tmp_path / FILE, metadata=metadata)
    with pytest.raises(StoreError, match=message):
        read_layer(tmp_path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        read_layer(tmp_path)
    (tmp_path / FILE).write_bytes(b"no safetensors")
    with pytest.raises(StoreError, match="cannot be read"):
        read_layer(tmp_path)
