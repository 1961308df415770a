"""The shipped model whose rows fill llama.cpp's blocks: what it is, and the whole way to a laptop."""

import json
from pathlib import Path

import pytest

from luq.config import ModelConfig
from luq.models.checkpoint import linear_shapes
from luq.models.vlm import load_vlm
from luq.pocket.shipped import WEIGHTS
from pipelines import runs_folder, shipped
from tests.pipelines.command import luq

FOLDER = WEIGHTS / "pocket_wide"
SUPER_BLOCK = 256  # weights


def test_its_rows_are_whole_super_blocks() -> None:
    assert {columns % SUPER_BLOCK for _, columns in linear_shapes(FOLDER).values()} == {0}


def test_llama_cpp_computes_nothing_of_it_otherwise_that_is_known() -> None:
    vlm = load_vlm(ModelConfig("pocket_wide", "pocket:pocket_wide", device="cpu"))
    assert vlm.model.config.vision_config.window_size == 112
    cut = json.loads((FOLDER / "tokenizer.json").read_text())["pre_tokenizer"]
    assert (cut["type"], cut["use_regex"]) == ("ByteLevel", True), "as llama.cpp's gpt-2"


def test_it_ships_in_20_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 20e6


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of the paper's plan for laptops, and its folder for llama.cpp."""
    outputs = tmp_path_factory.mktemp("wide")
    words = ["model=pocket_wide", "quantizer.low=iq1_m", "quantizer.high=q4_k", "allocation.k=1"]
    words += ["quantizer.tiers.iq1_m.clip_steps=0", "quantizer.tiers.q4_k.clip_steps=0"]
    words += ["evaluation.samples=8", "evaluation.fidelity=0", "evaluation.text_tokens=0"]
    words += ["calibration.tokens=2048", "profile.tokens=256", "profile.clusters=10"]
    words += ["profile.seeds=1", "tracking=none", "evaluation.benchmarks=[textvqa,gqa]"]
    done = luq("run", *words, f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stderr
    (record,) = runs_folder.iterate(outputs)
    assert record.scores["textvqa"].float_score > 80, "it reads"
    folder = outputs / "folder"
    done = luq("export", record.key, str(folder), "--format", "gguf", "--outputs", str(outputs))
    assert done.returncode == 0, done.stderr
    return outputs, folder


def test_the_paper_s_plan_goes_to_llama_cpp_as_it_is(exported: tuple[Path, Path]) -> None:
    about = json.loads((exported[1] / "luq.json").read_text())
    assert "recoded" not in about
    assert "differences" not in about
    assert sorted(set(about["tiers"])) == ["iq1_m", "q4_k"]


@pytest.mark.llama_cpp
def test_llama_cpp_reads_the_same_prompts_and_answers_the_same(
    exported: tuple[Path, Path],
) -> None:
    outputs, folder = exported
    done = luq("evaluate", "--gguf", str(folder), "--outputs", str(outputs))
    assert done.returncode == 0, done.stderr
    (seen,) = shipped.iterate(outputs)
    alike = seen.alike_in_all
    assert alike.same_prompts == alike.prompts == alike.n == 16
    assert alike.same_answers >= 15
    assert alike.kl is not None
    assert alike.kl.mean < 0.01
