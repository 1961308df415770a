"""Records, notes of sweeps and failures on disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from luq.errors import ConfigError, StoreError
from pipelines import runs_folder
from pipelines.record import RunRecord, from_json
from pipelines.runs_folder import Failure

GOLDEN = Path(__file__).parent.parent / "golden" / "records"


@pytest.fixture
def record() -> RunRecord:
    return from_json(json.loads((GOLDEN / "schema_4.json").read_text()))


@pytest.fixture
def outputs(tmp_path: Path, record: RunRecord) -> Path:
    """Runs a1 and b2 in sweep one, a1 by another name in sweep two."""
    for key, sweep in (("a1", "one"), ("b2", "one"), ("a1", "two")):
        run = replace(record, key=key, sweep=sweep, name=f"{key} in {sweep}")
        runs_folder.write(tmp_path, run)
    return tmp_path


def test_records_by_key_and_by_sweep(outputs: Path) -> None:
    def names(sweep: str | None = None) -> list[str]:
        return [record.name for record in runs_folder.iterate(outputs, sweep)]

    assert [record.key for record in runs_folder.iterate(outputs)] == ["a1", "b2"]
    assert names("one") == ["a1 in one", "b2 in one"]
    assert names("two") == ["a1 in two"]
    assert names("three") == []
    assert {record.sweep for record in runs_folder.iterate(outputs, "one")} == {"one"}
    assert [record.key for record in runs_folder.iterate(outputs, skip={"a1"})] == ["b2"]


def test_a_record_of_schema_3_is_found_in_the_folder(tmp_path: Path) -> None:
    file = runs_folder.record_file(tmp_path, "864281e08c0f3dff")
    file.parent.mkdir(parents=True)
    file.write_text((GOLDEN / "schema_3.json").read_text())
    assert runs_folder.find(tmp_path, "8642").name == "luq_k4_text"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "holds no JSON object"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 4}', "record lacks key"),
    ],
)
def test_an_unreadable_record_is_named(outputs: Path, text: str, message: str) -> None:
    file = runs_folder.record_file(outputs, "a1")
    file.write_text(text)
    with pytest.raises(StoreError, match=rf"result\.json cannot be read .*{message}"):
        runs_folder.read(file)
    with pytest.raises(StoreError, match="a1"):
        list(runs_folder.iterate(outputs))
    problems: list[str] = []
    assert [r.key for r in runs_folder.iterate(outputs, None, problems)] == ["b2"]
    assert len(problems) == 1


def test_a_note_without_its_record_or_its_name_is_a_problem(outputs: Path) -> None:
    runs_folder.record_file(outputs, "a1").unlink()
    (outputs / "sweeps" / "one" / "b2.json").write_text("{}")
    problems: list[str] = []
    assert list(runs_folder.iterate(outputs, "one", problems)) == []
    assert "is missing" in problems[0]
    assert "cannot be read" in problems[1]


def test_a_record_is_found_by_its_name_in_a_sweep_or_by_its_key(outputs: Path) -> None:
    assert runs_folder.find(outputs, "one/b2 in one").key == "b2"
    assert runs_folder.find(outputs, "b").key == "b2"
    with pytest.raises(ConfigError, match="did you mean a1 in one"):
        runs_folder.find(outputs, "one/a1 in on")
    with pytest.raises(ConfigError, match=r"0 runs in .* begins with 'c'"):
        runs_folder.find(outputs, "c")
    with pytest.raises(ConfigError, match="0 runs in"):
        runs_folder.find(outputs, "*")
    with pytest.raises(ConfigError, match="2 runs in"):
        runs_folder.find(outputs, "")


def test_a_success_clears_the_failure(tmp_path: Path) -> None:
    entry = Failure("k", "luq_k9", "demo", "DataError", "no images", "Traceback ...")
    runs_folder.write_failure(tmp_path, entry)
    assert runs_folder.failure(tmp_path, "k") == entry
    assert entry.log == "logs/k.log"
    runs_folder.clear_failure(tmp_path, "k")
    runs_folder.clear_failure(tmp_path, "k")
    assert runs_folder.failure(tmp_path, "k") is None
    assert list((tmp_path / "failed").iterdir()) == []


def test_failures_are_those_of_a_sweep_or_of_all(tmp_path: Path) -> None:
    for key, sweep in (("k1", "demo"), ("k2", "other")):
        runs_folder.write_failure(tmp_path, Failure(key, key, sweep, "DataError", ""))
    assert [entry.key for entry in runs_folder.failures(tmp_path)] == ["k1", "k2"]
    assert [entry.key for entry in runs_folder.failures(tmp_path, "demo")] == ["k1"]
    (tmp_path / "failed" / "k1.json").write_text("[]")
    with pytest.raises(StoreError, match=r"k1\.json cannot be read"):
        runs_folder.failures(tmp_path)
    problems: list[str] = []
    assert [entry.key for entry in runs_folder.failures(tmp_path, None, problems)] == ["k2"]
    assert len(problems) == 1


def test_a_run_is_found_by_what_differs_within_its_sweep(tmp_path: Path, record: RunRecord) -> None:
    for key, k in (("a1", 2), ("b2", 4)):
        name = f"profile.tokens=512 allocation.k={k}"
        runs_folder.write(tmp_path, replace(record, key=key, sweep="mine", name=name))
    assert runs_folder.find(tmp_path, "mine/allocation.k=4").key == "b2"
    assert runs_folder.find(tmp_path, "mine/profile.tokens=512 allocation.k=4").key == "b2"
    with pytest.raises(ConfigError, match=r"did you mean allocation\.k="):
        runs_folder.find(tmp_path, "mine/allocation.k=5")


def test_of_two_runs_of_one_name_the_latest_is_found(tmp_path: Path, record: RunRecord) -> None:
    for key, finished in (("a1", 2.0), ("b2", 1.0)):
        run = replace(record, key=key, sweep="mine", name="luq_k4", finished=finished)
        runs_folder.write(tmp_path, run)
    assert runs_folder.find(tmp_path, "mine/luq_k4").key == "a1"
