"""The reliability campaign runs: a few cases of each of its quick parts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FEW = ["--kills=2", "--damage=3", "--inputs=6", "--folders=3"]


def campaign(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.skipif(sys.platform != "linux", reason="preloads a library as Linux does")
def test_a_small_campaign_holds() -> None:
    done = campaign("kills", "damage", "inputs", "folders", *FEW, "--seed=5")
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("kills", "damage", "inputs", "folders"):
        assert part in done.stdout
    assert "did not hold" not in done.stdout


def test_unknown_parts_are_named() -> None:
    done = campaign("nonsense")
    assert done.returncode == 2
    assert "there is no part 'nonsense'" in done.stderr
