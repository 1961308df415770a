"""Configs of a user's own, from a folder outside of the package."""

import shlex
import shutil
from pathlib import Path

import pytest

from luq.pocket import benchmarks
from luq.pocket.shipped import WEIGHTS
from pipelines import runs_folder
from pipelines.schema import with_own_model
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
quantizer: {high: rtn4}
"""
SWEEP = """
about: "mine"
base: [model=my_llava]
grid:
  - experiment: mine,float16
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
    assert set(record.tiers) == {"rtn4"}
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


POCKET_DATA = [
    "evaluation.data=pocket", "evaluation.text=pocket", "calibration.source=pocket",
    "calibration.text=pocket", "model.text_length=128",
]  # fmt: skip


def test_a_checkpoint_by_its_path_has_its_folders_name_and_asks_no_pocket_questions(
    own: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    refused = luq("run", f"model.path={checkpoint}", outputs, "model.text_length=128")
    assert refused.returncode == 1
    message = refused.stderr.replace("\n", " ")
    assert "lmms-lab/MME" in message, "questions of the hub, which this test has not"
    assert "evaluation.data" in message
    assert "calibration.source" in message
    assert not (tmp_path / "outputs" / "store" / "layers").exists(), "before any work"
    words = [f"model.path={checkpoint}", *SMALL, *POCKET_DATA, "allocation=uniform", outputs]
    done = luq("run", *words, "quantizer.high=rtn4")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = runs_folder.iterate(tmp_path / "outputs")
    assert record.config.model.name == "checkpoint"
    assert (record.config.model.data, record.config.model.text) == ("hub", "wikitext")
    assert "model=own" in record.command


MODELS = {
    "a folder": (["model.path=/a/llava"], ["model=own", "evaluation=quick"]),
    "a repository": (["model.path=me/llava"], ["model=own", "evaluation=quick"]),
    "with an evaluation": (["model.path=/a", "evaluation=full"], ["model=own"]),
    "with a model": (["model=llava_1_5_7b", "model.path=/a"], []),
    "a shipped one": (["model.path=pocket:pocket_qwen"], []),
    "none": (["allocation.k=2"], []),
}


@pytest.mark.parametrize(("words", "added"), MODELS.values(), ids=MODELS)
def test_what_a_path_alone_chooses(words: list[str], added: list[str]) -> None:
    assert with_own_model(words) == [*added, *words]
    assert with_own_model(words, ["model=mine"]) == words


def test_hydras_own_search_path_finds_own_configs(own: Path, tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    search = f"hydra.searchpath=['file://{own}']"
    words = ["model=my_llava", *SMALL, "allocation=uniform", "quantizer.high=rtn4", outputs]
    done = luq("run", search, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = runs_folder.iterate(tmp_path / "outputs")
    again = luq(*shlex.split(record.command)[1:], outputs)
    assert "0 made" in again.stdout, "its command names the folder"
    refused = luq("sweep", "two", "--config-dir", str(own), search, outputs)
    assert "--config-dir" in refused.stderr
    assert "did you mean my_llava" in luq("run", search, "model=my_lava", outputs).stderr


def test_a_source_of_one_benchmark_needs_no_plus(tmp_path: Path) -> None:
    words = ["run", *SMALL, f"paths.outputs={tmp_path / 'outputs'}", "allocation=uniform"]
    refused = luq(*words, f"evaluation.sources.gqa={tmp_path / 'none'}")
    assert refused.returncode == 1
    assert "gqa.parquet is missing" in refused.stderr.replace("\n", " ")
    benchmarks.write(tmp_path / "questions", "report")
    done = luq(*words, f"evaluation.sources.gqa={tmp_path / 'questions'}", "quantizer.high=rtn4")
    assert done.returncode == 0, done.stdout + done.stderr
