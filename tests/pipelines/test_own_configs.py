"""Configs of a user's own, from a folder outside of the package."""

import shlex
import shutil
from pathlib import Path

import pytest

from luq.pocket.shipped import WEIGHTS
from pipelines import runs_folder
from tests.pipelines.command import luq

SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=4", "evaluation.fidelity=0", "evaluation.text_tokens=1024",
    "evaluation.benchmarks=[gqa]", "tracking=none",
]  # fmt: skip
MODEL = """
name: my_llava
path: {path}
benchmarks: [gqa]
data: pocket
text: pocket
"""
EXPERIMENT = """
# @package _global_
defaults:
  - override /allocation: uniform
quantizer: {high: gptq3}
"""
SWEEP = """
about: "mine"
base: [model=my_llava]
grid:
  - experiment: mine,gptq4
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a model, an experiment and a sweep."""
    checkpoint = shutil.copytree(WEIGHTS / "pocket_llava", tmp_path / "checkpoint")
    folder = tmp_path / "my configs"
    for name, content in {
        "model/my_llava": MODEL.format(path=checkpoint),
        "experiment/mine": EXPERIMENT,
        "sweep/two": SWEEP,
    }.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


def test_own_model_and_experiment_run_and_are_named_in_the_command(
    own: Path, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    words = ["--config-dir", str(own), "model=my_llava", "experiment=mine", *SMALL]
    done = luq("run", *words, f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = runs_folder.iterate(outputs)
    assert record.config.model.name == "my_llava"
    assert set(record.tiers) == {"gptq3"}
    again = luq(*shlex.split(record.command)[1:], f"paths.outputs={outputs}")
    assert again.returncode == 0, again.stderr
    assert "0 made" in again.stdout


def test_an_own_sweep_is_listed_planned_run_and_done(own: Path, tmp_path: Path) -> None:
    words = ["two", "--config-dir", str(own), *SMALL, f"paths.outputs={tmp_path / 'outputs'}"]
    assert "two" in luq("sweep", "--config-dir", str(own)).stdout
    assert luq("sweep", *words, "--plan").returncode == 0
    done = luq("sweep", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 done" in luq("status", *words).stdout


@pytest.mark.parametrize("command", ["run", "sweep", "status"])
def test_a_folder_that_is_not_there_is_said(tmp_path: Path, command: str) -> None:
    name = [] if command == "run" else ["card"]
    words = ["--config-dir", str(tmp_path / "none"), "order=entropy"]
    done = luq(command, *name, *words, f"paths.outputs={tmp_path}")
    assert done.returncode == 1
    assert "there is no such folder" in done.stderr.replace("\n", " ")


def test_an_own_name_hides_none_that_ships(own: Path, tmp_path: Path) -> None:
    (own / "model" / "pocket_llava.yaml").write_text("name: other")
    words = ["--config-dir", str(own), "model=pocket_llava", f"paths.outputs={tmp_path}"]
    done = luq("run", *words)
    assert done.returncode == 1
    assert "give it another one" in done.stderr.replace("\n", " ")


def test_unknown_choices_are_answered_with_own_ones(own: Path, tmp_path: Path) -> None:
    done = luq("run", "--config-dir", str(own), "model=my_lava", f"paths.outputs={tmp_path}")
    assert done.returncode == 1
    assert "did you mean my_llava" in done.stderr
