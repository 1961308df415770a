"""The command line: what people type, what it answers, and how little it takes to answer."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from luq import __version__
from luq.pocket.shipped import WEIGHTS
from pipelines.completion import candidates
from tests.conftest import BENCHMARKS
from tests.pipelines.command import luq

COMMANDS = ["compare", "export", "report", "run", "status", "store", "sweep"]


def test_help_names_every_command() -> None:
    shown = luq("--help", width=100)
    assert shown.returncode == 0
    for word in ("run", "profile", "quantize", "evaluate", "pocket", "allocation.k=0,2,4,6"):
        assert word in shown.stdout
    assert max(len(line) for line in luq("--help").stdout.splitlines()) <= 80


def test_the_version_is_said() -> None:
    assert luq("--version").stdout == f"luq {__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rnu"], 1, "unknown command 'rnu': did you mean run"),
        (["sweep", "paretto"], 1, "did you mean pareto"),
        (["info"], 2, "Missing argument"),
        (["export", "a", "b", "--format", "c"], 2, "compressed-tensors"),
        (["compare", "a"], 1, "luq compare needs two runs"),
        (["run", "model=pocket_lava"], 1, "did you mean pocket_llava"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], code: int, message: str) -> None:
    done = luq(*words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_words_of_the_process_are_left_alone(tmp_path: Path) -> None:
    before = list(sys.argv)
    luq("run", "--cfg", "job", f"paths.outputs={tmp_path}")
    assert sys.argv == before


def test_a_jobs_config_is_shown() -> None:
    shown = luq("run", "--cfg", "job", "allocation=budget", "allocation.bits=3").stdout
    assert "name: budget" in shown
    assert "bits: 3" in shown


def test_named_sweeps_are_listed() -> None:
    shown = luq("sweep")
    assert shown.returncode == 0
    assert "pareto" in shown.stdout


@pytest.mark.parametrize(
    "words", ["--help", "run --help", "status card", "store du", "complete -- run order=e", "sweep"]
)
def test_a_quick_command_imports_nothing_heavy(words: str, tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "sklearn", "scipy", "datasets", "lm_eval", "wandb")
    code = (
        "import sys; from pipelines.cli import main; code = main(sys.argv[1:]); "
        f"loaded = [m for m in {heavy} if m in sys.modules]; sys.exit(str(loaded) if loaded else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "LUQ_OUTPUTS": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("luq s", {"status", "store", "sweep"}),
        ("luq sweep p", {"pareto", "propagation", "paper_llava", "paper_qwen"}),
        ("luq run order=ent", {"order=entropy", "order=entropy_reverse"}),
        ("luq run calib", {"calibration=", *(f"calibration.{name}=" for name in (
            "alpha", "benchmarks", "image_factor", "name", "sample_tokens", "seed", "source", "text",
            "tokens", "weighting",
        ))}),
        ("luq sweep pareto calibration=t", {"calibration=text"}),
        ("luq run allocation.q", {"allocation.quantile="}),
        ("luq info ", set()),
    ],
)  # fmt: skip
def test_tab_completion(line: str, expected: set[str]) -> None:
    words = line.split(" ")[1:]
    assert set(candidates(words, COMMANDS)) == expected
    shown = luq("complete", "--", *words).stdout.split()
    assert set(shown) == expected


def test_pocket_data_writes_nine_parquet_files(tmp_path: Path) -> None:
    done = luq("pocket", "data", str(tmp_path), "--split", "selection")
    assert done.returncode == 0, done.stderr
    for name in BENCHMARKS:
        assert len(pd.read_parquet(tmp_path / f"{name}.parquet")) >= 100


def test_pocket_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    first = luq("pocket", "train", str(tmp_path), "--steps", "2", "--vision-steps", "2")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()
    second = luq("pocket", "train", str(tmp_path), "--steps", "3", "--vision-steps", "2")
    assert second.returncode == 0, second.stderr
    assert "checkpoint" in second.stdout
    start = str(WEIGHTS / "pocket_llava")
    third = luq("pocket", "train", str(tmp_path / "more"), "--steps", "1", "--start", start)
    assert third.returncode == 0, third.stderr
    assert not (tmp_path / "more" / "vision.pt").exists()
