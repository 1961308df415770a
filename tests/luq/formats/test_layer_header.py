"""What a layer's header and the note of its size say is what its tensors say."""

import json
from pathlib import Path

import pytest

from luq.errors import StoreError
from luq.formats.artefacts import LayerFolder
from luq.formats.base import PackedWeight
from luq.formats.layer_file import FILE, layer_size, read_layer, write_layer
from luq.formats.layer_header import SIZE, linear_bytes, read_size, write_size
from tests.luq.formats.weights import binaries, copies, integers, ternaries


@pytest.mark.parametrize("weight", [integers(9, 20, 3, 3, False, 8), ternaries(9, 20, 3, 8)])
def test_bytes_of_linears_are_those_of_their_tensors(weight: PackedWeight, tmp_path: Path) -> None:
    write_layer(tmp_path, copies(weight))
    expected = {}
    for name, packed in read_layer(tmp_path).items():
        expected[name] = sum(buffer.nbytes for buffer in packed.buffers.values())
    assert linear_bytes(tmp_path) == expected


def test_a_size_comes_back(tmp_path: Path) -> None:
    layer = copies(binaries(16, 32, 8, 0.3))
    write_layer(tmp_path, layer)
    assert read_size(tmp_path) is None, "a store of an earlier version"
    size = LayerFolder(tmp_path).size()
    assert size == layer_size(tmp_path, layer)
    write_size(tmp_path, size)
    assert read_size(tmp_path) == LayerFolder(tmp_path).size() == size


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": 7},
        {"ledger": {"codes": 1}},
        {"weights": "many"},
        {"weights": None},
        {"unknown": 1},
        {"nominal_bits": float("nan")},
    ],
)
def test_a_size_of_another_file_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    layer = copies(integers(9, 24, 3, 3, False))
    write_layer(tmp_path, layer)
    write_size(tmp_path, layer_size(tmp_path, layer))
    table = json.loads((tmp_path / SIZE).read_text(encoding="utf-8"))
    (tmp_path / SIZE).write_text(json.dumps(table | change), encoding="utf-8")
    with pytest.raises(StoreError, match=r"size\.json: it .* Delete"):
        read_size(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no header" * 9, b"[" * 10_000])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read"):
        linear_bytes(tmp_path)
    (tmp_path / SIZE).write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read"):
        read_size(tmp_path)
