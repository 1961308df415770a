"""`luq store`: what is kept, what no record needs, and what is damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from luq.store.store import Store
from pipelines import runs_folder
from pipelines.record import RunRecord, from_json
from tests.luq.store.notes import Note
from tests.pipelines.command import luq

GOLDEN = Path(__file__).parents[1] / "golden" / "records"
SHARED = Note("shared")
MINE = Note("mine", (SHARED,))
THEIRS = Note("theirs", (SHARED,))
NOBODYS = Note("nobody's")


def record(key: str, sweep: str, used: list[str]) -> RunRecord:
    file = next(iter(sorted(GOLDEN.glob("*4*.json"))))
    golden = from_json(json.loads(file.read_text()))
    artefacts = replace(golden.artefacts, used=used)
    return replace(golden, key=key, name=key, sweep=sweep, artefacts=artefacts)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two sweeps that share an artefact, and one that nobody needs."""
    store = Store(tmp_path / "store")
    for note in (MINE, THEIRS, NOBODYS):
        store.get(note)
    runs_folder.write(tmp_path, record("a", "one", [MINE.label]))
    runs_folder.write(tmp_path, record("b", "two", [THEIRS.label]))
    return tmp_path


def present(outputs: Path) -> set[str]:
    return {f"{stage}/{key}" for stage, key in Store(outputs / "store").labels()}


def test_bytes_are_told_by_stage_and_sweep(outputs: Path) -> None:
    shown = luq("store", "du", "--outputs", str(outputs))
    assert shown.returncode == 0
    for piece in ("note", "one", "two", "(no record)", "4 artefacts"):
        assert piece in shown.stdout


def test_only_what_no_record_needs_is_cleaned(outputs: Path) -> None:
    done = luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert done.returncode == 0
    assert present(outputs) == {SHARED.label, MINE.label, THEIRS.label}
    again = luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert "there is nothing that no record needs" in again.stdout


def test_a_sweep_is_dropped_without_touching_another(outputs: Path) -> None:
    done = luq("store", "clean", "--sweep", "one", "--yes", "--outputs", str(outputs))
    assert done.returncode == 0
    assert present(outputs) == {SHARED.label, THEIRS.label, NOBODYS.label}
    assert runs_folder.find(outputs, "one/a").key == "a", "its records stay"


def test_it_asks(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.confirm", lambda question: False)
    before = present(outputs)
    assert luq("store", "clean", "--outputs", str(outputs)).returncode == 1
    assert present(outputs) == before


def test_a_record_that_cannot_be_read_stops_the_cleaning(outputs: Path) -> None:
    """Nobody knows what it needs."""
    runs_folder.record_file(outputs, "a").write_text("{")
    done = luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert NOBODYS.label in present(outputs)


def test_nothing_is_cleaned_while_a_run_is_under_way(outputs: Path) -> None:
    before = present(outputs)
    with Store(outputs / "store").lock("run-x", "").acquire():
        done = luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert done.returncode == 1
    assert "a run is under way" in done.stderr
    assert present(outputs) == before


def test_damage_is_named(outputs: Path) -> None:
    assert luq("store", "verify", "--outputs", str(outputs)).returncode == 0
    (Store(outputs / "store").folder(MINE) / "a.txt").write_text("other")
    done = luq("store", "verify", "--outputs", str(outputs), width=300)
    assert done.returncode == 1
    assert MINE.key in done.stdout
    assert "4 artefacts verified, 1 damaged" in done.stdout
