"""The next layer's bytes, and no others, are asked for in advance."""

import os

import pytest
import torch
from safetensors.torch import load_file

from luq.config import ModelConfig
from luq.models import read_ahead
from luq.models.families import decoder_weight
from luq.models.read_ahead import ReadAhead, advise
from luq.models.vlm import VLM, load_vlm
from luq.pocket.shipped import WEIGHTS

FOLDER = WEIGHTS / "pocket_llava"
FILE = FOLDER / "model.safetensors"
LAYERS = 10
Advice = list[tuple[int, int, int]]  # of each: start, length, which


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> Advice:
    given: Advice = []

    def note(descriptor: int, start: int, length: int, which: int) -> None:
        given.append((start, length, which))

    monkeypatch.setattr(os, "posix_fadvise", note)
    return given


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that are asked for in advance."""
    layers: list[int] = []
    monkeypatch.setattr(read_ahead, "advise", lambda folder, layer: layers.append(layer))
    return layers


def test_a_layer_s_bytes_are_asked_for_piece_by_piece(
    advice: Advice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "PIECE", 5000)
    advise(FOLDER, 3)
    content = FILE.read_bytes()
    asked = b"".join(content[start : start + length] for start, length, _ in advice)
    expected: dict[str, bytes] = {}
    for name, tensor in load_file(FILE).items():
        place = decoder_weight(name)
        if place is not None and place[0] == 3:
            expected[name] = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    assert len(expected) == 9, "seven linears and two norms"
    assert len(asked) == sum(len(part) for part in expected.values())
    for part in expected.values():
        assert part in asked
    assert max(length for _, length, _ in advice) == 5000
    assert {which for _, _, which in advice} == {os.POSIX_FADV_WILLNEED}


def test_each_layer_is_asked_for_once_and_none_after_the_last(begun: list[int]) -> None:
    ahead = ReadAhead(FOLDER, 4)
    for layer in (0, 0, 0, 1, 2, 2, 3, 3, 0):
        ahead.begin(layer)
    assert begun == [1, 2, 3, 1]


def test_where_no_advice_is_taken_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    advise(FOLDER, 3)


@torch.no_grad()
def test_a_streamed_model_says_what_it_reads_next(begun: list[int]) -> None:
    vlm = load_vlm(ModelConfig("pocket", "pocket:pocket_llava", device="cpu", stream=True))
    vlm.model(input_ids=torch.arange(5, 9).unsqueeze(0))
    assert begun == list(range(1, LAYERS))
    vlm.original(4)
    vlm.original(4)
    assert begun[LAYERS - 1 :] == [5]


def test_a_model_in_memory_reads_nothing_more(vlm: VLM) -> None:
    assert vlm.ahead is None
    assert vlm.folder == FOLDER
