"""What waits on disk comes back bit for bit, and leaves nothing behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig
from luq.models.scratch import Scratch
from luq.models.vlm import VLM
from luq.quantization.layer import hessians
from luq.quantization.states import first_inputs, pass_through
from tests.conftest import pocket_samples


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_tensors_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    scratch = Scratch(tmp_path)
    values = [torch.randint(0, 200, (n, 3)).to(dtype) for n in (1, 0, 5)]
    slots = [scratch.put(v) for v in values]
    scratch.put(values[2] + 1, slots[2])
    values[2] = values[2] + 1
    for value, slot in zip(values, slots, strict=True):
        found = scratch.get(slot)
        assert found.dtype == dtype
        assert torch.equal(found, value)
    assert not list(tmp_path.iterdir()), "the file has no name: a killed process leaves nothing"


@pytest.fixture
def calibration(vlm: VLM) -> CalibrationSet:
    return pocket_samples(vlm, CalibrationConfig(name="multimodal", alpha=0.5, tokens=1024))


@pytest.mark.parametrize("gigabytes", [0.0, 3e-4], ids=["all on disk", "some on disk"])
@torch.no_grad()
def test_a_walk_on_disk_is_the_walk_in_memory(
    vlm: VLM,
    calibration: CalibrationSet,
    tmp_path: Path,
    gigabytes: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = first_inputs(vlm, calibration, tmp_path)
    monkeypatch.setattr(vlm, "config", replace(vlm.config, activations_gb=gigabytes))
    disk = first_inputs(vlm, calibration, tmp_path)
    waiting = [state._hidden.scratch is not None for state in disk]
    assert any(waiting)
    assert all(waiting) == (gigabytes == 0)
    for layer in list(vlm.layers)[:3]:
        groups = (("self_attn.q_proj",),)
        one, two = hessians(layer, memory, groups), hessians(layer, disk, groups)
        assert torch.equal(one["self_attn.q_proj"], two["self_attn.q_proj"])
        pass_through(layer, memory)
        pass_through(layer, disk)
        assert all(torch.equal(a.hidden, b.hidden) for a, b in zip(memory, disk, strict=True))
