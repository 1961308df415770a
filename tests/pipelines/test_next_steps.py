"""What a person is told to type next works: it names runs and outputs that there are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from luq.config.paths import PathsConfig
from pipelines import runs_folder
from pipelines.next_steps import after_runs
from pipelines.record import RunRecord, from_json

GOLDEN = Path(__file__).parent.parent / "golden" / "records" / "schema_4.json"


def a_run(outputs: Path, key: str, score: float, size: int) -> RunRecord:
    record = from_json(json.loads(GOLDEN.read_text()))
    config = replace(record.config, paths=PathsConfig(str(outputs)))
    memory = replace(record.memory, checkpoint_bytes=size)
    record = replace(
        record, key=key, sweep="my group", mean_score=score, config=config, memory=memory
    )
    runs_folder.write(outputs, record)
    return record


def test_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUQ_OUTPUTS", str(tmp_path))
    steps = after_runs([a_run(tmp_path, "0123456789abcdef", 50.0, 10)])
    assert [step.command for step in steps] == [
        "luq report 'my group'",
        "luq export 01234567 DIR",
        "luq compare 01234567 KEY",
    ]


def test_of_several_the_best_and_the_smallest_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LUQ_OUTPUTS", raising=False)
    runs = [
        a_run(tmp_path, key, score, size)
        for key, score, size in (("a" * 16, 50.0, 9), ("b" * 16, 70.0, 5), ("c" * 16, 60.0, 7))
    ]
    commands = [step.command for step in after_runs(runs)]
    assert commands[1] == f"luq export bbbbbbbb DIR --outputs {tmp_path}"
    assert commands[2] == f"luq compare bbbbbbbb cccccccc --outputs {tmp_path}"
    for key in ("bbbbbbbb", "cccccccc"):
        assert runs_folder.find(tmp_path, key).key[:8] == key
