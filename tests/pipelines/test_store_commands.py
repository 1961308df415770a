"""`luq store`: what is kept, what no record needs, and what is damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from luq.config import Float16Tier, LayerTiers
from luq.models.vlm import VLM, hold_loaded
from luq.quantization.artefacts import PackedLayer
from luq.store.store import Store
from pipelines import runs_folder
from pipelines.record import RunRecord, from_json
from tests.luq.formats.by_reference import SHARD, model_in, source_of
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


def test_what_a_killed_process_left_is_cleaned_too(outputs: Path) -> None:
    folder = outputs / "store" / "note"
    (folder / f".{MINE.key}.tmpabc").mkdir()
    (folder / f".{MINE.key}.tmpabc" / "a.txt").write_text("half")
    (folder / ".0123456789abcdef.partial.jsonl").write_text("{}")
    (folder / "fedcba9876543210").mkdir()  # its manifest was deleted, and then the process killed
    foreign = outputs / "store" / "parquet" / "default-0123456789abcdef"  # `datasets` writes so
    foreign.mkdir(parents=True)
    assert "3 unfinished" in luq("store", "du", "--outputs", str(outputs)).stdout
    luq("store", "clean", "--sweep", "two", "--yes", "--outputs", str(outputs))
    assert (folder / f".{MINE.key}.tmpabc").exists(), "it is of no sweep"
    luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert {path.name for path in folder.iterdir()} == {MINE.key, SHARED.key}
    assert foreign.exists()


@pytest.mark.parametrize("is_complete", [True, False])
def test_what_a_process_is_making_is_left_alone(outputs: Path, is_complete: bool) -> None:
    store = Store(outputs / "store")
    key = NOBODYS.key if is_complete else "0123456789abcdef"
    name = key if is_complete else f".{key}.tmpabc"
    folder = outputs / "store" / "note" / name
    folder.mkdir(exist_ok=True)
    with store.lock(f"note-{key}", "").acquire():
        done = luq("store", "clean", "--yes", "--outputs", str(outputs))
        assert done.returncode == 0
        assert "1 left alone" in done.stdout
        assert folder.exists()
    luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert not folder.exists()


def test_what_a_run_needs_that_finished_during_the_question_stays(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(question: str) -> bool:
        runs_folder.write(outputs, record("c", "three", [NOBODYS.label]))
        return True

    monkeypatch.setattr("click.confirm", answer)
    done = luq("store", "clean", "--outputs", str(outputs))
    assert done.returncode == 0
    assert "0 deleted" in done.stdout
    assert NOBODYS.label in present(outputs)


def test_a_run_counts_for_every_sweep_that_notes_it(outputs: Path) -> None:
    runs_folder.note(outputs, "two", "a", "a")
    luq("store", "clean", "--sweep", "one", "--yes", "--outputs", str(outputs))
    assert MINE.label in present(outputs)


def test_artefacts_of_another_version_go_unless_a_record_needs_them(outputs: Path) -> None:
    folder = outputs / "store" / "old" / "0123456789abcdef"
    folder.mkdir(parents=True)
    manifest = {"stage": "old", "key": folder.name, "files": {}}  # it does not say what it needs
    (folder / "manifest.json").write_text(json.dumps(manifest))
    runs_folder.write(outputs, record("a", "one", [MINE.label, f"old/{folder.name}"]))
    luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert folder.exists()
    runs_folder.write(outputs, record("a", "one", [MINE.label]))
    luq("store", "clean", "--yes", "--outputs", str(outputs))
    assert not folder.exists()


def test_a_sweep_without_records_is_answered_with_the_nearest(outputs: Path) -> None:
    done = luq("store", "clean", "--sweep", "onne", "--yes", "--outputs", str(outputs))
    assert done.returncode == 1
    assert "did you mean one" in done.stderr


@pytest.mark.parametrize("command", ["du", "clean", "verify"])
def test_a_mistyped_outputs_folder_is_said_and_not_made(tmp_path: Path, command: str) -> None:
    done = luq("store", command, "--outputs", str(tmp_path / "typo"))
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"files": {"a.txt": 3}}', '{"files": {"a.txt": {}}}', '{"files": {}, "needs": 3}'],
)
def test_a_manifest_that_cannot_be_read_is_reported(outputs: Path, content: str) -> None:
    (Store(outputs / "store").folder(MINE) / "manifest.json").write_text(content)
    for command in (["du"], ["clean", "--yes"]):
        done = luq("store", *command, "--outputs", str(outputs), width=300)
        assert done.returncode == 0
        assert MINE.key in done.stdout
    assert MINE.label in present(outputs)


def test_all_that_is_damaged_is_named(outputs: Path) -> None:
    store = Store(outputs / "store")
    (store.folder(MINE) / "a.txt").unlink()
    (store.folder(THEIRS) / "manifest.json").write_text('{"files": {"a.txt": 3}}')
    done = luq("store", "verify", "--outputs", str(outputs), width=300)
    assert done.returncode == 1
    assert MINE.key in done.stdout
    assert THEIRS.key in done.stdout
    assert "4 artefacts verified, 2 damaged" in done.stdout


@pytest.fixture
def referring(vlm: VLM, outputs: Path) -> Path:
    """A checkpoint's folder, to which a 16-bit layer of the store refers."""
    model = model_in(outputs / "model")
    store = Store(outputs / "store")
    source = source_of(model)
    hold_loaded(store.tools, source, vlm)
    layer = PackedLayer(source, 3, LayerTiers(Float16Tier()))
    assert sum(file.stat().st_size for file in store.get(layer).folder.iterdir()) < 6000
    made = record("c", "one", [layer.label])
    config = replace(made.config, model=source.config)
    runs_folder.write(outputs, replace(made, config=config, model_fingerprint=source.digest))
    return model


def test_a_checkpoint_that_layers_refer_to_is_verified(outputs: Path, referring: Path) -> None:
    whole = luq("store", "verify", "--outputs", str(outputs), width=300)
    assert whole.returncode == 0
    assert "1 artefacts refer to weights of the checkpoint" in whole.stdout
    assert f"which is whole: {referring}" in whole.stdout
    weights = load_file(referring / SHARD)
    save_file({name: weight + 1 for name, weight in weights.items()}, referring / SHARD)
    changed = luq("store", "verify", "--outputs", str(outputs), width=300)
    assert changed.returncode == 1
    assert f"{referring} is another one. They cannot be read until it is back" in changed.stdout
    assert "5 artefacts verified, 0 damaged" in changed.stdout
    (referring / SHARD).unlink()
    gone = luq("store", "verify", "--outputs", str(outputs), width=300)
    assert gone.returncode == 1
    assert f"{SHARD} is missing" in gone.stdout


def test_without_a_record_nobody_knows_where_a_checkpoint_lies(
    outputs: Path, referring: Path
) -> None:
    runs_folder.record_file(outputs, "c").unlink()
    done = luq("store", "verify", "--outputs", str(outputs), width=300)
    assert done.returncode == 0
    assert "no record says where it lies" in done.stdout
