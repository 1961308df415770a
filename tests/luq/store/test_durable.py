"""What counts is on the disk before it counts."""

import os
from pathlib import Path

import pytest

from luq.store.store import Store, write_json
from tests.luq.store.notes import Note


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(sync or rename, name of the file or folder), as they happen."""
    happened: list[tuple[str, str]] = []
    fsync = os.fsync
    rename = os.replace

    def traced_fsync(descriptor: int) -> None:
        happened.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def traced_rename(source: Path, target: Path) -> None:
        happened.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_rename)
    return happened


def test_a_file_is_synced_before_its_name_and_its_folder_after(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    write_json(tmp_path / "record.json", {"a": 1})
    assert events == [
        ("sync", ".record.json.tmp"),
        ("rename", "record.json"),
        ("sync", tmp_path.name),
    ]


def test_all_of_an_artefact_is_synced_before_it_counts(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    note = Note("hello")
    Store(tmp_path).get(note)
    named = events.index(("rename", note.key))
    before = events[:named]
    assert {("sync", "a.txt"), ("sync", "manifest.json")} <= set(before)
    assert before[-1][0] == "sync"
    assert before[-1][1].startswith(f".{note.key}.tmp"), "the folder's names, last"
    assert events[named + 1] == ("sync", note.stage)
