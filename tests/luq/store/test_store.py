import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luq.errors import StoreError
from luq.store.store import MANIFEST, Store, write_json


def build(text: str = "hello"):
    def write(folder: Path) -> None:
        (folder / "a.txt").write_text(text)

    return write


def never(folder: Path) -> None:
    raise AssertionError("must not be built again")


def test_made_once_then_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.get("stage", "key", build())
    assert (folder / "a.txt").read_text() == "hello"
    assert store.made == ["stage/key"]
    again = Store(tmp_path)
    assert again.get("stage", "key", never) == folder
    assert (again.made, again.found) == ([], ["stage/key"])
    store.get("stage", "key", never)
    assert store.found == []  # what this process made is not counted as found


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone"])
def test_damage_is_named_with_its_remedy(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    file = store.get("stage", "key", build()) / "a.txt"
    {
        "changed": lambda: file.write_text("jello"),
        "shorter": lambda: file.write_text("h"),
        "gone": file.unlink,
    }[damage]()
    with pytest.raises(StoreError, match=r"a\.txt .*delete .*stage/key and run again"):
        store.get("stage", "key", never)


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.get("stage", "key", build())
    (folder / MANIFEST).write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        store.get("stage", "key", never)


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise RuntimeError("stop")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.get("stage", "key", fails)
    assert not store.has("stage", "key")
    assert [p.name for p in (tmp_path / "stage").iterdir() if not p.name.endswith(".lock")] == []


SLOW = """
import sys, time
from pathlib import Path
from luq.store.store import Store
def build(folder):
    (folder / "a.txt").write_text("half")
    Path(sys.argv[1], "started").touch()
    time.sleep(float(sys.argv[2]))
    (folder / "a.txt").write_text("whole")
Store(Path(sys.argv[1])).get("stage", "key", build)
"""


def started(folder: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(folder), str(seconds)])
    for _ in range(400):
        if (folder / "started").exists():
            return process
        time.sleep(0.05)
    raise AssertionError("the other process did not start")


def test_killed_while_writing_leaves_no_artefact(tmp_path: Path) -> None:
    process = started(tmp_path, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = Store(tmp_path)
    assert not store.has("stage", "key")
    folder = store.get("stage", "key", build("mine"))
    assert (folder / "a.txt").read_text() == "mine"


def test_two_processes_make_a_key_once(tmp_path: Path) -> None:
    process = started(tmp_path, 1.0)
    store = Store(tmp_path)
    folder = store.get("stage", "key", never)
    assert process.wait() == 0
    assert (folder / "a.txt").read_text() == "whole"


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "x" / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
