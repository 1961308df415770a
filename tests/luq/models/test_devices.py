"""Devices that are not there: said before any work."""

from pathlib import Path

import pytest

from luq.config import ModelConfig
from luq.errors import ConfigError
from luq.models import devices
from luq.models.checkpoint import checkpoint
from luq.models.vlm import load_vlm
from pipelines.devices import free
from tests.pipelines.command import luq_to


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_cuda", lambda: False)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:", "cuda:x", "cuda:-1", "CUDA", "", "cpu:0"])
def test_names_that_are_no_device(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.device=.*auto, cpu, cuda or cuda:N"):
        ModelConfig("m", "pocket:pocket_llava", device=name)


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_where_there_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.device={name} .*\(here: cpu\)"):
        load_vlm(ModelConfig("m", "pocket:pocket_llava", device=name))


def test_the_third_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:1"):
        devices.require(name)
    with pytest.raises(ConfigError, match=r"cuda:2 .*here: cpu, cuda:0, cuda:1"):
        devices.require("cuda:2")


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("command", ["run", "profile", "quantize"])
def test_a_command_stops_before_any_work(tmp_path: Path, command: str) -> None:
    done = luq_to(tmp_path, command, "model.device=cuda:7")
    assert done.returncode == 1
    assert "model.device=cuda:7" in done.stderr.replace("\n", " ")
    assert not [file for file in (tmp_path / "store").rglob("*.json") if file.is_file()]


@pytest.mark.usefixtures("without_cuda")
def test_a_job_is_given_no_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cuda:7"), free("cuda:7"):
        pass
    with free("cpu") as device:
        assert device == "cpu"


@pytest.mark.usefixtures("without_cuda")
def test_keys_of_a_run_elsewhere_are_known_here() -> None:
    """A plan for a machine with a GPU is made on one without."""
    assert checkpoint(ModelConfig("m", "pocket:pocket_llava", device="cuda")).dtype == "float16"
