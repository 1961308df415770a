"""The wheel alone, in an empty folder: what people who never open this repository have."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from luq import __version__

ROOT = Path(__file__).parent.parent
SMALL = [
    "calibration.tokens=2048", "profile.tokens=512", "profile.clusters=20", "profile.seeds=2",
    "evaluation.samples=4", "evaluation.fidelity=0", "evaluation.text_tokens=1024",
    "evaluation.benchmarks=[gqa]",
]  # fmt: skip
# A user's own modules may have general names: nothing of ours is taken for them.
LIBRARY_ALONE = """
import sys
import luq
import transformers.quantizers.auto
names = [name for name in sys.modules if name.partition(".")[0] in ("pipelines", "analysis")]
assert names == [], names
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    site = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return site


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which commands are given."""
    folder = tmp_path_factory.mktemp("empty")
    Image.new("RGB", (48, 48), "white").save(folder / "white.png")
    return folder


def python(site: Path, folder: Path, *words: str) -> str:
    """What a Python process prints that has the wheel's packages before this checkout's."""
    environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "80"}
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_what_is_read_at_run_time_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"luq", "pipelines", "analysis", "hydra_plugins", f"luq-{__version__}.dist-info"}
    for folder in ("luq", "pipelines", "analysis", "conf"):
        for file in (ROOT / folder).rglob("*"):
            place = file.relative_to(ROOT).as_posix()
            is_ours = file.is_file() and "__pycache__" not in place and "conf/local" not in place
            installed_name = f"pipelines/{place}" if folder == "conf" else place
            assert not is_ours or installed_name in names


def test_the_library_imports_none_of_the_pipeline(installed: Path, empty: Path) -> None:
    python(installed, empty, "-c", LIBRARY_ALONE)


def test_every_command_works(installed: Path, empty: Path) -> None:
    def luq(*words: str) -> str:
        return python(installed, empty, "-m", "pipelines.cli", *words)

    where = python(
        installed, empty, "-c", "import luq, pipelines; print(luq.__file__, pipelines.__file__)"
    )
    assert where.count(str(installed)) == 2
    assert luq("--version") == f"luq {__version__}\n"
    assert "Record:" in luq("run", "allocation.k=4", "group=mine", *SMALL)
    # the run above has made all layers that these two need
    assert "float16" in luq("sweep", "card", "experiment=float16,gptq4", *SMALL)
    assert "2 done" in luq("status", "card", "experiment=float16,gptq4", *SMALL)
    assert "report.html" in luq("report", "card").replace("\n", "")
    assert (empty / "outputs" / "report" / "card" / "report.html").stat().st_size > 500_000
    key = next((empty / "outputs" / "runs").iterdir()).name
    assert "load it" in luq("export", key, "model")
    assert "are what was exported" in luq("info", "model", "--verify")
    assert luq("chat", "model", "--image", "white.png", "--question", "How many shapes are there?")
    assert "gqa.parquet" in luq("pocket", "data", "data")
    assert {path.name for path in empty.iterdir()} == {"outputs", "model", "data", "white.png"}
