import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import BENCHMARKS


def cli(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command() -> None:
    shown = cli("--help")
    assert shown.returncode == 0
    for word in ("run", "profile", "quantize", "evaluate", "pocket", "allocation.k=0,2,4,6"):
        assert word in shown.stdout


def test_pocket_data_writes_nine_parquet_files(tmp_path: Path) -> None:
    done = cli("pocket", "data", str(tmp_path), "--split", "selection")
    assert done.returncode == 0, done.stderr
    for name in BENCHMARKS:
        assert len(pd.read_parquet(tmp_path / f"{name}.parquet")) >= 100


def test_pocket_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    first = cli("pocket", "train", str(tmp_path), "--steps", "2", "--vision-steps", "2")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()
    second = cli("pocket", "train", str(tmp_path), "--steps", "3", "--vision-steps", "2")
    assert second.returncode == 0, second.stderr
    assert "checkpoint" in second.stdout
    shipped = Path(__file__).parents[2] / "luq" / "pocket" / "weights" / "pocket_llava"
    third = cli("pocket", "train", str(tmp_path / "more"), "--steps", "1", "--start", str(shipped))
    assert third.returncode == 0, third.stderr
    assert not (tmp_path / "more" / "vision.pt").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("luq s", {"sweep", "status"}),
        ("luq sweep p", {"pareto", "propagation", "paper_llava", "paper_qwen"}),
        ("luq run order=ent", {"order=entropy", "order=entropy_reverse"}),
        ("luq sweep pareto calibration=t", {"calibration=text"}),
        ("luq run allocation.q", {"allocation.quantile="}),
    ],
)
def test_tab_completion(line: str, expected: set[str]) -> None:
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [sys.executable, "-m", "pipelines.cli", "-sc", "query=bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == expected


def test_a_jobs_config_is_shown() -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        "--cfg",
        "job",
        "allocation=budget",
        "allocation.bits=3",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "name: budget" in shown
    assert "bits: 3" in shown
