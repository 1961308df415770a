"""One process at a time writes a target."""

import subprocess
import sys
from pathlib import Path

import pytest

from luq.errors import StoreError
from luq.store.writers import sole_writer

HOLDER = """
import sys
from pathlib import Path
from luq.store.writers import sole_writer
with sole_writer(Path(sys.argv[1]), "export"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(target: Path) -> "subprocess.Popen[str]":
    """A process that writes the target until it is told to stop."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_writer_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "model"
    first = holder(target)
    with (
        pytest.raises(StoreError, match=f"another export is writing {target}"),
        sole_writer(target, "export"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]
    first.communicate("\n")
    with sole_writer(target, "export"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    first = holder(tmp_path / "model")
    first.kill()
    first.communicate()
    with sole_writer(tmp_path / "model", "export"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_same_folder_is_one_target_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = holder(tmp_path / "model")
    for name in ("model", "./model/", "x/../model"):
        with pytest.raises(StoreError, match="another"), sole_writer(Path(name), "export"):
            pass
    first.communicate("\n")


def test_the_root_is_no_target() -> None:
    with pytest.raises(StoreError, match="give a folder"), sole_writer(Path("/"), "report"):
        pass
