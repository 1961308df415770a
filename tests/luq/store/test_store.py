"""The store: made once, found again, never torn, damage named."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luq.errors import StoreError
from luq.store.sealed import sealed
from luq.store.store import JOURNAL, MANIFEST, NotMade, Store, write_json
from luq.store.versions import versions
from tests.luq.store.notes import Note


def test_made_once_then_found(tmp_path: Path) -> None:
    note = Note("hello")
    store = Store(tmp_path)
    assert not store.has(note)
    assert store.get(note) == "hello"
    assert (store.made, store.found) == ([note.label], [])
    assert store.get(note) == "hello"
    assert store.found == [], "what this process made is not counted as found"
    later = Store(tmp_path)
    assert later.get(note) == "hello"
    assert (later.made, later.found) == ([], [note.label])


def test_what_is_needed_is_made_first(tmp_path: Path) -> None:
    question = Note("how?")
    store = Store(tmp_path)
    assert store.get(Note("so", (question,))) == "how? so"
    assert store.used() == sorted([question.label, Note("so", (question,)).label])


def test_what_was_used_is_the_same_whether_made_or_found(tmp_path: Path) -> None:
    """A record must not depend on who came first."""
    answer = Note("so", (Note("how?"),))
    maker = Store(tmp_path)
    maker.get(answer)
    finder = Store(tmp_path)
    finder.get(answer)
    assert finder.found == [answer.label]
    assert finder.used() == maker.used()
    assert finder.used_versions() == maker.used_versions()


def test_a_peek_makes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(NotMade):
        store.peek(Note("hello"))
    assert list(store.labels()) == []
    store.get(Note("hello"))
    assert store.peek(Note("hello")) == "hello"


def test_a_manifest_says_what_made_it(tmp_path: Path) -> None:
    question = Note("how?")
    answer = Note("so", (question,))
    store = Store(tmp_path)
    store.get(answer)
    manifest = store.manifest("note", answer.key)
    assert manifest["needs"] == [question.label]
    assert manifest["versions"] == versions()
    assert manifest["identity"] == answer.identity()
    assert store.used_versions()["torch"] == versions()["torch"]


def test_versions_that_differ_are_joined(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get(Note("a"))
    file = store.folder(Note("a")) / MANIFEST
    manifest = json.loads(file.read_text())
    manifest["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(sealed(manifest)))
    later = Store(tmp_path)
    later.get(Note("a"))
    later.get(Note("b"))
    assert later.used_versions()["torch"] == f"1.0, {versions()['torch']}"


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone"])
def test_damage_is_named_with_its_remedy(tmp_path: Path, damage: str) -> None:
    note = Note("hello")
    store = Store(tmp_path)
    store.get(note)
    file = store.folder(note) / "a.txt"
    if damage == "gone":
        file.unlink()
    else:
        file.write_text({"changed": "jello", "shorter": "h"}[damage])
    with pytest.raises(StoreError, match=r"a\.txt .*delete .*note/.* and run again"):
        Store(tmp_path).get(note)


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3}'])
def test_a_broken_manifest_is_named(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    store.get(Note("hello"))
    (store.folder(Note("hello")) / MANIFEST).write_text(content)
    with pytest.raises(StoreError, match="cannot be read"):
        Store(tmp_path).get(Note("hello"))


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.get(Note("fails"))
    assert not store.has(Note("fails"))
    assert list((tmp_path / "note").iterdir()) == []


def test_what_a_killed_process_should_find_again_goes_when_all_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    note = Note("hello")
    partial = store.resumable(note, "partial.jsonl")
    partial.parent.mkdir(parents=True)
    partial.write_text("half")
    store.get(note)
    assert not partial.exists()


def test_a_removed_artefact_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    note = Note("hello")
    store.get(note)
    assert list(store.labels()) == [("note", note.key)]
    assert store.remove("note", note.key)
    assert list(store.labels()) == []
    assert Store(tmp_path).get(note) == "hello"


def test_torn_lines_of_the_journal_are_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get(Note("hello"))
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"stage": "no')
    entries = store.built()
    assert [(entry.stage, entry.key) for entry in entries] == [("note", Note("hello").key)]
    assert entries[0].bytes == len("hello")


SLOW = """
import sys
from pathlib import Path
from luq.store.sealed import sealed
from luq.store.store import Store
from tests.luq.store.notes import Note
root = Path(sys.argv[1])
Store(root).get(Note("whole", sleep=float(sys.argv[2]), started=root / "started"))
"""


def started(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Another process that is at the making of a note."""
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
    assert not store.has(Note("whole"))
    assert store.get(Note("whole")) == "whole"
    assert [folder.name for folder in (tmp_path / "note").iterdir()] == [Note("whole").key]


def test_two_processes_make_a_key_once(tmp_path: Path) -> None:
    process = started(tmp_path, 1.0)
    store = Store(tmp_path)
    assert store.get(Note("whole")) == "whole"
    assert store.made == []
    assert process.wait() == 0


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "x" / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


def test_what_a_kill_after_the_rename_left_is_tidied_by_the_next(tmp_path: Path) -> None:
    Store(tmp_path).get(Note("a"))
    later = Store(tmp_path)
    partial = later.resumable(Note("a"), "partial.jsonl")
    partial.write_text("{}")
    later.get(Note("a"))
    assert not partial.exists()


@pytest.mark.parametrize("line", [b"\xff\x82", b"[1]", b"{", b'{"stage": 1}', b"[" * 100_000])
def test_damaged_lines_of_the_journal_are_left_out(tmp_path: Path, line: bytes) -> None:
    store = Store(tmp_path)
    store.get(Note("a"))
    with (tmp_path / "built.jsonl").open("ab") as journal:
        journal.write(line + b"\n")
    store.get(Note("b"))
    assert [built.what for built in store.built()] == [Note("a").description, Note("b").description]
